"""Commands that ask trained encoders: ``mdssl neighbours``.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from mdssl.commands.places import DATA, STORAGE


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files of any kind; DATASET:test for four test images of a prepared dataset; DATASET:test:ROW for one."""
    trial_id: str = ""
    """A trained trial: the 12 hex digits that `mdssl train` and the leaderboard print."""
    weights: str = ""
    """Instead of a trial: the file of an encoder that was pretrained elsewhere, as `mdssl probe` takes it."""
    input_size: int | None = None
    """Pixels that images are resized to for it; default: as they are prepared. 224 for most ImageNet encoders."""
    among: tuple[str, ...] = ()
    """Prepared datasets whose training images are searched; default: the domains that the trial was trained on."""
    features: str = "encoder"
    """Layer that is compared: encoder | projection."""
    neighbours: int = 10
    """Nearest images of each."""
    sample: int = 2_000
    """Training images of each dataset that are searched, its classes in turns: a few seconds of a CPU core. A larger
    number than there are takes all."""
    seed: int = 0
    """Of the choice of these, and of what DATASET:test means."""
    output: str = "neighbours.png"
    """PNG file to write."""
    device: str = "auto"
    """cpu | cuda | auto (a GPU where there is one)."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def neighbours(settings: Neighbours) -> None:
    """Show the training images that an encoder takes for most like yours: a sheet, and the same in words.

    Examples:
      mdssl neighbours photo.jpg --trial-id 0123456789ab
      mdssl neighbours svhn:test cifar10:test:17 --trial-id 0123456789ab --features projection
      mdssl neighbours photo.jpg --weights resnet50.pth --input-size 224 --among cifar10 stl10
    """
    from mdssl.evaluate.ask_neighbours import ask_neighbours

    ask_neighbours(settings)
