"""The arrays of a prepared dataset as they are written, and what tells their images apart from others."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mdssl.data.convert import Converted
from mdssl.data.dataset import Fingerprint
from mdssl.data.sources.base import Part
from mdssl.errors import InputError

_ROWS_AT_A_TIME = 4096


class Content:
    """The pixels and labels of some images, whatever their order, fed chunk by chunk.

    Attributes:
        digests: 16 bytes for each image.
        labels: int64 (N,), to be set before `hexdigest`.
    """

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.labels = np.empty(0, dtype=np.int64)

    def update(self, images: np.ndarray) -> None:
        """Take the next images, uint8 (n, S, S, 3)."""
        self.digests += [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]

    def hexdigest(self) -> str:
        """64 hex digits that stand for the pairs of image and label in any order."""
        labels = (int(label).to_bytes(8, "little") for label in self.labels)
        pairs = sorted(digest + label for digest, label in zip(self.digests, labels, strict=True))
        return hashlib.sha256(b"".join(pairs)).hexdigest()


def write_split(
    folder: Path,
    parts: dict[str, Part],
    classes: tuple[str, ...],
    size: int,
    streams: dict[str, Iterator[Converted]],
    written: dict[str, dict],
    contents: dict[str, Content],
    notes: Counter[str],
) -> list[InputError]:
    """Write ``images.npy`` and ``labels.npy`` of a split; returns what is wrong with images that are left out.

    Args:
        folder: the folder of the split, by its name and not there yet.
        parts: the split by its name, and maybe the unlabelled images that follow it in ``images.npy``.
        classes: for the counts by class.
        size: height and width of the images.
        streams: by part, its images in chunks.
        written: gets what ``meta.json`` says of each part.
        contents: gets the contents of each part.
        notes: gets what the chunks note.
    """
    folder.mkdir()
    errors: list[InputError] = []
    labels = {}
    # Appended, not written through a memory map, in which a full disk would end the process instead of raising.
    with open(folder / "images.npy", "w+b") as file:
        _write_header(file, sum(len(part.labels) for part in parts.values()), size)
        begins = file.tell()
        for name, chunks in streams.items():
            contents[name], taken, first = Content(), np.ones(len(parts[name].labels), dtype=bool), 0
            for images, wrong, noted in chunks:
                notes.update(noted)
                file.write(images.data)
                contents[name].update(images)
                taken[[first + place for place in wrong]] = False
                errors += wrong.values()
                first += len(images) + len(wrong)
            labels[name] = parts[name].labels[taken]
        if errors:
            file.seek(0)
            _write_header(file, sum(map(len, labels.values())), size)
        _to_disk(file)
        file.seek(begins)
        for name, own in labels.items():
            fingerprint = Fingerprint(len(own), size)
            for start in range(0, len(own), _ROWS_AT_A_TIME):
                fingerprint.update(_read_images(file, min(_ROWS_AT_A_TIME, len(own) - start), size))
            if name == folder.name:
                fingerprint.update(own)
            written[name] = {"count": len(own), "sha256": fingerprint.hexdigest()}
    with open(folder / "labels.npy", "wb") as file:
        np.save(file, labels[folder.name])
        _to_disk(file)
    written[folder.name]["per_class"] = np.bincount(labels[folder.name], minlength=len(classes)).tolist()
    contents[folder.name].labels = labels[folder.name]
    return errors


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    """Of ``images.npy``; as long for every ``count``."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_images(file: BinaryIO, count: int, size: int) -> np.ndarray:
    return np.frombuffer(file.read(count * size * size * 3), dtype=np.uint8)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def same_pixels(contents: Mapping[str, Content]) -> dict[str, int]:
    """How many images have the pixels of another: test images of a training image, and training images."""
    train = [digest for name, content in contents.items() if name != "test" for digest in content.digests]
    distinct = set(train)
    in_train = sum(digest in distinct for digest in contents["test"].digests)
    return {"test_in_train": in_train, "within_train": len(train) - len(distinct)}
