"""Domains that are prepared, trained on and probed in a second each."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def stripes(
    rng: np.random.Generator, count: int, classes: int, size: int, tint: float
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes, the class in their width: something to learn in a second."""
    labels = np.arange(count) % classes
    phase = rng.uniform(0, 6.28, count)[:, None] + np.arange(size) * (0.5 + labels[:, None])
    images = np.sin(phase)[:, None, :, None] * 60 + rng.normal(128 + tint, 20, (count, size, size, 3))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def prepare_tiny(folder: Path) -> str:
    """A data folder with the domains tiny-a, tiny-b and tiny-c: 4 classes, 16×16, 64 train and 32 test images."""
    from mdssl.data.prepare import prepare

    for seed, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
        rng = np.random.default_rng(seed)
        arrays = {}
        for split, count in (("train", 64), ("test", 32)):
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = stripes(rng, count, 4, 16, tint=40 * (seed - 1))
        source = folder / f"{name}.npz"
        np.savez(source, **arrays)
        prepare(name, data=folder / "data", source=source, image_size=16, workers=1, progress=False)
    return str(folder / "data")
