"""Write the arrays of a prepared dataset, with digests of its images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mdssl.data.dataset import ROWS_AT_A_TIME, SPLITS, Fingerprint
from mdssl.data.decode import Converted
from mdssl.data.sources.base import Part
from mdssl.errors import InputError


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
        """Count test images with the pixels of a training image, and training images with the pixels of another one."""
        train = [digest for name, content in self.contents.items() if name != "test" for digest in content.digests]
        distinct = set(train)
        in_train = sum(digest in distinct for digest in self.contents["test"].digests)
        return {"test_in_train": in_train, "within_train": len(train) - len(distinct)}


def write_arrays(
    folder: Path,
    parts: dict[str, Part],
    num_classes: int,
    size: int,
    decode: Callable[[str, Part], Iterator[Converted]],
) -> Written:
    """Write ``images.npy`` and ``labels.npy`` of ``train`` and ``test`` into ``folder``.

    Args:
        folder: the folder of the dataset.
        parts: ``train``, ``test`` and optionally ``unlabelled``, which follows train in ``images.npy``.
        num_classes: for the counts by class.
        size: height and width of the images.
        decode: yields the images of a part in chunks, given its name and the part.
    """
    written = Written()
    for split in SPLITS:
        names = [split, *(name for name in parts if name not in SPLITS and split == "train")]
        _write_split(folder / split, {name: parts[name] for name in names}, num_classes, size, decode, written)
    return written


def _write_split(
    folder: Path,
    parts: dict[str, Part],
    num_classes: int,
    size: int,
    decode: Callable[[str, Part], Iterator[Converted]],
    written: Written,
) -> None:
    folder.mkdir()
    labels = {}
    # Appended, not written through a memory map: with that, a full disk would end the process instead of raising.
    with open(folder / "images.npy", "w+b") as file:
        _write_header(file, sum(map(len, parts.values())), size)
        begin = file.tell()
        for name, part in parts.items():
            content, is_good, first = Content(), np.ones(len(part), dtype=bool), 0
            for images, errors, notes in decode(name, part):
                written.notes.update(notes)
                file.write(images.data)
                content.update(images)
                is_good[[first + place for place in errors]] = False
                written.damaged += errors.values()
                first += len(images) + len(errors)
            labels[name] = part.labels[is_good]
            written.contents[name] = content
        file.seek(0)
        _write_header(file, sum(map(len, labels.values())), size)
        _to_disk(file)
        file.seek(begin)
        for name, own in labels.items():
            fingerprint = Fingerprint(len(own), size)
            for start in range(0, len(own), ROWS_AT_A_TIME):
                count = min(ROWS_AT_A_TIME, len(own) - start)
                fingerprint.update(np.frombuffer(file.read(count * size * size * 3), dtype=np.uint8))
            if name == folder.name:
                fingerprint.update(own)
            written.splits[name] = {"count": len(own), "sha256": fingerprint.hexdigest()}
    own = labels[folder.name]
    with open(folder / "labels.npy", "wb") as file:
        np.save(file, own)
        _to_disk(file)
    written.splits[folder.name]["per_class"] = np.bincount(own, minlength=num_classes).tolist()
    written.contents[folder.name].labels = own


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    """Write the header of ``images.npy``, which has the same length for every ``count``."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
