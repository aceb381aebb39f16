"""The four built-in domains: made-up images for a first run and for tests, drawn in seconds, with no download.

They are no benchmark. What logistic regression gets right on the test images, in percent, where guessing gives 10:

                             digits   clutter   shapes   textures
    raw pixels                 58       49        32        30
    random ResNet-18           34       19        22        26

So they are neither trivial nor hopeless, and a trained encoder has room to show that it learnt something.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mdssl.data.builtin import digits as builtin_digits
from mdssl.data.builtin import shapes as builtin_shapes
from mdssl.data.builtin import textures as builtin_textures
from mdssl.data.sources.base import Part, Source

COUNTS = {"train": 2000, "test": 1000}

# Images drawn at a time; their supersampled coordinates fit into the processor's cache.
BATCH = 50

# Raised whenever a drawing changes, so that nobody takes the new pictures for the old ones.
RECIPE = 1


@dataclass(frozen=True)
class Builtin:
    """One made-up domain.

    Attributes:
        description: what a person reads wherever the domain shows up.
        classes: the class names; a label is an index into them.
        draw: (generator, split, labels (N,)) -> uint8 (N, 32, 32, 3).
    """

    description: str
    classes: tuple[str, ...]
    draw: Callable[[np.random.Generator, str, np.ndarray], np.ndarray]


BUILTIN: dict[str, Builtin] = {
    "builtin-digits": Builtin(
        "made-up built-in domain: scikit-learn's handwritten digits, grey, moved and turned at random",
        builtin_digits.CLASSES,
        builtin_digits.digits,
    ),
    "builtin-clutter": Builtin(
        "made-up built-in domain: scikit-learn's handwritten digits in random colours on coloured clutter",
        builtin_digits.CLASSES,
        builtin_digits.clutter,
    ),
    "builtin-shapes": Builtin(
        "made-up built-in domain: drawn shapes of any colour, size and rotation on gradients",
        builtin_shapes.CLASSES,
        builtin_shapes.shapes,
    ),
    "builtin-textures": Builtin(
        "made-up built-in domain: procedural textures of any colour, scale and rotation",
        builtin_textures.CLASSES,
        builtin_textures.textures,
    ),
}


def builtin_source(name: str) -> Source:
    """Draw the built-in domain ``name``; the same pixels on every call and in every process."""
    parts = {split: _part(name, split) for split in COUNTS}
    return Source("builtin", f"mdssl built-in, recipe {RECIPE}", BUILTIN[name].classes, parts)


def _part(name: str, split: str) -> Part:
    builtin = BUILTIN[name]
    rng = np.random.default_rng([RECIPE, list(BUILTIN).index(name), list(COUNTS).index(split)])
    labels = rng.permutation(np.arange(COUNTS[split]) % len(builtin.classes))
    images = np.concatenate([builtin.draw(rng, split, batch) for batch in np.split(labels, len(labels) // BATCH)])

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        return (images[row] for row in rows)

    return Part(labels, lambda row: f"{name} {split} image {row}", read)
