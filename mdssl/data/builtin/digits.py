"""Two built-in domains of handwritten digits: plain grey ones, and the same ones in colour on clutter.

The strokes are scikit-learn's 1,797 scanned digits of 8x8 pixels (UCI, E. Alpaydin and C. Kaynak), which come with the
package. A third of them is kept for the test split, so no handwriting stands in both splits.
"""

import functools

import numpy as np

from mdssl.data.builtin.paint import (
    SIZE,
    blend,
    colours,
    placed,
    shrink,
    smooth_noise,
    to_pixels,
)

CLASSES = tuple(str(digit) for digit in range(10))

# Which scan belongs to which split is the same for both domains: what is unseen in one is unseen in the other.
_SPLIT_SEED = 1797


def digits(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Light grey digits on dark paper, a little rotated, scaled and moved: uint8 (N, 32, 32, 3)."""
    n = len(labels)
    strokes = _strokes(rng, split, labels)
    ink, ground = rng.uniform(0.5, 1.0, (n, 1)), rng.uniform(0.0, 0.3, (n, 1))
    image = blend(strokes, ink, ground + np.zeros((n, 1)))
    return to_pixels(rng, np.repeat(image, 3, axis=-1), noise=0.06)


def clutter(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Digits in a bright random colour on darker coloured clouds crossed by bars: uint8 (N, 32, 32, 3)."""
    n = len(labels)
    clouds = np.stack([smooth_noise(rng, n, cells=6) for _ in range(3)], axis=-1) * 0.6
    ground = blend(np.full((n, SIZE, SIZE), 0.5), clouds, colours(rng, n, (0.1, 0.4)))
    for _ in range(4):
        u, v = placed(rng, n, angle=np.pi, shift=1.0, scale=(0.5, 1.0))
        bar = shrink(((np.abs(u) < 1) & (np.abs(v) < 0.15)).astype(float))
        ground = blend(bar, colours(rng, n, (0.15, 0.5)), ground)
    return to_pixels(rng, blend(_strokes(rng, split, labels), colours(rng, n, (0.7, 0.9)), ground), noise=0.04)


def _strokes(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """How much ink covers each pixel, (N, 32, 32) in [0, 1], for scans of ``split`` drawn at random."""
    scans, scan_labels = _scans(split)
    chosen = np.empty(len(labels), dtype=np.int64)
    for digit in range(10):
        rows = np.flatnonzero(labels == digit)
        chosen[rows] = rng.choice(np.flatnonzero(scan_labels == digit), len(rows))
    u, v = placed(rng, len(labels), angle=0.35, shift=0.22, scale=(0.6, 0.95))
    return shrink(_sample(scans[chosen], u, v))


@functools.cache
def _scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The scans of one split, (M, 8, 8) in [0, 1], with their labels (M,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(bunch.target))
    third = len(order) // 3
    rows = order[:third] if split == "test" else order[third:]
    return bunch.images[rows] / 16.0, bunch.target[rows]


def _sample(scans: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Read (N, 8, 8) scans, stretched over [-1, 1]², at ``u``, ``v`` with linear interpolation; paper outside."""
    padded = np.pad(scans, ((0, 0), (1, 1), (1, 1)))
    column, row = (np.clip((axis + 1) * 4 + 0.5, 0, 8.999) for axis in (u, v))
    left, top = column.astype(int), row.astype(int)
    right_part, lower_part = column - left, row - top
    image = np.arange(len(scans))[:, None, None]
    upper = padded[image, top, left] * (1 - right_part) + padded[image, top, left + 1] * right_part
    lower = padded[image, top + 1, left] * (1 - right_part) + padded[image, top + 1, left + 1] * right_part
    return upper * (1 - lower_part) + lower * lower_part
