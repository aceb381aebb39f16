"""The commands ``mdssl train``, ``probe``, ``status`` and ``log``.

Torch and what imports it are imported inside the functions, because ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from mdssl.cli.places import DataFlag, DeviceFlag, StorageFlag, TrialArgument
from mdssl.config.field_types import pick
from mdssl.config.methods import METHODS
from mdssl.config.presets import PRESETS, check_used
from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings, check_gradient_caching
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError, check_name


@dataclass(frozen=True, kw_only=True)
class Train(DeviceFlag, StorageFlag, DataFlag, TrialConfig, RunSettings):
    data_fingerprint: Annotated[str, tyro.conf.Suppress] = ""
    weights: Annotated[str, tyro.conf.Suppress] = ""
    weights_fingerprint: Annotated[str, tyro.conf.Suppress] = ""
    normalization: Annotated[str, tyro.conf.Suppress] = ""
    init_fingerprint: Annotated[str, tyro.conf.Suppress] = ""
    input_size: int | None = None
    """Method random with a timm encoder: pixels of the images that it will encode."""
    preset: str = "quick"
    """What is not given comes from: quick (built-in domains, ResNet-18, minutes on a CPU) | cifar (ResNet-18, cifar
    stem, 200 epochs: one GPU) | vit (ViT-Tiny, AdamW) | convnext (ConvNeXt-Atto, AdamW) | paper (section 3.1)."""
    evaluate: tuple[str, ...] = ()
    """With --score-every: prepared datasets for validation scores; default: the training domains that have labels."""

    def __post_init__(self) -> None:
        check_name("method", self.method, METHODS)
        if not METHODS[self.method].trains and self.domains == PRESETS[self.preset].get("domains"):
            # Nobody has asked for the preset's domains.
            object.__setattr__(self, "domains", ())
        if self.evaluate == PRESETS[self.preset].get("evaluate"):
            # Nor for these: they are what its sweeps are scored on.
            object.__setattr__(self, "evaluate", ())
        check_used(self, [self.method])
        TrialConfig.__post_init__(self)
        RunSettings.__post_init__(self)
        check_gradient_caching(self, self)
        if self.evaluate and not self.score_every:
            raise InputError(
                f"evaluate is {', '.join(self.evaluate)}, but no scores are made while training; add --score-every N. "
                "A trained encoder is scored by `mdssl probe`."
            )


def train(settings: Train) -> None:
    """Train one encoder without Ray, or resume it. Under torchrun each process is a worker of the same trial.

    Examples:
      mdssl train --lambda1 0.9 --lambda2 0.1
      torchrun --nproc-per-node 2 -m mdssl train --lambda1 0.9 --lambda2 0.1
    """
    from mdssl.evaluate.validation import Validation
    from mdssl.pretrain.standalone import train_standalone
    from mdssl.sweep.grid import labelled_domains

    evaluate: tuple[str, ...] = ()
    if settings.score_every:
        evaluate = settings.evaluate or labelled_domains(settings.data, settings.domains)[0]
    train_standalone(
        pick(TrialConfig, settings),
        pick(RunSettings, settings),
        data=settings.data,
        storage=settings.storage,
        device=settings.device,
        evaluate=evaluate,
        validation=lambda data, device: Validation(data, evaluate, device=device),
    )


@dataclass(frozen=True, kw_only=True)
class Probe(TrialArgument, DeviceFlag, StorageFlag, DataFlag, ProbeConfig):
    weights: str = ""
    """Instead of a trial: a file of pretrained weights from torchvision, timm, solo-learn, lightly, Bolts, or
    safetensors; or torchvision or timm, for those that they publish of --arch."""
    input_size: int | None = None
    """With --weights: pixels that images are resized to, 224 for most ImageNet encoders; default: as they are prepared.
    """
    arch: str = ""
    """With --weights: the network, where the file does not tell (timm/NAME), or whose published weights are asked for
    (--weights torchvision --arch resnet50)."""
    evaluate: tuple[str, ...] = ()
    """Prepared datasets to score on; default: those the trial was trained on that have labels."""


def probe(settings: Probe) -> None:
    """Score a trained encoder on more datasets, or with another probe, and add the rows to the leaderboard.

    Examples:
      mdssl probe 0123456789ab --evaluate stl10 --probe sgd
      mdssl probe last
      mdssl probe --weights resnet50.pth --input-size 224 --evaluate cifar10
    """
    from mdssl.sweep.standalone import probe_standalone
    from mdssl.tables.trial_name import find_trial

    if bool(settings.trial_id) == bool(settings.weights):
        raise InputError("give either TRIAL_ID, or --weights FILE for pretrained weights.")
    if settings.trial_id and settings.arch:
        raise InputError("arch belongs to --weights; a trial has its own.")
    if settings.trial_id and settings.input_size is not None:
        raise InputError("input_size belongs to --weights; a trial's encoder takes images as they are prepared.")
    probe_standalone(
        pick(ProbeConfig, settings),
        trial_id=find_trial(settings.storage, settings.trial_id) if settings.trial_id else "",
        weights=settings.weights,
        input_size=settings.input_size,
        arch=settings.arch,
        evaluate=settings.evaluate,
        data=settings.data,
        storage=settings.storage,
        device=settings.device,
    )


@dataclass(frozen=True, kw_only=True)
class Status(StorageFlag):
    watch: bool = False
    """Print it again every few seconds, until Ctrl-C."""
    json: bool = False
    """Print a JSON list with one entry for each trial, for scripts."""


def status(settings: Status) -> None:
    """Show what every trial in a storage is doing: where, how far, how fast, ETA; and the error of each failed trial.

    Examples:
      mdssl status --storage s3://bucket/results
      mdssl status --watch
    """
    from mdssl.trials.status_output import print_json, print_status, watch_status

    if settings.json and settings.watch:
        raise InputError("--json and --watch cannot be combined; call `mdssl status --json` as often as you need it.")
    if settings.json:
        print_json(settings.storage)
    elif settings.watch:
        watch_status(settings.storage)
    else:
        print_status(settings.storage)


@dataclass(frozen=True, kw_only=True)
class Log(TrialArgument, StorageFlag):
    trial_id: tyro.conf.Positional[str] = field()
    follow: bool = False
    """Wait for new lines and print them, until Ctrl-C."""


def log(settings: Log) -> None:
    """Print the log of a trial: all its processes, over all restarts, with warnings, output and tracebacks.

    Example: mdssl log 0123456789ab --follow
    """
    from mdssl.storage.trial_log import print_log
    from mdssl.tables.trial_name import find_trial

    print_log(settings.storage, find_trial(settings.storage, settings.trial_id), follow=settings.follow)
