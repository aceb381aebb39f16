"""The Parquet file of embeddings, and the parts that an interrupted run leaves for the next one.

    cells.parquet.parts/000000.parquet      consecutive images; each part appears whole
    cells.parquet                           all parts, joined after the last one; then the parts are deleted

The metadata of a part identifies its images, down to size and modification time, so that the next run makes only the
parts that are missing or whose images have changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from mdssl.errors import InputError
from mdssl.export.images import ImagesToEmbed
from mdssl.storage.filesystems import OBJECT_STORES
from mdssl.storage.location import Location
from mdssl.storage.ownership import files_in
from mdssl.storage.retry import retry

ABOUT = b"mdssl"
"""Metadata key: JSON that describes the embeddings."""
_IMAGES, _SKIPPED = b"mdssl.images", b"mdssl.skipped"
PIXELS, FEWEST, MOST = 2**22, 256, 2048
"""Pixels of a part, and its smallest and largest number of images. An interrupted run loses at most one part."""


class Parts:
    """The parts of one output file.

    Args:
        output: the final file.
        about: description of the embeddings as JSON values: encoder, layer, preparation of the images.
        images: the images.
        size: height and width of an image in pixels.
        skip_damaged: whether the output and finished parts may lack images that cannot be decoded.

    Raises:
        ValueError: the folder has parts of another run.
        OSError: the folder cannot be read.
    """

    def __init__(
        self, output: Location, about: Mapping[str, Any], images: ImagesToEmbed, *, size: int, skip_damaged: bool
    ) -> None:
        self.output = output
        self.folder = output.parent / f"{output.name}.parts"
        self.about = json.dumps(about, sort_keys=True).encode()
        self.images = images
        self.skip_damaged = skip_damaged
        part_rows = min(max(PIXELS // size**2, FEWEST), MOST)
        starts = range(0, len(images), part_rows)
        self.rows = [np.arange(start, min(start + part_rows, len(images))) for start in starts]
        # The pixels of a grey image of more than 8 bits depend on the other images.
        bits = f" {images.bits} bits" if images.bits else ""
        self._digests = [_digest(f"{images.state(rows)}{bits}".encode()) for rows in self.rows]
        there = set(self.folder.names())
        self.missing = [
            number
            for number in range(len(self.rows))
            if self._file(number).name not in there or not self._is_done(number)
        ]

    def is_complete(self) -> bool:
        """Whether the output exists with these embeddings.

        Raises:
            ValueError: it exists with other content, or lacks damaged images that must not be left out.
        """
        metadata = _read_metadata(self.output)
        if metadata is None:
            return False
        if metadata.get(ABOUT) != self.about or metadata.get(_IMAGES) != self._whole_digest():
            raise InputError(
                f"{self.output} exists with other images, another encoder or other settings. Delete it, or give "
                "another --output."
            )
        if not self.skip_damaged and (skipped := json.loads(metadata[_SKIPPED])):
            raise InputError(
                f"{self.output} exists without {len(skipped):,} damaged images, such as {next(iter(skipped))}. Keep it "
                "with --skip-damaged, or delete it to embed all images."
            )
        return True

    def write(self, number: int, rows: np.ndarray, embeddings: np.ndarray, skipped: Mapping[str, str]) -> None:
        """Write part ``number``.

        Args:
            rows: (M,) images of the part that could be decoded.
            embeddings: (M, width) float32.
            skipped: for each other image of the part, its name and the error.
        """
        flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
        table = pa.table(self.images.columns(rows) | {"embedding": vectors})
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(self._metadata(self._digests[number], skipped)), buffer)
        self._file(number).write_bytes(buffer.getvalue())

    def join(self) -> tuple[int, dict[str, str]]:
        """Join all parts into the output, and delete them.

        Returns:
            The number of rows, and name and error of each image that has none.

        Raises:
            ValueError: no image could be decoded; or another process has joined the parts.
        """
        metadata = [each for number in range(len(self.rows)) if (each := _read_metadata(self._file(number)))]
        if len(metadata) < len(self.rows):
            raise InputError(
                f"another process has joined the parts in {self.folder}. Run the same command to continue."
            )
        skipped = {name: error for each in metadata for name, error in json.loads(each[_SKIPPED]).items()}
        if len(skipped) == len(self.images):
            raise InputError(f"no image of {self.images.name} can be decoded: {next(iter(skipped.values()))}")
        if self.output.is_local:
            # A link stays a link; its target is replaced.
            target = Path(os.path.realpath(self.output.path))
            temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                rows = self._join_to(temporary, skipped)
                # Another process may have written the file in the meantime.
                self.is_complete()
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                rows = self._join_to(Path(folder) / "joined", skipped)
                retry(self.output.uri, lambda: _upload(Path(folder) / "joined", self.output), is_local=False)
        self.delete_parts()
        return rows, skipped

    def delete_parts(self) -> None:
        """Delete the parts that are there."""
        own = {self._file(number).name for number in range(len(self.rows))}
        for name in own.intersection(self.folder.names()):
            (self.folder / name).delete()
        if self.folder.is_local:
            with suppress(OSError):
                os.rmdir(self.folder.path)
        elif not files_in(self.folder):
            # The object that represents an empty folder in a bucket.
            self.folder.delete()

    def _join_to(self, file: Path, skipped: Mapping[str, str]) -> int:
        metadata = self._metadata(self._whole_digest(), skipped)
        rows = 0
        writer: pq.ParquetWriter | None = None
        with open(file, "wb") as sink:
            for number in range(len(self.rows)):
                part = pq.read_table(pa.BufferReader(self._file(number).read_bytes()))
                if not len(part):
                    continue
                table = part.replace_schema_metadata(metadata)
                writer = writer or pq.ParquetWriter(sink, table.schema)
                writer.write_table(table)
                rows += len(table)
            assert writer is not None  # `join` has refused images of which none could be decoded
            writer.close()
            sink.flush()
            os.fsync(sink.fileno())
        return rows

    def _is_done(self, number: int) -> bool:
        metadata = _read_metadata(self._file(number)) or {}
        if metadata.get(ABOUT) != self.about:
            raise InputError(
                f"{self.folder} contains parts of a run with another encoder, other settings or other files. Finish "
                "that run, move the folder away, or give another --output."
            )
        is_whole = self.skip_damaged or metadata[_SKIPPED] == b"{}"
        return is_whole and metadata[_IMAGES] == self._digests[number]

    def _metadata(self, images: bytes, skipped: Mapping[str, str]) -> dict[bytes, bytes]:
        return {ABOUT: self.about, _IMAGES: images, _SKIPPED: json.dumps(dict(skipped)).encode()}

    def _file(self, number: int) -> Location:
        return self.folder / f"{number:06d}.parquet"

    def _whole_digest(self) -> bytes:
        return _digest(b"".join(self._digests))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _read_metadata(file: Location) -> dict[bytes, bytes] | None:
    """Return the metadata of a Parquet file, empty for another kind of file; None if it does not exist."""

    def read() -> dict[bytes, bytes]:
        with file.filesystem.open_input_file(file.path) as opened:
            return pq.read_schema(opened).metadata or {}

    try:
        return retry(file.uri, read, is_local=file.is_local)
    except FileNotFoundError:
        return None
    except pa.ArrowInvalid:
        return {}


def _upload(file: Path, output: Location) -> None:
    """Upload ``file`` atomically: objects are, and on other filesystems it is written under a hidden name first."""
    is_object = output.filesystem.type_name in OBJECT_STORES
    target = output if is_object else output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}.tmp"
    local = pyarrow.fs.LocalFileSystem()
    pyarrow.fs.copy_files(str(file), target.path, source_filesystem=local, destination_filesystem=output.filesystem)
    if not is_object:
        output.filesystem.move(target.path, output.path)
