"""Seeded choices of images: the same for every trial, so that what two encoders make of them can be compared."""

from __future__ import annotations

import zlib

import numpy as np

SEED = 0
"""Of choices that are kept with a trial; the same for all of them, whatever the trial's own seed."""


def chosen(name: str, split: str, labels: np.ndarray, count: int, *, seed: int = SEED) -> np.ndarray:
    """(min(count, N),) rows of a split, in random order; a choice of fewer is the beginning of a choice of more.

    Classes take turns: of each class one image before any has two, so that a few images show many classes.

    Args:
        name, split, seed: what the order depends on, with ``labels``, the (N,) classes of the split.
    """
    order = np.random.default_rng([seed, zlib.crc32(f"{name}/{split}".encode())]).permutation(len(labels))
    shuffled = np.asarray(labels)[order]
    by_class = np.argsort(shuffled, kind="stable")
    sizes = np.bincount(shuffled)
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.argsort(turn, kind="stable")[:count]]
