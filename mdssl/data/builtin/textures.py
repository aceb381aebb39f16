"""The built-in domain of textures: ten kinds of pattern that fill the picture, with random scale, rotation and colours.

A pattern is a function of u and v whose period is 1; it returns the inked pixels. A class is the kind of pattern alone:
any crop, mirror image or tint of it is the same kind.
"""

from collections.abc import Callable

import numpy as np

from mdssl.data.builtin.paint import blend, colours, placed, shrink, smooth_noise, to_pixels


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
CLASSES = tuple(TEXTURES)


def textures(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Two-coloured patterns, the ink brighter, unevenly lit: uint8 (N, 32, 32, 3). ``split`` changes only the draw."""
    n = len(labels)
    # A period of 0.2 to 0.4 half widths is 3 to 6 pixels: three or more periods stay visible in most crops.
    u, v = placed(rng, n, angle=np.pi, shift=0.6, scale=(0.22, 0.42))
    masks = np.empty((n, u.shape[1] // 2, u.shape[2] // 2))
    for label, texture in enumerate(TEXTURES.values()):
        rows = labels == label
        masks[rows] = shrink(texture(rng, u[rows], v[rows]).astype(float))
    image = blend(masks, colours(rng, n, (0.7, 0.8)), colours(rng, n, (0.15, 0.25)))
    light = 0.9 + 0.2 * smooth_noise(rng, n, cells=3)
    return to_pixels(rng, image * light[..., None], noise=0.04)
