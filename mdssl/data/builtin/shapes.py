"""The built-in domain of drawn shapes: ten kinds, at any place, size and rotation, on gradients.

A shape is the region in which a function of u and v is negative; ``placed`` says where u and v lie in the picture. No
kind is another one's mirror image, rotation or colour, so SimCLR's augmentations never change a label.
"""

from collections.abc import Callable

import numpy as np

from mdssl.data.builtin.paint import blend, colours, coordinates, placed, shrink, smooth_noise, to_pixels


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
CLASSES = tuple(SHAPES)


def shapes(rng: np.random.Generator, split: str, labels: np.ndarray) -> np.ndarray:
    """Bright shapes on a darker gradient with clouds: uint8 (N, 32, 32, 3). ``split`` changes nothing but the draw."""
    n = len(labels)
    u, v = placed(rng, n, angle=np.pi, shift=0.25, scale=(0.45, 0.8))
    masks = np.empty((n, *coordinates(u.shape[1] // 2)[0].shape))
    for label, shape in enumerate(SHAPES.values()):
        rows = labels == label
        masks[rows] = shrink((shape(u[rows], v[rows]) < 0).astype(float))
    x, y = coordinates(masks.shape[1])
    slope_x, slope_y = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    gradient = np.clip(0.5 + slope_x * x + slope_y * y, 0, 1)
    ground = blend(gradient, colours(rng, n, (0.0, 0.35)), colours(rng, n, (0.1, 0.45)))
    ground = ground + 0.15 * (smooth_noise(rng, n, cells=7)[..., None] - 0.5)
    return to_pixels(rng, blend(masks, colours(rng, n, (0.6, 0.9)), ground), noise=0.04)
