"""How a finished encoder is scored. Nothing here changes the encoder, so nothing is in ``trial_id``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

from mdssl.config.field_types import check_types, current_name
from mdssl.errors import InputError, check_number

Layer = Literal["encoder", "projection"]
FEATURES = get_args(Layer)

MAX_STABLE_RATE = 2.5
"""Highest learning rate of the sgd probe. Its features are scaled so that no step expands at rates up to 4, or, as some
batches are more curved than others, up to 4 / 1.6 (see `mdssl.evaluate.sgd.curvature`)."""
_MAX_RAW_RATE = 100.0
FRACTIONS = (0.01, 0.1)
"""Shares of labels that SimCLR is fine-tuned on."""

_SGD_SETTINGS = (
    "probe_learning_rate",
    "probe_epochs",
    "probe_iterations",
    "probe_batch",
    "probe_seeds",
    "knn_neighbors",
)
_OWN_SETTINGS = {
    "lbfgs": ("probe_l2", "knn_neighbors"),
    "lbfgs-path": ("probe_seeds", "knn_neighbors"),
    "sgd": _SGD_SETTINGS,
    "sgd-raw": _SGD_SETTINGS,
    "finetune": (
        *("probe_fraction", "probe_learning_rate", "probe_epochs", "probe_batch", "probe_seeds", "knn_neighbors"),
    ),
}
_FORMATS = {"probe_iterations": "d"}
_SINCE_THE_FIRST_ROWS = {"probe_iterations": None, "probe_seeds": 1}
"""Later settings with the value that all rows had before, which rows leave out."""
_BATCHES = {"sgd": 256, "sgd-raw": 1024, "finetune": 256}
_STORED_NAMES = {"knn_neighbors": "knn_neighbours"}
"""Rows keep the spelling of the first ones, so that the names of probes stay the same."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a finished encoder is scored. The `sgd-raw` defaults are the paper's (table 7)."""

    probe: Literal["lbfgs", "lbfgs-path", "sgd", "sgd-raw", "finetune"] = "lbfgs"
    """lbfgs (linear, regularized logistic regression, solved to convergence) | lbfgs-path (the same, its penalty chosen
    on 15 % of the training images) | sgd (linear, on standardized features, at stable rates) | sgd-raw (as in the
    paper, on raw features, where rounding may decide). Or finetune: the encoder and a linear layer, on few labels."""
    features: tuple[Layer, ...] = ("encoder",)
    """Layers to probe."""
    probe_learning_rate: tuple[float, ...] = ()
    """Learning rates of an sgd probe, at most 2.5 for sgd. All are fitted at once, and each gives a row. Default: sgd
    chooses a rate on 15 % of the training images, sgd-raw has 0.1."""
    probe_epochs: int | None = None
    """Epochs of an sgd probe, or of fine-tuning. Default: 100; of fine-tuning 60 below a fraction of 0.1, else 30."""
    probe_iterations: int | None = None
    """Steps of an sgd probe, in place of epochs. The paper's table 7 says 30000."""
    probe_fraction: tuple[float, ...] = ()
    """Shares of the training images whose labels fine-tuning uses; each gives a row. Default: 0.01 and 0.1."""
    probe_seeds: int = 1
    """Seeds of a probe that is random; the row has the means, and the standard deviation of top-1."""
    probe_batch: int | None = None
    """Batch size of an sgd probe or of fine-tuning. Default: 256, and 1024 for sgd-raw."""
    probe_l2: float = 1e-3
    """L2 penalty of the lbfgs probe, on standardized features, per sample."""
    knn_neighbors: int = 20
    """Neighbors of the kNN score that comes with every probe; all training images if there are fewer."""

    def __post_init__(self) -> None:
        check_types(self)
        if not self.features or len(set(self.features)) < len(self.features):
            given = ", ".join(self.features) or "not given"
            raise InputError(f"features are {given}; name each layer once: encoder, projection, or both.")
        self._check_own_settings()
        self._check_learning_rates()
        self._check_fine_tuning()
        check_number("probe_epochs", self.epochs, low=1)
        self._check_iterations_and_seeds()
        check_number("probe_batch", self.batch, low=1)
        check_number("probe_l2", self.probe_l2, low=0)
        check_number("knn_neighbors", self.knn_neighbors, low=1)

    def _check_fine_tuning(self) -> None:
        if self.probe == "finetune":
            object.__setattr__(self, "probe_fraction", self.probe_fraction or FRACTIONS)
        fractions = ", ".join(f"{fraction:g}" for fraction in self.probe_fraction)
        if self.probe_fraction and self.features != ("encoder",):
            raise InputError(f"features are {', '.join(self.features)}, but finetune trains the encoder; leave it out.")
        allowed = {f"{fraction:g}" for fraction in self.probe_fraction if 0 < fraction <= 1}
        if len(allowed) < len(self.probe_fraction):
            raise InputError(
                f"probe_fraction is {fractions}; give shares above 0 and at most 1, such as 0.01, each once."
            )

    def _check_own_settings(self) -> None:
        for name in chain(*_OWN_SETTINGS.values()):
            value = getattr(self, name)
            if value != getattr(ProbeConfig, name) and name not in _OWN_SETTINGS[self.probe]:
                others = " or ".join(f"--probe {probe}" for probe, own in _OWN_SETTINGS.items() if name in own)
                text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                raise InputError(
                    f"{name} is {text}, which the {self.probe} probe does not have; use {others}, or leave it out."
                )

    def _check_iterations_and_seeds(self) -> None:
        check_number("probe_seeds", self.probe_seeds, low=1)
        if self.probe_iterations is None:
            return
        check_number("probe_iterations", self.probe_iterations, low=1)
        if self.probe_epochs is not None:
            raise InputError(
                f"probe_iterations is {self.probe_iterations} and probe_epochs {self.probe_epochs}, which both say how "
                "long the probe is trained; give one of them."
            )

    def _check_learning_rates(self) -> None:
        rates = self.probe_learning_rate
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise InputError(f"probe_learning_rate is {', '.join(map(str, rates))}; give each once, to six digits.")
        highest = MAX_STABLE_RATE if self.probe == "sgd" else _MAX_RAW_RATE
        for rate in rates:
            if not 0 < rate <= highest:
                raise InputError(
                    f"probe_learning_rate is {rate:g}; the {self.probe} probe learns nothing at 0 and is unstable "
                    f"above {highest:g}. Leave it out, or give rates above 0 and at most {highest:g}."
                )

    @property
    def epochs(self) -> int:
        if self.probe_epochs is not None:
            return self.probe_epochs
        if self.probe != "finetune":
            return 100
        # SimCLR's, see `mdssl.evaluate.finetune`.
        return 30 if min(self.probe_fraction) >= 0.1 else 60

    @property
    def batch(self) -> int:
        return _BATCHES.get(self.probe, 1) if self.probe_batch is None else self.probe_batch

    def each(self) -> tuple[ProbeConfig, ...]:
        """The probes that give one row each: this one, at each of its fractions and learning rates."""
        rates: list[tuple[float, ...]] = [(rate,) for rate in self.probe_learning_rate] or [()]
        fractions: list[tuple[float, ...]] = [(share,) for share in self.probe_fraction] or [()]
        return tuple(
            replace(self, probe_learning_rate=rate, probe_fraction=fraction) for fraction in fractions for rate in rates
        )

    @property
    def name(self) -> str:
        """The leaderboard's ``probe``: the probe and those of its settings that are not the default.

        ``sgd-raw``, ``sgd(standardized,epochs=30)``: two probes with one name gave their scores in the same way. For
        one of `each`, not for several learning rates together.
        """
        settings = self.settings()
        defaults = ProbeConfig(probe=self.probe, probe_fraction=self.probe_fraction).settings()
        changed = [name for name, value in settings.items() if value != defaults.get(name) or name == "probe_fraction"]
        changes = [f"{name.removeprefix('probe_')}={settings[name]:{_FORMATS.get(name, 'g')}}" for name in changed]
        parts = ["standardized", *changes] if self.probe == "sgd" else changes
        return f"{self.probe}({','.join(parts)})" if parts else self.probe

    def settings(self) -> dict[str, Any]:
        """The settings of one of `each` as a row's ``config_json`` has them, only those that its probe has."""
        (rate,) = self.probe_learning_rate or ((0.1,) if self.probe == "sgd-raw" else (None,))
        values = {"probe_learning_rate": rate, "probe_batch": self.batch, "probe_epochs": self.epochs}
        values["probe_fraction"] = (self.probe_fraction or (None,))[0]
        own = {
            _STORED_NAMES.get(name, name): values.get(name, getattr(self, name)) for name in _OWN_SETTINGS[self.probe]
        }
        if self.probe_iterations is not None:
            del own["probe_epochs"]
        usual = _SINCE_THE_FIRST_ROWS
        own = {name: value for name, value in own.items() if name not in usual or value != usual[name]}
        return {"probe": self.probe, **own} | ({"standardized": True} if self.probe == "sgd" else {})


def probe_flags(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `ProbeConfig` that gives a row with this ``evaluation`` in its ``config_json``."""
    if "probe" not in evaluation:
        return {}
    probe = evaluation["probe"]
    if probe == "sgd" and not evaluation.get("standardized"):
        probe = "sgd-raw"
    evaluation = {current_name(name): value for name, value in evaluation.items()}
    found = {name: evaluation[name] for name in _OWN_SETTINGS[probe] if name in evaluation}
    rate = found.pop("probe_learning_rate", None)
    found["probe_learning_rate"] = () if rate is None or (probe == "sgd-raw" and rate == 0.1) else (rate,)
    if "probe_fraction" in found:
        found["probe_fraction"] = (found["probe_fraction"],)
    usual = ProbeConfig(probe=probe, probe_fraction=found.get("probe_fraction", ())).settings()
    for name in ("probe_batch", "probe_epochs"):
        if found.get(name) == usual.get(name):
            found.pop(name, None)
    return {"probe": probe, **found}


def probe_named_now(name: str) -> str:
    """Return the current name of a ``probe`` of the leaderboard: ``sgd`` was the name of ``sgd-raw``."""
    is_old = name == "sgd" or (name.startswith("sgd(") and not name.startswith("sgd(standardized"))
    return name.replace("sgd", "sgd-raw", 1) if is_old else name


def check_layers(features: Sequence[str], pretrained: bool) -> None:
    """Raise ``ValueError`` if a layer is to be scored that a pretrained encoder does not have."""
    if pretrained and "projection" in features:
        raise InputError("features has 'projection', but a pretrained encoder has no projection head; leave it out.")
