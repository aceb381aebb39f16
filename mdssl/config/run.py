"""How training is run and its encoder scored. Nothing here changes the encoder, so nothing is in ``trial_id``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mdssl.config.field_types import check_types
from mdssl.config.trial import Recipe
from mdssl.errors import InputError, check_name, check_number

PROBES = ("lbfgs", "sgd", "sgd-raw")
FEATURES = ("encoder", "projection")

TRACKERS = {
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
    "wandb": ("wandb", 'pip install "mdssl[wandb]"'),
    "mlflow": ("mlflow", 'pip install "mdssl[mlflow]"'),
}
"""By tracker: the package that it needs, and the command that installs it."""

MAX_STABLE_RATE = 2.5
"""Of the sgd probe. Its features are scaled so that at rates up to 4 no step expands, or, as some batches are more
curved than others, at rates up to 4 / 1.6 (see `mdssl.evaluate.sgd.curvature`)."""
_MAX_RAW_RATE = 100.0

_OWN_SETTINGS = {
    "lbfgs": ("probe_l2", "knn_neighbours"),
    "sgd": ("probe_learning_rate", "probe_epochs", "probe_batch", "knn_neighbours"),
    "sgd-raw": ("probe_learning_rate", "probe_epochs", "probe_batch", "knn_neighbours"),
}
_BATCHES = {"sgd": 256, "sgd-raw": 1024}


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a finished encoder is scored. The `sgd-raw` defaults are the paper's (table 7)."""

    probe: str = "lbfgs"
    """Linear probe: lbfgs (regularised logistic regression, solved to convergence) | sgd (on standardised features, at
    rates that are stable) | sgd-raw (as the paper, on raw features, where rounding may decide)."""
    features: tuple[str, ...] = ("encoder",)
    """Layers to probe: encoder | projection, or both."""
    probe_learning_rate: tuple[float, ...] = ()
    """Learning rates of an sgd probe. All are fitted at once, and each gives a row. Default: sgd chooses a rate on 15 %
    of the training images, sgd-raw has 0.1. The rates of sgd are at most 2.5: its features are scaled to that end."""
    probe_epochs: int = 100
    """Epochs of an sgd probe."""
    probe_batch: int | None = None
    """Batch size of an sgd probe. Default: 256, and 1024 for sgd-raw."""
    probe_l2: float = 1e-3
    """L2 penalty of the lbfgs probe, on standardised features, per sample."""
    knn_neighbours: int = 20
    """Neighbours of the kNN score that comes with every probe; all training images where there are fewer."""

    def __post_init__(self) -> None:
        check_types(self)
        check_name("probe", self.probe, PROBES)
        for layer in self.features:
            check_name("feature layer", layer, FEATURES)
        if not self.features or len(set(self.features)) < len(self.features):
            raise InputError(f"features are {self.features}; name each layer once: encoder, projection, or both.")
        self._check_learning_rates()
        check_number("probe_epochs", self.probe_epochs, low=1)
        check_number("probe_batch", self._batch, low=1)
        check_number("probe_l2", self.probe_l2, low=0)
        check_number("knn_neighbours", self.knn_neighbours, low=1)

    def _check_learning_rates(self) -> None:
        rates = self.probe_learning_rate
        if rates and self.probe == "lbfgs":
            raise InputError(
                f"probe_learning_rate is {', '.join(map(str, rates))}, but the lbfgs probe has no learning rate; use "
                "--probe sgd, or leave it out."
            )
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise InputError(f"probe_learning_rate is {rates}; give each once, to six digits.")
        highest = MAX_STABLE_RATE if self.probe == "sgd" else _MAX_RAW_RATE
        for rate in rates:
            if not 0 < rate <= highest:
                raise InputError(
                    f"probe_learning_rate is {rate:g}; the {self.probe} probe learns nothing at 0 and is unstable "
                    f"above {highest:g}. Leave it out, or give rates above 0 and at most {highest:g}."
                )

    @property
    def _batch(self) -> int:
        return _BATCHES.get(self.probe, 1) if self.probe_batch is None else self.probe_batch

    def each(self) -> tuple[ProbeConfig, ...]:
        """The probes that give one row each: this one, at each of its learning rates."""
        if not self.probe_learning_rate:
            return (self,)
        return tuple(replace(self, probe_learning_rate=(rate,)) for rate in self.probe_learning_rate)

    @property
    def name(self) -> str:
        """What the leaderboard's ``probe`` column says: the probe and those of its settings that are not the default.

        ``sgd-raw``, ``sgd(standardized,epochs=30)``: two probes with one name gave their scores in the same way. For
        `each`, not for several learning rates together.
        """
        settings, defaults = self.settings(), ProbeConfig(probe=self.probe).settings()
        told = ["standardized"] if self.probe == "sgd" else []
        told += [
            f"{key.removeprefix('probe_')}={settings[key]:g}"
            for key in _OWN_SETTINGS[self.probe]
            if settings[key] != defaults[key]
        ]
        return f"{self.probe}({','.join(told)})" if told else self.probe

    def settings(self) -> dict[str, Any]:
        """The settings of one of `each` as they stand in a row's ``config_json``, those of its probe alone."""
        (rate,) = self.probe_learning_rate or ((0.1,) if self.probe == "sgd-raw" else (None,))
        values = {"probe_learning_rate": rate, "probe_batch": self._batch}
        own = {name: values.get(name, getattr(self, name)) for name in _OWN_SETTINGS[self.probe]}
        return {"probe": self.probe, **own} | ({"standardized": True} if self.probe == "sgd" else {})


def probe_flags(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ProbeConfig` that ask for the probe of a row whose ``config_json`` has this ``evaluation``."""
    if "probe" not in evaluation:
        return {}
    probe = evaluation["probe"]
    if probe == "sgd" and not evaluation.get("standardized"):
        probe = "sgd-raw"
    found = {name: evaluation[name] for name in _OWN_SETTINGS[probe] if name in evaluation}
    rate = found.pop("probe_learning_rate", None)
    found["probe_learning_rate"] = () if rate is None or (probe == "sgd-raw" and rate == 0.1) else (rate,)
    if found.get("probe_batch") == _BATCHES.get(probe):
        found.pop("probe_batch", None)
    return {"probe": probe, **found}


def probe_named_now(name: str) -> str:
    """What a ``probe`` of the leaderboard is called now: ``sgd`` was the name of ``sgd-raw``."""
    is_old = name == "sgd" or (name.startswith("sgd(") and not name.startswith("sgd(standardized"))
    return name.replace("sgd", "sgd-raw", 1) if is_old else name


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How training is run. Nothing here changes the encoder that comes out, but for rounding, so none of it is part of
    ``trial_id``."""

    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints: what a kill can cost."""
    report_every: int = 10
    """Steps between progress reports, each a row of metrics.parquet."""
    hang_minutes: float = 30.0
    """Minutes without a report after which a worker is taken to hang, and killed: a sweep then starts it anew from the
    last checkpoint. 0 is never. A storage that is away is waited for up to 8 minutes, which is no hang."""
    gradient_caching: bool = False
    """Encode domain after domain in the memory of one: for many domains. The same gradients for one more forward pass;
    needs --batching per-domain, or --norm group."""
    compile: bool = False
    """Run views and model as torch.compile makes them: meant for long runs on a GPU. That takes a minute or more at the
    start."""
    track: tuple[str, ...] = ("tensorboard",)
    """Where else to show curves and scores: tensorboard | wandb | mlflow, several of them, or none. TensorBoard reads
    them from the storage: tensorboard --logdir results/trials"""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "track", () if self.track == ("none",) else self.track)
        check_trackers(self.track)
        check_number("checkpoint_seconds", self.checkpoint_seconds, low=0)
        check_number("report_every", self.report_every, low=1)
        check_number("hang_minutes", self.hang_minutes, low=0)


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
    """Raise ``ValueError`` where encoding domain after domain would not give the gradients of the run asked for."""
    if settings.gradient_caching and recipe.batching == "joint" and recipe.norm == "batch":
        raise InputError(
            "gradient_caching encodes domain after domain, but with batching 'joint' batch-norm takes its statistics "
            "over all of them; use --batching per-domain, or --norm group."
        )


def check_layers(features: tuple[str, ...], pretrained: bool) -> None:
    """Raise ``ValueError`` where a layer is to be scored that an encoder from elsewhere does not have."""
    if pretrained and "projection" in features:
        raise InputError("features has 'projection', but a pretrained encoder comes without our head; leave it out.")
