"""Exact search of nearest images by cosine similarity, in a seeded sample of the training images of each domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from mdssl.data.dataset import Dataset, Split
from mdssl.evaluate.features import extract_features

_CHUNK_IMAGES = 1024
_CHUNK_NUMBERS = 2**24
"""Similarities that are sorted at once: 128 MiB."""


@dataclass(frozen=True)
class Picture:
    """An image and its origin.

    Attributes:
        source: dataset, or the file as the user named it.
        split, row: its place in the dataset; empty and -1 for a file.
        label: name of its class; empty if it is unknown.
        image: uint8 (S, S, 3).
    """

    source: str
    split: str
    row: int
    label: str
    image: np.ndarray

    @property
    def place(self) -> tuple[str, str, int]:
        return self.source, self.split, self.row

    @property
    def name(self) -> str:
        """``cifar10:test:17``, or the file."""
        return f"{self.source}:{self.split}:{self.row}" if self.split else self.source


@dataclass(frozen=True)
class Pictures:
    """Some images of one split of a dataset, with their directions in an encoder's feature space.

    Attributes:
        rows: (n,) indices into the split.
        directions: (n, width) float32, l2-normalized features.
    """

    dataset: Dataset
    split: str
    rows: np.ndarray
    directions: np.ndarray

    @cached_property
    def classes(self) -> list[str]:
        """The class name of each image; empty if the dataset has no labels."""
        if not self.dataset.classes:
            return [""] * len(self.rows)
        return [self.dataset.classes[label] for label in self._part.labels[self.rows]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Picture:
        row = int(self.rows[index])
        return Picture(self.dataset.name, self.split, row, self.classes[index], self._part.images[row])

    @cached_property
    def _part(self) -> Split:
        return split_to_search(self.dataset, self.split)


@dataclass(frozen=True)
class Match:
    """A query, its nearest images, nearest first, and their cosine similarities to it."""

    query: Picture
    neighbors: tuple[Picture, ...]
    similarities: tuple[float, ...]


def split_to_search(dataset: Dataset, split: str) -> Split:
    """Split ``train`` or ``test``. In a dataset without labels ``train`` has all images, and all labels are 0."""
    if dataset.classes or split != "train":
        return dataset.split(split)
    images = dataset.pretraining_images()
    return Split(images, np.zeros(len(images), dtype=np.int64), dataset.pretraining_fingerprint)


def directions(features: np.ndarray) -> np.ndarray:
    """(N, width) features, l2-normalized."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def encode_rows(
    model: nn.Module,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    layer: str = "encoder",
    device: str = "cpu",
    input_size: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """(n, width) `directions` of ``images[rows]``.

    Args:
        images: (N, S, S, 3) uint8; a memory map is fine.
        layer, device, input_size: as for `mdssl.evaluate.features.extract_features`.
        advance: is called with the number of images encoded since the last call.
    """
    parts = []
    for start in range(0, len(rows), _CHUNK_IMAGES):
        some = images[rows[start : start + _CHUNK_IMAGES]]
        parts.append(extract_features(model, some, layers=(layer,), device=device, input_size=input_size)[layer].cpu())
        advance(len(some))
    return directions(np.concatenate(parts))


def nearest(
    queries: Sequence[Picture], query_directions: np.ndarray, candidates: Sequence[Pictures], count: int
) -> list[Match]:
    """Return the ``count`` nearest of ``candidates`` for each query; among equally near ones, the earlier first.

    A query that is itself a candidate is not its own neighbor.

    Args:
        query_directions: (Q, width), l2-normalized.
    """
    every = np.concatenate([pictures.directions for pictures in candidates])
    begins = np.cumsum([0, *(len(pictures) for pictures in candidates)])
    chunk = max(1, _CHUNK_NUMBERS // len(every))
    matches = []
    for start in range(0, len(queries), chunk):
        similarity = np.clip(query_directions[start : start + chunk] @ every.T, -1, 1)
        # One more than requested, in case one of them is the query.
        order = np.argsort(-similarity, axis=1, kind="stable")[:, : count + 1]
        for query, row, indices in zip(queries[start : start + chunk], similarity, order, strict=True):
            owners = np.searchsorted(begins, indices, side="right") - 1
            found = [candidates[owner][index - begins[owner]] for owner, index in zip(owners, indices, strict=True)]
            others = [at for at, picture in enumerate(found) if picture.place != query.place][:count]
            matches.append(
                Match(query, tuple(found[at] for at in others), tuple(float(row[indices[at]]) for at in others))
            )
    return matches


def described(match: Match) -> str:
    """Return ``photo.png: 8 of 10 neighbors are from svhn, 2 from cifar10; nearest first: 7 of svhn (0.93), …``"""
    counts = Counter(picture.source for picture in match.neighbors).most_common()
    (first, most), *others = counts
    domains = f"{most} of {len(match.neighbors)} neighbors are from {first}"
    domains += "".join(f", {number} from {name}" for name, number in others)
    listed = ", ".join(
        f"{picture.label} of {picture.source} ({similarity:.2f})"
        for picture, similarity in zip(match.neighbors, match.similarities, strict=True)
    )
    label = f" ({match.query.label})" if match.query.label else ""
    return f"{match.query.name}{label}: {domains}; nearest first: {listed}"
