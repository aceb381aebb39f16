"""The four built-in domains: synthetic images for a first run and for tests, drawn in seconds without a download.

They are not a benchmark. Test accuracy of logistic regression in percent, where chance is 10:

                             digits   clutter   shapes   textures
    raw pixels                 58       49        32        30
    random ResNet-18           34       19        22        26

All are well above chance and well below 100, so training makes a measurable difference.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdssl.data.builtin import drawings
from mdssl.data.sources.base import Part, Source

COUNTS = {"train": 2000, "test": 1000}

BATCH = 50
"""Images drawn at a time: their supersampled coordinates fit into the processor's cache."""

RECIPE = 1
"""Version of the drawings. Increase it whenever one of them changes."""


@dataclass(frozen=True)
class Builtin:
    """A synthetic domain.

    Attributes:
        description: one line for lists, ``meta.json`` and contact sheets.
        classes: class names; a label is an index into them.
        draw: (generator, split, labels (N,)) -> uint8 (N, 32, 32, 3).
    """

    description: str
    classes: tuple[str, ...]
    draw: Callable[[np.random.Generator, str, np.ndarray], np.ndarray]


BUILTIN: dict[str, Builtin] = {
    "builtin-digits": Builtin(
        "synthetic built-in domain: scikit-learn's handwritten digits, grey, moved and turned at random",
        drawings.DIGITS,
        drawings.digits,
    ),
    "builtin-clutter": Builtin(
        "synthetic built-in domain: scikit-learn's handwritten digits in random colors on colored clutter",
        drawings.DIGITS,
        drawings.clutter,
    ),
    "builtin-shapes": Builtin(
        "synthetic built-in domain: drawn shapes of any color, size and rotation on gradients",
        tuple(drawings.SHAPES),
        drawings.shapes,
    ),
    "builtin-textures": Builtin(
        "synthetic built-in domain: procedural textures of any color, scale and rotation",
        tuple(drawings.TEXTURES),
        drawings.textures,
    ),
}


def builtin_source(name: str) -> Source:
    """Draw the built-in domain ``name``, with the same pixels on every call and in every process."""
    parts = {split: _part(name, split) for split in COUNTS}
    return Source("builtin", f"mdssl built-in, recipe {RECIPE}", BUILTIN[name].classes, parts)


def _part(name: str, split: str) -> Part:
    builtin = BUILTIN[name]
    rng = np.random.default_rng([RECIPE, list(BUILTIN).index(name), list(COUNTS).index(split)])
    labels = rng.permutation(np.arange(COUNTS[split]) % len(builtin.classes))
    images = np.concatenate([builtin.draw(rng, split, batch) for batch in np.split(labels, len(labels) // BATCH)])
    return Part(labels, lambda row: f"{name} {split} image {row}", lambda rows: (images[row] for row in rows))
