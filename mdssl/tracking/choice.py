"""Which trackers there are. Light: settings import it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from mdssl.errors import InputError, check_name

_NEEDS = {
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
    "wandb": ("wandb", 'pip install "mdssl[wandb]"'),
    "mlflow": ("mlflow", 'pip install "mdssl[mlflow]"'),
}
"""By tracker: the package it needs, and how that is installed."""
TRACKERS = tuple(_NEEDS)
TRACKER_VARIABLES = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
)
"""What a sweep passes on to the machines of a cluster. Keys are not among them: Ray shows such variables to whoever may
look, so each machine logs in by itself."""


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers to use: ``names``, or none of them for ``none``.

    Raises:
        ValueError: one that does not exist, that stands twice, or whose package is not installed.
    """
    if tuple(names) == ("none",):
        return ()
    for name in names:
        check_name("tracker", name, TRACKERS, "--track none uses none of them.")
        package, command = _NEEDS[name]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"tracker {name!r} needs the package {package}, which is not installed; {command}, on every machine "
                "that trains, or leave it out of --track."
            )
    if len(set(names)) < len(names):
        raise InputError(f"track is {', '.join(names)}; name each tracker once.")
    return tuple(names)
