"""Write the arrays of a prepared dataset, with digests of its images; continue where an interrupted run has stopped."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mdssl.data.dataset import ROWS_AT_A_TIME, SPLITS, new_fingerprint
from mdssl.data.decode import Converted
from mdssl.data.sources.base import Part
from mdssl.errors import InputError

Kept = Callable[[str], Converted | None]
Decode = Callable[[str, Part, Kept], Iterator[Converted]]
"""Yields the images of a part in chunks, given its name, the part, and `Journal.kept`."""


class Content:
    """A digest of images and labels that does not depend on their order.

    Attributes:
        digests: 16 bytes for each image.
        labels: int64 (N,), set before `hexdigest`.
    """

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.labels = np.empty(0, dtype=np.int64)

    def update(self, images: np.ndarray) -> None:
        """Add the next images, uint8 (n, S, S, 3)."""
        self.digests += [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]

    def hexdigest(self) -> str:
        """64 hex digits for the pairs of image and label in any order."""
        labels = (int(label).to_bytes(8, "little") for label in self.labels)
        pairs = sorted(digest + label for digest, label in zip(self.digests, labels, strict=True))
        return hashlib.sha256(b"".join(pairs)).hexdigest()


@dataclass
class Written:
    """The written arrays, as ``meta.json`` describes them.

    Attributes:
        splits: part -> ``count``, ``sha256`` and, for splits, ``per_class``.
        contents: part -> its `Content`.
        damaged: errors of images that are left out.
        notes: counts of the decoder, see `mdssl.data.decode.convert`.
    """

    splits: dict[str, dict] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    damaged: list[InputError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def same_pixels(self) -> dict[str, int]:
        """Count test images with the pixels of a training image, and copies: of k equal training images, k - 1."""
        train = [digest for name, content in self.contents.items() if name != "test" for digest in content.digests]
        distinct = set(train)
        in_train = sum(digest in distinct for digest in self.contents["test"].digests)
        return {"test_in_train": in_train, "within_train": len(train) - len(distinct)}


class Journal:
    """A file beside ``images.npy`` with a line for each chunk that is written.

    A line has the key of the chunk, its errors and notes, and a checksum over these and its images. So the next run can
    take over each chunk from the first on, until one is damaged or was made of other images or settings.

    Args:
        lines: the file of the journal, at its start.
        images: ``images.npy``, behind its header.
        size: height and width of the images.
    """

    def __init__(self, lines: BinaryIO, images: BinaryIO, size: int) -> None:
        self._lines, self._images, self._shape = lines, images, (-1, size, size, 3)

    def kept(self, key: str) -> Converted | None:
        """Return the next chunk if it has this key and is not damaged; if not, delete all from there on."""
        files = (self._lines, self._images)
        places = [file.tell() for file in files]
        checksum, _, text = self._lines.readline().partition(b" ")
        try:
            record = json.loads(text)
            if record["key"] == key:
                images = self._images.read(record["bytes"])
                if int(checksum, 16) == zlib.crc32(text, zlib.crc32(images)):
                    errors = {int(place): InputError(error) for place, error in record["errors"].items()}
                    pixels = np.frombuffer(images, np.uint8).reshape(self._shape)
                    return Converted(pixels, errors, Counter(record["notes"]), key, is_new=False)
        except (ValueError, KeyError, TypeError):
            pass  # A line that was cut off or damaged.
        for file, place in zip(files, places, strict=True):
            file.truncate(place)
            file.seek(place)
        return None

    def write(self, chunk: Converted) -> None:
        """Write a new chunk."""
        errors = {place: str(error) for place, error in chunk.errors.items()}
        record = {"key": chunk.key, "bytes": chunk.images.nbytes, "errors": errors, "notes": chunk.notes}
        text = f"{json.dumps(record)}\n".encode()
        # The images first: a line is there only if they are.
        self._images.write(chunk.images.data)
        self._images.flush()
        self._lines.write(b"%08x %b" % (zlib.crc32(text, zlib.crc32(chunk.images.data)), text))
        self._lines.flush()


def write_arrays(folder: Path, parts: dict[str, Part], num_classes: int, size: int, decode: Decode) -> Written:
    """Write ``images.npy`` and ``labels.npy`` of ``train`` and ``test`` into ``folder``.

    Args:
        folder: the folder of the dataset. It is empty, or has what an interrupted run left, which is continued.
        parts: ``train``, ``test`` and optionally ``unlabelled``, which follows train in ``images.npy``.
        num_classes: for the counts by class.
        size: height and width of the images.
        decode: see `Decode`.
    """
    written = Written()
    for split in SPLITS:
        names = [split, *(name for name in parts if name not in SPLITS and split == "train")]
        _write_split(folder / split, {name: parts[name] for name in names}, num_classes, size, decode, written)
    return written


def _write_split(
    folder: Path, parts: dict[str, Part], num_classes: int, size: int, decode: Decode, written: Written
) -> None:
    folder.mkdir(exist_ok=True)
    labels = {}
    # Appended, not written through a memory map: with that, a full disk would end the process instead of raising.
    with _open(folder / "images.npy") as file, _open(folder / "decoded.jsonl") as lines:
        _write_header(file, sum(map(len, parts.values())), size)
        begin = file.tell()
        journal = Journal(lines, file, size)
        for name, part in parts.items():
            content, is_good, first = Content(), np.ones(len(part), dtype=bool), 0
            for chunk in decode(name, part, journal.kept):
                images, errors = chunk.images, chunk.errors
                if chunk.is_new:
                    journal.write(chunk)
                written.notes.update(chunk.notes)
                content.update(images)
                is_good[[first + place for place in errors]] = False
                written.damaged += errors.values()
                first += len(images) + len(errors)
            labels[name] = part.labels[is_good]
            written.contents[name] = content
        # The source may have fewer images than that of the interrupted run.
        file.truncate()
        file.seek(0)
        _write_header(file, sum(map(len, labels.values())), size)
        _to_disk(file)
        file.seek(begin)
        for name, own in labels.items():
            fingerprint = new_fingerprint(len(own), size)
            for start in range(0, len(own), ROWS_AT_A_TIME):
                count = min(ROWS_AT_A_TIME, len(own) - start)
                fingerprint.update(file.read(count * size * size * 3))
            if name == folder.name:
                fingerprint.update(own.data)
            written.splits[name] = {"count": len(own), "sha256": fingerprint.hexdigest()}
    own = labels[folder.name]
    with open(folder / "labels.npy", "wb") as file:
        np.save(file, own)
        _to_disk(file)
    written.splits[folder.name]["per_class"] = np.bincount(own, minlength=num_classes).tolist()
    written.contents[folder.name].labels = own


def _open(path: Path) -> BinaryIO:
    """Open a file to read and write from its start, and create it if it does not exist."""
    path.touch()
    return open(path, "r+b")


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    """Write the header of ``images.npy``, which has the same length for every ``count``."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
