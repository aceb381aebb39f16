"""The definition of a trial: frozen dataclasses, which are checked when they are created.

A setting is one field with its docstring. ``mdssl train`` and every sweep take their flags from these
classes, so a new setting needs no other place than this and the code that acts on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from mdssl.config.clustering import ClusterSettings
from mdssl.config.encoders import RESNET_SETTINGS, TIMM_SETTINGS, check_arch, check_input, is_timm
from mdssl.config.field_types import check_lambda1, check_mixture, check_schedule, check_types, current_name
from mdssl.config.methods import METHODS, NEWER
from mdssl.errors import InputError, check_name, check_number

Stem = Literal["imagenet", "cifar"]
PretrainedStem = Literal["imagenet", "cifar", "cifar-pad2"]
"""Stems of pretrained encoders; see `mdssl.pretrain.pretrained`."""

RECIPE_VERSION = 1
"""Part of every ``trial_id``. Raise it whenever training itself changes by more than rounding, so that no old encoder
passes for a new one."""
CLUSTERING_VERSION = 2
"""The same for clustered methods alone. 2: K-Means tries its starts on a sample of the images."""
_SINCE_THE_FIRST_IDS = (
    ("schedule", "cosine", ("decay_fraction",)),
    ("sampling", "balanced", ()),
    ("init", "random", ("init_fingerprint",)),
    ("encoder_lr_scale", 1.0, ()),
)
"""Later settings with the value that all trials had before, and the settings of other values. Ids of trials with that
value have neither."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How encoders are trained: what a sweep holds fixed. The defaults are the paper's (section 3.1, tables 6, 7)."""

    arch: str = "resnet50"
    """Encoder: a ResNet (torchvision's: resnet18, wide_resnet50_2 ...) | timm/NAME (such as timm/vit_tiny_patch16_224).
    """
    patch_size: int | None = None
    """Side of a patch of a timm transformer in pixels; default: the network's own, or less, for 8 x 8 patches or more.
    """
    init: str = "random"
    """Weights that the encoder starts from: random | FILE | torchvision or timm (their own of this arch)."""
    stem: Stem = "imagenet"
    """First layers: imagenet (7x7 stride 2 and max-pool, as in the paper) | cifar (3x3 stride 1, no pool: slower,
    better at 32x32)."""
    norm: Literal["batch", "group"] = "batch"
    """Normalization layers: batch (BatchNorm, over the images of all workers) | group (GroupNorm)."""
    projection_dim: int = 128
    """Width of the representations that the loss compares."""
    batching: Literal["joint", "per-domain"] = "joint"
    """joint: one encoder pass over all domains | per-domain: a pass each, so that batch-norm sees one domain at a time.
    """
    batch_per_domain: int = 1024
    """Images of each domain in a step, over all workers; each gives two views."""
    sampling: Literal["balanced", "proportional"] = "balanced"
    """Images of a step, where the names of domains are used: balanced (as many of each domain) | proportional (as many
    in all; simclr draws from the union, as if no domain were known, mdssl by the sizes of the domains)."""
    negative_weight: float = 0.5
    """simclr-weighted: weight of negatives of other domains, from 0 (none of them count) to 1 (as simclr)."""
    iterations: int = 48_000
    """Training steps."""
    optimizer: Literal["lars", "sgd", "adamw"] = "lars"
    """lars and sgd have momentum 0.9."""
    learning_rate: float = 4.0
    """Peak learning rate, after a linear warm-up."""
    encoder_lr_scale: float = 1.0
    """Learning rate of the encoder as a share of that of the projection head: below 1 it keeps more of --init, with 0
    it stays as it is."""
    lr_warmup_iterations: int = 480
    """Steps of linear learning-rate warm-up."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rate after the warm-up: cosine (to zero) | wsd (stable, then a decay to zero: a longer trial continues
    from the stable part of a shorter one)."""
    decay_fraction: float = 0.2
    """wsd: share of the iterations that decay."""
    weight_decay: float = 1e-6
    """Weight decay; never on biases and normalization parameters."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Encoder arithmetic: bf16 (autocast) | fp32 | auto (bf16 where the trial's first workers all multiply it in
    hardware; rows say which). The loss is float32."""
    crop_min_area: float = 0.08
    """Smallest area of a random resized crop, as a share of the image."""
    jitter_strength: float = 0.5
    """Strength of SimCLR's color jitter: 0.5 is its value at 32x32, 0 turns it off."""
    blur_probability: float = 0.5
    """Share of views that get a Gaussian blur."""

    def __post_init__(self) -> None:
        check_types(self)
        check_arch(self.arch, self.stem, self.norm, self.patch_size)
        check_number("batch_per_domain", self.batch_per_domain, low=2, hint="A contrastive loss needs other images.")
        for name in ("iterations", "projection_dim"):
            check_number(name, getattr(self, name), low=1)
        for name in ("learning_rate", "encoder_lr_scale", "lr_warmup_iterations", "weight_decay"):
            check_number(name, getattr(self, name), low=0)
        usual, warmup = Recipe.decay_fraction, self.lr_warmup_iterations
        check_schedule(self.schedule, self.decay_fraction, usual, self.iterations, warmup)
        check_number("crop_min_area", self.crop_min_area, low=0.01, high=1)
        for name in ("jitter_strength", "blur_probability", "negative_weight"):
            check_number(name, getattr(self, name), low=0, high=1)

    @property
    def stable_steps(self) -> int:
        """Steps of schedule wsd before its decay, which do not depend on ``iterations``."""
        return self.iterations - round(self.decay_fraction * self.iterations)


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Recipe, ClusterSettings):
    """Everything that can change one trained encoder, and nothing else.

    Worker count, paths, device, checkpoint interval and evaluation are not in it: they do not change the encoder.

    Raises:
        ValueError: an invalid setting; the message lists the allowed values.
    """

    method: str = "mdssl"
    """simclr (the union of all domains as one) | simclr-weighted (the same, with weaker negatives of other domains) |
    mdssl (domain labels known) | mdssl-shuffled (a control: labels shuffled in each batch) | mdssl-clustered (labels
    unknown: K-Means finds them) | mdssl-robust (the same, without outliers) | pretrained (an encoder from elsewhere) |
    random (an untrained encoder)."""
    domains: tuple[str, ...] = ()
    """Names of prepared datasets to train on, one domain each."""
    lambda1: float = 1.0
    """Weight of the within-domain term (eq. 3), in (0, 1]. The paper's figures label this axis -lambda1."""
    lambda2: float = 0.0
    """Weight of the across-domain term (eq. 4), at least 0; useful up to about 0.2."""
    temperature: float = 0.1
    """Temperature tau of the similarities (eq. 1), at least 0.02."""
    seed: int = 0
    """Seed of initial weights, batches and views."""
    data_fingerprint: str = ""
    """Hash of the training images, see `mdssl.data.mixture.fingerprint`. Filled in when the data are opened."""
    weights: str = ""
    """Method pretrained: the file that the encoder comes from. Its arch and stem are the file's."""
    weights_fingerprint: str = ""
    """Method pretrained: hash of the weights, see `mdssl.pretrain.pretrained.Pretrained`."""
    input_size: int | None = None
    """Pixels that images are resized to before they are encoded. Method pretrained; default: as they are prepared. Of a
    timm encoder the size of the training images, filled in when the data are opened; method random needs it."""
    normalization: str = ""
    """Of a timm encoder: mean and deviation of each channel that its input is normalized by, six numbers. Filled in."""
    init_fingerprint: str = ""
    """Hash of the weights of ``init``. Filled in."""

    def __post_init__(self) -> None:
        check_name("method", self.method, METHODS)
        Recipe.__post_init__(self)
        ClusterSettings.__post_init__(self)
        check_lambda1(self.lambda1)
        check_number("lambda2", self.lambda2, low=0, hint="It weighs how far domains are pushed apart.")
        check_number(
            "temperature", self.temperature, low=0.02, hint="Below it, exp(1/temperature) leaves the range of float32."
        )
        check_number("seed", self.seed, low=0)
        check_mixture(self.domains)
        self._check_method()
        # -0.0 and 0.0 are the same weight and must be the same trial.
        object.__setattr__(self, "lambda2", self.lambda2 + 0.0)

    def _check_method(self) -> None:
        method = METHODS[self.method]
        check_input(self.arch, self.input_size, self.normalization, resizes=method.loads_weights)
        if self.init != "random" and not method.trains:
            raise InputError(f"method {self.method!r} does not train, but init is {self.init!r}; leave init out.")
        if method.loads_weights != bool(self.weights_fingerprint):
            raise InputError(
                f"method {self.method!r} and weights {self.weights!r} cannot be combined: a pretrained encoder is made "
                "by `mdssl probe --weights FILE`, or in a sweep by --pretrained FILE."
            )
        if self.domains and not method.trains:
            raise InputError(
                f"method {self.method!r} does not train, but domains are {'+'.join(self.domains)!r}; leave domains out."
            )
        if method.trains and not self.domains:
            raise InputError(f"method {self.method!r} needs domains to train on; give at least one prepared dataset.")
        if method.trains and not method.weighs_domains and (self.lambda1, self.lambda2) != (1.0, 0.0):
            raise InputError(
                f"method {self.method!r} has no domains to weigh, but lambda1, lambda2 are {self.lambda1}, "
                f"{self.lambda2}; it allows only 1, 0. For other values use method 'mdssl'."
            )
        if method.finds_domains and self.num_clusters is None:
            object.__setattr__(self, "num_clusters", len(self.domains))
        if method.finds_domains and self.warmup_iterations >= self.iterations:
            raise InputError(
                f"warmup_iterations is {self.warmup_iterations}, but iterations is {self.iterations}: {self.method!r} "
                "would never cluster the images. Shorten the warm-up (`sweep clustering`: --warmups), or train longer."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialConfig:
        """Make a config from plain values, e.g. a parsed ``config.json``.

        Raises:
            ValueError: an unknown key (the nearest valid one is named), or a value that is not allowed.
        """
        values = {current_name(key): value for key, value in values.items()}
        for key in values:
            check_name("config key", key, [field.name for field in fields(cls)], NEWER)
        check_name("method", values.get("method", cls.method), METHODS, NEWER)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is its inverse."""
        return asdict(self) | {"domains": list(self.domains)}

    @property
    def types_instead(self) -> dict[str, Any]:
        """By name of a field, the type that it has instead of the annotated one (see `check_types`)."""
        return {"stem": PretrainedStem} if METHODS[self.method].loads_weights else {}

    @property
    def train_mixture(self) -> str:
        """The domains as the leaderboard writes them: ``cifar10+svhn``, in the order given."""
        return "+".join(self.domains)

    @property
    def versions(self) -> dict[str, int]:
        """Versions of the code that trains this trial, by name; part of `trial_id`."""
        of_clustering = {"recipe_version_clustering": CLUSTERING_VERSION} if METHODS[self.method].finds_domains else {}
        return {"recipe_version": RECIPE_VERSION} | of_clustering

    @cached_property
    def trial_id(self) -> str:
        """12 hex digits of a SHA-256 over all that can change the encoder, `versions` included.

        Precision ``auto`` has the id of ``fp32``, which it is on most CPUs.
        """
        return self._hashed(auto_precision="fp32")

    @property
    def stable_id(self) -> str:
        """The same over all that can change the encoder before the decay of schedule wsd; ``auto`` has its own."""
        return self._hashed("iterations", "decay_fraction")

    def _hashed(self, *left_out: str, auto_precision: str = "auto") -> str:
        identity = relevant_settings(self.to_dict()) | self.versions
        # The names of the files change nothing.
        for name in ("weights", "init", *left_out):
            identity.pop(name, None)
        if identity.get("precision") == "auto":
            identity["precision"] = auto_precision
        if "cluster_normalized" in identity:
            # As it was called when the first ids were made.
            identity["cluster_normalised"] = identity.pop("cluster_normalized")
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def relevant_settings(trial: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial that its method has: what can change its encoder.

    Args:
        trial: `TrialConfig.to_dict`, also as earlier versions wrote it, or of a method that only later ones know.
    """
    method = METHODS.get(trial.get("method", ""), METHODS["simclr"])
    settings = dict(trial)
    if "cluster_normalised" in settings:
        settings["cluster_normalized"] = settings.pop("cluster_normalised")
    for name, only, with_it in _SINCE_THE_FIRST_IDS:
        if settings.get(name) == only:
            settings = {key: value for key, value in settings.items() if key not in (name, *with_it)}
    if method.rejects_outliers and trial["num_clusters"] <= 2:
        # The farthest of two centroids is the runner-up.
        settings.pop("outlier_rule")
    of_others = set(RESNET_SETTINGS if is_timm(settings.get("arch", "")) else TIMM_SETTINGS)
    if method.loads_weights:
        of_others.discard("input_size")
    return {name: value for name, value in settings.items() if method.has_setting(name) and name not in of_others}


def is_trial_id(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{12}", name) is not None


def check_trial_id(trial_id: str) -> None:
    """Raise ``ValueError`` if ``trial_id`` cannot be one."""
    if not is_trial_id(trial_id):
        raise InputError(f"{trial_id!r} is not a trial id (12 hex digits, such as 0123456789ab).")


def check_precision(config: TrialConfig, precision: str | None) -> None:
    """Raise ``ValueError`` if a trial that has been trained with ``precision`` is not what ``config`` asks for."""
    if precision and config.precision not in ("auto", precision):
        raise InputError(
            f"precision is {config.precision}, but trial {config.trial_id} was trained in {precision}, which its "
            "hardware decided; leave --precision out, or have a sweep train it again with --force."
        )
