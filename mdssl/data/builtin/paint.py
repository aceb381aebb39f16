"""Tools to draw the built-in domains: coordinates, colors of a given brightness, noise and blending.

All functions work on a batch of N images and draw all random numbers from the given generator.
"""

import numpy as np

SIZE = 32
OVERSAMPLE = 2

LUMA = np.array([0.299, 0.587, 0.114])
"""Perceived brightness of red, green and blue, from ITU-R BT.601."""


def coordinates(size: int = SIZE * OVERSAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """The pixel centres of a ``size`` x ``size`` picture as x and y, each (size, size) in (-1, 1)."""
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
