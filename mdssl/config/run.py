"""How training is run. Nothing here changes the encoder but for rounding, so nothing is in ``trial_id``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mdssl.config.encoders import is_timm
from mdssl.config.field_types import check_types
from mdssl.config.trial import Recipe
from mdssl.errors import InputError, check_name, check_number, check_tags

TRACKERS = {
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
    "wandb": ("wandb", 'pip install "mdssl[wandb]"'),
    "mlflow": ("mlflow", 'pip install "mdssl[mlflow]"'),
}
"""By tracker: the package that it needs, and the command that installs it."""

VALIDATION_FIT, VALIDATION_SCORED = 2000, 1000
"""Most training images of a dataset that a validation score is fitted on while a trial trains, and most that are
held out for it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How training is run. Nothing here changes the encoder but for rounding, so none of it is part of ``trial_id``."""

    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints: the training time that a kill can cost."""
    report_every: int = 10
    """Steps between progress reports, each a row of metrics.parquet."""
    score_every: int | None = None
    """Steps between validation scores while training; 0 is never; default: as the scheduler of a sweep requires, else
    never."""
    hang_minutes: float = 30.0
    """Minutes without a report after which a worker counts as hanging and is killed; a sweep restarts it from the last
    checkpoint. 0 is never. Storage outages of up to 8 minutes do not count."""
    gradient_caching: bool = False
    """Encode one domain at a time, in the memory of one: for many domains. The same gradients for one more forward
    pass; needs --batching per-domain, or --norm group."""
    compile: bool = False
    """Compile views and model with torch.compile, which takes a minute or more at the start."""
    compile_from: int = 10_000
    """On a GPU, trials of at least so many steps are compiled without being asked to; 0 is never."""
    images_on: Literal["auto", "device", "host"] = "auto"
    """Where all training images stay: device | host (batches go to the GPU one by one, copied while it works) | auto
    (device, if they take a third of its free memory at most). The batches are the same."""
    track: tuple[str, ...] = ("tensorboard",)
    """Trackers that also get curves and scores: tensorboard | wandb | mlflow, several of them, or none. TensorBoard
    reads them from the storage: tensorboard --logdir results/trials"""

    tag: tuple[str, ...] = ()
    """Tags of the trials, for `mdssl leaderboard --where tags=...`; Weights & Biases and MLflow get them as well. They
    are no part of an id, and `mdssl tag` changes them."""

    def __post_init__(self) -> None:
        check_types(self)
        check_tags(self.tag)
        object.__setattr__(self, "track", () if self.track == ("none",) else self.track)
        check_trackers(self.track)
        check_number("checkpoint_seconds", self.checkpoint_seconds, low=0)
        check_number("report_every", self.report_every, low=1)
        if self.score_every is not None:
            check_number("score_every", self.score_every, low=0)
        check_number("hang_minutes", self.hang_minutes, low=0)
        check_number("compile_from", self.compile_from, low=0)


def check_trackers(names: Sequence[str]) -> None:
    """Raise ``ValueError`` for a tracker that is unknown, listed twice, or lacks its package."""
    for name in names:
        check_name("tracker", name, TRACKERS, "--track none uses none of them.")
        package, command = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"tracker {name!r} needs the package {package}, which is not installed; {command}, on every machine "
                "that trains, or leave it out of --track."
            )
    if len(set(names)) < len(names):
        raise InputError(f"track is {', '.join(names)}; name each tracker once.")


def check_gradient_caching(recipe: Recipe, settings: RunSettings) -> None:
    """Raise ``ValueError`` if encoding one domain at a time would not give the gradients of the run asked for."""
    if settings.gradient_caching and recipe.batching == "joint" and recipe.norm == "batch":
        raise InputError(
            "gradient_caching encodes one domain at a time, but with batching 'joint' batch-norm takes its statistics "
            f"over all of them; use --batching per-domain{'' if is_timm(recipe.arch) else ', or --norm group'}."
        )
