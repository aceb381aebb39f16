"""The Parquet file of embeddings, and the parts that it is made of while the work goes on.

    cells.parquet.parts/000000.parquet      the images in order, so and so many of them a part; each appears whole
    cells.parquet                           all parts, when the last of them is there, and then they are deleted

A part says of which images it is, down to their size and time of writing, so that the next run makes those parts that
are missing, and those whose images have changed.
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
from mdssl.export.images_to_embed import ImagesToEmbed
from mdssl.storage.filesystems import OBJECT_STORES
from mdssl.storage.location import Location
from mdssl.storage.ownership import files_in
from mdssl.storage.retry import retry

ABOUT = b"mdssl"
"""Key of the files' metadata: JSON, what the embeddings are."""
_IMAGES, _SKIPPED = b"mdssl.images", b"mdssl.skipped"
_PIXELS, _FEWEST, _MOST = 2**22, 256, 2048
"""In a part: pixels, unless that is fewer or more images than these. It is what an interrupted run encodes again."""


class Parts:
    """The parts of one output.

    Args:
        output: the file to be.
        about: what the embeddings are, ready for JSON: encoder, layer, how images were prepared.
        images: what they are of.
        size: height and width of an image in pixels.
        skip_damaged: whether parts may lack images that cannot be decoded.

    Raises:
        ValueError: the folder holds parts that are something else.
    """

    def __init__(
        self, output: Location, about: Mapping[str, Any], images: ImagesToEmbed, *, size: int, skip_damaged: bool
    ) -> None:
        self.output = output
        self.folder = output.parent / f"{output.name}.parts"
        self.about = json.dumps(about, sort_keys=True)
        self.images = images
        self.rows = min(max(_PIXELS // size**2, _FEWEST), _MOST)
        self.count = -(-len(images) // self.rows)
        self._digests = [self._digest_of(number) for number in range(self.count)]
        self.done = self._found(skip_damaged)

    def rows_of(self, number: int) -> np.ndarray:
        return np.arange(number * self.rows, min((number + 1) * self.rows, len(self.images)))

    def is_complete(self) -> bool:
        """Whether the output is there, and is what was asked for.

        Raises:
            ValueError: it is there, and is something else.
        """
        if not self.output.exists():
            return False
        metadata = _metadata_of(self.output)
        if metadata is None or metadata.get(ABOUT) != self.about.encode() or metadata[_IMAGES] != self._whole_digest():
            raise InputError(
                f"{self.output} is there already, of other images, another encoder or other settings. Delete it, or "
                "give another --output."
            )
        return True

    def write(self, number: int, rows: np.ndarray, embeddings: np.ndarray, skipped: Mapping[str, str]) -> None:
        """Write part ``number``: ``embeddings`` (M, width) float32 of ``rows`` (M,), and what is wrong with its others.

        Args:
            skipped: by the place of an image, the message.
        """
        columns = {
            name: pa.array(values, self.images.key_types[name]) for name, values in self.images.keys(rows).items()
        }
        if self.images.has_labels:
            columns["label"] = pa.array(self.images.label_names(rows), pa.string())
        flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
        metadata = {ABOUT: self.about, _IMAGES: self._digests[number], _SKIPPED: json.dumps(dict(skipped))}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
        self._file(number).write_bytes(buffer.getvalue())

    def join(self) -> tuple[int, dict[str, str]]:
        """Make the output of all parts, and delete them.

        Returns:
            The number of its rows, and by place what was wrong with the images that are not in it.

        Raises:
            ValueError: not one image could be decoded.
        """
        metadata = [_metadata_of(self._file(number)) for number in range(self.count)]
        skipped = {place: why for each in metadata for place, why in json.loads(each[_SKIPPED]).items()}
        if len(skipped) == len(self.images):
            raise InputError(f"no image of {self.images.name} can be decoded: {next(iter(skipped.values()))}")
        if self.output.is_local:
            # Where a link leads, which stays a link.
            target = Path(os.path.realpath(self.output.path))
            temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                rows = self._join_to(temporary, skipped)
                # Somebody may have put a file there meanwhile.
                self.is_complete()
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        else:
            with tempfile.TemporaryDirectory() as folder:
                rows = self._join_to(Path(folder) / "joined", skipped)
                _upload(Path(folder) / "joined", self.output)
        for number in range(self.count):
            self._file(number).delete()
        if self.folder.is_local:
            with suppress(OSError):
                os.rmdir(self.folder.path)
        elif not files_in(self.folder):
            # What stands for an empty folder in a bucket.
            self.folder.delete()
        return rows, skipped

    def _join_to(self, file: Path, skipped: Mapping[str, str]) -> int:
        metadata = {ABOUT: self.about, _IMAGES: self._whole_digest(), _SKIPPED: json.dumps(dict(skipped))}
        rows, writer = 0, None
        with open(file, "wb") as sink:
            for number in range(self.count):
                part = pq.read_table(pa.BufferReader(self._file(number).read_bytes()))
                if not len(part):
                    continue
                table = part.replace_schema_metadata(metadata)
                writer = writer or pq.ParquetWriter(sink, table.schema)
                writer.write_table(table)
                rows += len(table)
            writer.close()
            sink.flush()
            os.fsync(sink.fileno())
        return rows

    def _found(self, skip_damaged: bool) -> set[int]:
        done = set()
        for number in range(self.count) if self.folder.exists() else ():
            metadata = _metadata_of(self._file(number))
            if metadata is None and not self._file(number).exists():
                continue
            if metadata is None or metadata.get(ABOUT) != self.about.encode():
                raise InputError(
                    f"{self.folder} holds parts that are not of this run: another encoder, other settings, or other "
                    "files. Go on with that run, move the folder away, or give another --output."
                )
            whole = skip_damaged or metadata[_SKIPPED] == b"{}"
            if whole and metadata[_IMAGES] == self._digests[number]:
                done.add(number)
        return done

    def _file(self, number: int) -> Location:
        return self.folder / f"{number:06d}.parquet"

    def _digest_of(self, number: int) -> bytes:
        return hashlib.sha256(self.images.state(self.rows_of(number)).encode()).hexdigest().encode()

    def _whole_digest(self) -> bytes:
        return hashlib.sha256(b"".join(self._digests)).hexdigest().encode()


def _metadata_of(file: Location) -> dict[bytes, bytes] | None:
    """None where there is no file, or none that is Parquet."""

    def read() -> dict[bytes, bytes] | None:
        with file.filesystem.open_input_file(file.path) as opened:
            try:
                return pq.read_schema(opened).metadata or {}
            except pa.ArrowInvalid:
                return None
            except OSError as error:
                if "thrift" in str(error):  # a damaged footer; no other error of the storage says so
                    return None
                raise

    try:
        return retry(file.uri, read, is_local=file.is_local)
    except FileNotFoundError:
        return None


def _upload(file: Path, output: Location) -> None:
    """An object appears when all of it is there; elsewhere it goes to a hidden name first."""
    local, is_object = pyarrow.fs.LocalFileSystem(), output.filesystem.type_name in OBJECT_STORES
    target = output if is_object else output.parent / f".{output.name}.{uuid.uuid4().hex[:8]}.tmp"

    def upload() -> None:
        pyarrow.fs.copy_files(str(file), target.path, source_filesystem=local, destination_filesystem=output.filesystem)
        if not is_object:
            output.filesystem.move(target.path, output.path)

    retry(output.uri, upload, is_local=False)
