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
    shuffled = np.asarray(labels)[order]
    by_class = np.argsort(shuffled, kind="stable")
    sizes = np.bincount(shuffled)
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.argsort(turn, kind="stable")[:count]]
