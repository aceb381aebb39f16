"""Images that a user asks about: files of any kind, or images of a prepared dataset by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdssl.data.dataset import SPLITS, Dataset, open_dataset
from mdssl.data.images import convert
from mdssl.data.local_copy import ensure_local
from mdssl.data.sources.base import RawImage
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.neighbors.search import Picture, split_to_search
from mdssl.evaluate.sampling import sample_rows
from mdssl.storage.location import Location

OF_EACH = 4
"""Images that ``DATASET:test`` or ``DATASET:train`` stands for."""
_OF_DATASET = re.compile(r"(?P<name>[^:/]+):(?P<split>[^:/]*)(:(?P<row>[^:/]*))?")
_ALLOWED = (
    "allowed: a file, DATASET:test or DATASET:train for a few images of a prepared dataset, or DATASET:test:ROW or "
    "DATASET:train:ROW for one."
)


def query_pictures(asked: Sequence[str], like: Dataset, *, data: str, seed: int = 0) -> list[Picture]:
    """The images that ``asked`` names, in this order.

    Args:
        asked: paths or URIs of image files (see `mdssl.data.images` for what becomes of the less usual kinds),
            ``DATASET:SPLIT`` for a few images of different classes, or ``DATASET:SPLIT:ROW``.
        like: all are brought to its images' size, by its resize filter.
        data: folder or bucket of prepared datasets.
        seed: of which images ``DATASET:SPLIT`` means.

    Raises:
        ValueError: no such file, or none that is an image; no such dataset, split or row.
    """
    return [picture for text in asked for picture in _pictures(text, like, data, seed)]


def _pictures(text: str, like: Dataset, data: str, seed: int) -> list[Picture]:
    if not Path(text).exists() and (found := _OF_DATASET.fullmatch(text)):
        return _of_dataset(found["name"], found["split"], found["row"], like, data, seed)
    try:
        raw = Location.of(text).read_bytes()
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"image {text!r} cannot be read: {why}; {_ALLOWED}") from error
    return [Picture(text, "", -1, "", _like(raw, like, repr(text)))]


def _of_dataset(name: str, split: str, row: str | None, like: Dataset, data: str, seed: int) -> list[Picture]:
    check_name("split", split, SPLITS)
    dataset = open_dataset(ensure_local(data, [name], progress=True), name)
    part = split_to_search(dataset, split)
    if not len(part.labels):
        raise InputError(f"dataset {name!r} has no {split} images; name other images, such as {name}:train.")
    rows = sample_rows(name, split, part.labels, OF_EACH, seed=seed)
    if row is not None:
        if not re.fullmatch(r"-?[0-9]+", row):
            raise InputError(f"row {row!r} of {name}:{split} is no number; {_ALLOWED}")
        check_number(f"row of {name}:{split}", int(row), low=0, high=len(part.labels) - 1)
        rows = [int(row)]
    return [
        Picture(
            name,
            split,
            int(row),
            dataset.classes[part.labels[row]] if dataset.classes else "",
            _like(part.images[row], like, f"{name}:{split}:{row}"),
        )
        for row in rows
    ]


def _like(raw: RawImage, like: Dataset, where: str) -> np.ndarray:
    return convert(raw, like.image_size, like.meta["resize_filter"], where)
