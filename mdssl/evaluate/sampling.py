"""Seeded samples of images, the same for every trial, so that encoders can be compared on them."""

from __future__ import annotations

import zlib

import numpy as np

SEED = 0
"""Seed of the samples that are stored with a trial, independent of the trial's seed."""


def sample_rows(name: str, split: str, labels: np.ndarray, count: int, *, seed: int = SEED) -> np.ndarray:
    """(min(count, N),) rows of a split in random order, balanced over its classes.

    Each class gives one image before any gives a second one. A smaller sample is the beginning of a larger one.

    Args:
        name, split, labels, seed: determine the order; ``labels`` are the (N,) classes of the split.
    """
    order = np.random.default_rng([seed, zlib.crc32(f"{name}/{split}".encode())]).permutation(len(labels))
    turn, _ = _turns(np.asarray(labels)[order])
    return order[np.argsort(turn, kind="stable")[:count]]


def stratified_rows(labels: np.ndarray, count: int, *, key: str, spare: int = 0) -> np.ndarray:
    """(min(count, N),) rows in random order, of each class in proportion to its images, and at least one.

    Args:
        labels: (N,) classes.
        key: determines the order, together with ``labels``.
        spare: images of each class that are never drawn.
    """
    order = np.random.default_rng([SEED, zlib.crc32(key.encode())]).permutation(len(labels))
    turn, size = _turns(np.asarray(labels)[order])
    can_be_drawn = turn < size - spare
    chosen = np.argsort(np.where(can_be_drawn, turn / size, np.inf), kind="stable")
    return order[chosen[: min(count, int(can_be_drawn.sum()))]]


def _turns(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of (N,) ``labels``, the number of earlier labels of its class, and the size of its class."""
    by_class = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    turn = np.empty_like(by_class)
    turn[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return turn, sizes[labels]
