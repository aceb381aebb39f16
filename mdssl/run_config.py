"""How training is run and its encoder scored. Nothing here changes the encoder, so nothing is in ``trial_id``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from mdssl.config import Recipe
from mdssl.errors import InputError, check_name, check_number
from mdssl.field_types import check_types
from mdssl.tracking.choice import checked

PROBES = ("lbfgs", "sgd")
FEATURES = ("encoder", "projection")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a finished encoder is scored. The `sgd` defaults are the paper's (table 7)."""

    probe: str = "lbfgs"
    """Linear probe: lbfgs (regularised logistic regression, solved to convergence) | sgd (as the paper)."""
    features: tuple[str, ...] = ("encoder",)
    """Layers to probe: encoder | projection, or both."""
    probe_learning_rate: tuple[float, ...] = (0.1,)
    """Learning rate of the sgd probe. Several are fitted at once, and each gives a row of its own."""
    probe_epochs: int = 100
    """Epochs of the sgd probe."""
    probe_batch: int = 1024
    """Batch size of the sgd probe."""
    probe_l2: float = 1e-3
    """L2 penalty of the lbfgs probe, on standardised features, per sample."""
    knn_neighbours: int = 20
    """Neighbours of the kNN score that comes with every probe."""

    def __post_init__(self) -> None:
        check_types(self)
        check_name("probe", self.probe, PROBES)
        for layer in self.features:
            check_name("feature layer", layer, FEATURES)
        if not self.features or len(set(self.features)) < len(self.features):
            raise InputError(f"features are {self.features}; name each layer once: encoder, projection, or both.")
        for rate in self.probe_learning_rate:
            check_number("probe_learning_rate", rate, low=0)
        names = {f"{rate:g}" for rate in self.probe_learning_rate}
        if not names or len(names) < len(self.probe_learning_rate):
            raise InputError(
                f"probe_learning_rate is {self.probe_learning_rate}; give at least one, and each once, to six digits."
            )
        if self.probe != "sgd" and len(names) > 1:
            raise InputError(
                f"probe_learning_rate has {len(names)} values, but the {self.probe} probe has no learning rate; use "
                "--probe sgd, or leave it out."
            )
        check_number("probe_epochs", self.probe_epochs, low=1)
        check_number("probe_batch", self.probe_batch, low=1)
        check_number("probe_l2", self.probe_l2, low=0)
        check_number("knn_neighbours", self.knn_neighbours, low=1)

    def each(self) -> tuple[ProbeConfig, ...]:
        """The probes that give one row each: this one, at each of its learning rates."""
        if self.probe != "sgd":
            return (self,)
        return tuple(replace(self, probe_learning_rate=(rate,)) for rate in self.probe_learning_rate)

    @property
    def name(self) -> str:
        """What the leaderboard's ``probe`` column says: the probe and those of its settings that are not the default.

        ``sgd``, ``sgd(epochs=30)``: two probes with one name gave their scores in the same way. For `each`, not for
        several learning rates together.
        """
        own = {
            "lbfgs": ("probe_l2", "knn_neighbours"),
            "sgd": ("probe_learning_rate", "probe_epochs", "probe_batch", "knn_neighbours"),
        }[self.probe]
        settings, defaults = self.settings(), ProbeConfig().settings()
        changed = [f"{key.removeprefix('probe_')}={settings[key]:g}" for key in own if settings[key] != defaults[key]]
        return f"{self.probe}({','.join(changed)})" if changed else self.probe

    def settings(self) -> dict[str, Any]:
        """The settings of one of `each` as they stand in a row's ``config_json``."""
        (rate,) = self.probe_learning_rate if self.probe == "sgd" else self.probe_learning_rate[:1]
        named = {field.name: getattr(self, field.name) for field in fields(ProbeConfig) if field.name != "features"}
        return named | {"probe_learning_rate": rate}


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
        object.__setattr__(self, "track", checked(self.track))
        check_number("checkpoint_seconds", self.checkpoint_seconds, low=0)
        check_number("report_every", self.report_every, low=1)
        check_number("hang_minutes", self.hang_minutes, low=0)


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
