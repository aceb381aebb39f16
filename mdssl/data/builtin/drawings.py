"""The built-in domains as drawings: digits, digits on clutter, shapes and textures.

Each function draws (generator, split, labels (N,)) -> uint8 (N, 32, 32, 3). No class is the mirror image, rotation or
color of another one, so SimCLR's augmentations never change a label.
"""

import functools
from collections.abc import Callable

import numpy as np

DIGITS = tuple(str(digit) for digit in range(10))

_SPLIT_SEED = 1797
"""Shared by both domains of digits, so that no test scan of one is a training scan of the other."""
SIZE = 32
OVERSAMPLE = 2

LUMA = np.array([0.299, 0.587, 0.114])
"""Perceived brightness of red, green and blue, from ITU-R BT.601."""


def digits(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Light grey digits on dark paper, a little rotated, scaled and moved: uint8 (N, 32, 32, 3)."""
    n = len(labels)
    strokes = _strokes(rng, split, labels)
    ink, ground = rng.uniform(0.5, 1.0, (n, 1)), rng.uniform(0.0, 0.3, (n, 1))
    image = blend(strokes, ink, ground + np.zeros((n, 1)))
    return to_pixels(rng, np.repeat(image, 3, axis=-1), noise=0.06)


def clutter(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Digits in a bright random color on darker colored clouds crossed by bars: uint8 (N, 32, 32, 3)."""
    n = len(labels)
    clouds = np.stack([smooth_noise(rng, n, cells=6) for _ in range(3)], axis=-1) * 0.6
    ground = blend(np.full((n, SIZE, SIZE), 0.5), clouds, colors(rng, n, (0.1, 0.4)))
    for _ in range(4):
        u, v = placed(rng, n, angle=np.pi, shift=1.0, scale=(0.5, 1.0))
        bar = shrink(((np.abs(u) < 1) & (np.abs(v) < 0.15)).astype(float))
        ground = blend(bar, colors(rng, n, (0.15, 0.5)), ground)
    return to_pixels(rng, blend(_strokes(rng, split, labels), colors(rng, n, (0.7, 0.9)), ground), noise=0.04)


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
    """Return the scans of one split, (M, 8, 8) in [0, 1], with their labels (M,).

    scikit-learn's 1,797 scanned digits (UCI, E. Alpaydin and C. Kaynak). A third of them is for the test split, so that
    no handwriting is in both splits.
    """
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


def _box(u: np.ndarray, v: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _polygon(u: np.ndarray, v: np.ndarray, corners: int, inner: float) -> np.ndarray:
    """A star with ``corners`` tips at radius 1 and notches at radius ``inner``; inner = cos(π / corners) is regular."""
    half = np.pi / corners
    angle = np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
    across, along = np.hypot(u, v) * np.sin(angle), np.hypot(u, v) * np.cos(angle)
    notch_across, notch_along = inner * np.sin(half), inner * np.cos(half)
    return (along - 1) * notch_across + across * (1 - notch_along)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = 1.2 * u, -1.2 * v + 0.1
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda u, v: np.hypot(u, v) - 0.85,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) - 0.2,
    "square": lambda u, v: _box(u, v, 0.75, 0.75),
    "frame": lambda u, v: np.maximum(_box(u, v, 0.8, 0.8), -_box(u, v, 0.45, 0.45)),
    "triangle": lambda u, v: _polygon(u, v, 3, np.cos(np.pi / 3)),
    "star": lambda u, v: _polygon(u, v, 5, 0.42),
    "cross": lambda u, v: np.minimum(_box(u, v, 0.95, 0.27), _box(u, v, 0.27, 0.95)),
    "bar": lambda u, v: _box(u, v, 1.0, 0.24),
    "heart": _heart,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u - 0.45, v)),
}
"""A shape is the region where its function of u and v, see `placed`, is negative."""


def shapes(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Bright shapes on a darker gradient with clouds: uint8 (N, 32, 32, 3). ``split`` is not used."""
    n = len(labels)
    u, v = placed(rng, n, angle=np.pi, shift=0.25, scale=(0.45, 0.8))
    masks = np.empty((n, *coordinates(u.shape[1] // 2)[0].shape))
    for label, shape in enumerate(SHAPES.values()):
        rows = labels == label
        masks[rows] = shrink((shape(u[rows], v[rows]) < 0).astype(float))
    x, y = coordinates(masks.shape[1])
    slope_x, slope_y = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    gradient = np.clip(0.5 + slope_x * x + slope_y * y, 0, 1)
    ground = blend(gradient, colors(rng, n, (0.0, 0.35)), colors(rng, n, (0.1, 0.45)))
    ground = ground + 0.15 * (smooth_noise(rng, n, cells=7)[..., None] - 0.5)
    return to_pixels(rng, blend(masks, colors(rng, n, (0.6, 0.9)), ground), noise=0.04)


def _phase(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.abs(x - np.round(x))


def _bricks(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    course = np.floor(v)
    return (_phase(v) < 0.1) | (_phase(0.5 * u + 0.5 * (course % 2)) < 0.06)


def _cells(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Borders between the Voronoi cells of random points, where the nearest two points are about equally far."""
    points = rng.uniform(-1, 1, (2, len(u), 14, 1, 1)) * np.abs(u).max(axis=(1, 2))[:, None, None, None]
    nearest = np.full(u.shape, np.inf)
    second = np.full(u.shape, np.inf)
    for point_u, point_v in zip(*(axis.swapaxes(0, 1) for axis in points), strict=True):
        distance = np.hypot(u - point_u, v - point_v)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return second - nearest < 0.28


def _blotches(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    field = smooth_noise(rng, len(u), cells=9).repeat(2, axis=1).repeat(2, axis=2)
    return field > 0.52


def _speckle(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    grains = rng.uniform(0, 1, (len(u), u.shape[1] // 2, u.shape[2] // 2)) < rng.uniform(0.1, 0.2, (len(u), 1, 1))
    return grains.repeat(2, axis=1).repeat(2, axis=2)


TEXTURES: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda rng, u, v: _phase(u) < 0.25,
    "checks": lambda rng, u, v: (_phase(0.5 * u) < 0.25) ^ (_phase(0.5 * v) < 0.25),
    "dots": lambda rng, u, v: np.hypot(_phase(u), _phase(v)) < 0.3,
    "grid": lambda rng, u, v: (_phase(u) < 0.12) | (_phase(v) < 0.12),
    "bricks": _bricks,
    "zigzag": lambda rng, u, v: _phase(u + 1.2 * _phase(0.5 * v)) < 0.2,
    "rings": lambda rng, u, v: _phase(np.hypot(u, v)) < 0.22,
    "blotches": _blotches,
    "cells": _cells,
    "speckle": _speckle,
}
"""A pattern is a function of u and v with period 1 that returns the inked pixels."""


def textures(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Two-colored patterns, the ink brighter, unevenly lit: uint8 (N, 32, 32, 3). ``split`` is not used."""
    n = len(labels)
    # A period of 0.2 to 0.4 half widths is 3 to 6 pixels: three or more periods stay visible in most crops.
    u, v = placed(rng, n, angle=np.pi, shift=0.6, scale=(0.22, 0.42))
    masks = np.empty((n, u.shape[1] // 2, u.shape[2] // 2))
    for label, texture in enumerate(TEXTURES.values()):
        rows = labels == label
        masks[rows] = shrink(texture(rng, u[rows], v[rows]).astype(float))
    image = blend(masks, colors(rng, n, (0.7, 0.8)), colors(rng, n, (0.15, 0.25)))
    light = 0.9 + 0.2 * smooth_noise(rng, n, cells=3)
    return to_pixels(rng, image * light[..., None], noise=0.04)


def coordinates(size: int = SIZE * OVERSAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres of a ``size`` x ``size`` picture as x and y, each (size, size) in (-1, 1)."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    return np.meshgrid(line, line)


def placed(
    rng: np.random.Generator, n: int, *, angle: float, shift: float, scale: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates u, v, each (N, 64, 64), in the frames of N objects that are rotated, scaled and moved at random.

    Args:
        angle: the largest rotation to either side, in radians.
        shift: the largest displacement along each axis, in half picture widths.
        scale: smallest and largest size; an object that extends to ±1 in u and v extends to ±scale in the picture.
    """
    x, y = coordinates()
    turn = rng.uniform(-angle, angle, (n, 1, 1))
    factor = rng.uniform(*scale, (n, 1, 1))
    dx, dy = rng.uniform(-shift, shift, (2, n, 1, 1))
    x, y = x - dx, y - dy
    return (np.cos(turn) * x + np.sin(turn) * y) / factor, (np.cos(turn) * y - np.sin(turn) * x) / factor


def shrink(images: np.ndarray) -> np.ndarray:
    """Average blocks of 2x2: (N, 64, 64) supersampled -> (N, 32, 32) with smooth edges."""
    n, height, width = images.shape
    blocks = (n, height // OVERSAMPLE, OVERSAMPLE, width // OVERSAMPLE, OVERSAMPLE)
    return images.reshape(blocks).mean(axis=(2, 4))


def colors(rng: np.random.Generator, n: int, brightness: tuple[float, float]) -> np.ndarray:
    """N random colors (N, 3) in [0, 1] of any hue, with a luma in the range ``brightness``.

    Ink and ground differ in brightness, never by hue alone, so that color jitter and greyscale keep a drawing visible.
    """
    color = rng.uniform(0, 1, (n, 3))
    color += (rng.uniform(*brightness, n) - (color * LUMA).sum(axis=1))[:, None]
    return np.clip(color, 0, 1)


def smooth_noise(rng: np.random.Generator, n: int, cells: int) -> np.ndarray:
    """N fields (N, 32, 32) in [0, 1]: random values on a ``cells`` x ``cells`` lattice, interpolated linearly."""
    lattice = rng.uniform(0, 1, (n, cells, cells))
    position = np.linspace(0, cells - 1, SIZE)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)))
    # Not as matrix products: BLAS differs in the last bit between machines.
    return np.einsum("xi,nij,yj->nxy", weights, lattice, weights)


def blend(mask: np.ndarray, ink: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Lay ``ink`` over ``ground`` where ``mask`` is 1: (N, 32, 32) and two of (N, 3) or (N, 32, 32, 3)."""
    ink, ground = (color if color.ndim == 4 else color[:, None, None, :] for color in (ink, ground))
    return ground + mask[..., None] * (ink - ground)


def to_pixels(rng: np.random.Generator, images: np.ndarray, noise: float) -> np.ndarray:
    """Add pixel noise of that standard deviation and round: (N, 32, 32, 3) in [0, 1] -> uint8."""
    return np.round(np.clip(images + rng.normal(0, noise, images.shape), 0, 1) * 255).astype(np.uint8)
