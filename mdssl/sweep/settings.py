"""The settings that every sweep shares. A sweep adds its own axes in a subclass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import tyro

from mdssl.config.field_types import current_name, parse_as, pick
from mdssl.config.methods import METHODS
from mdssl.config.presets import DATA, STORAGE
from mdssl.config.probe import ProbeConfig, check_layers
from mdssl.config.run import RunSettings
from mdssl.config.trial import ClusterSettings, Recipe, TrialConfig, check_lambda1, check_mixture
from mdssl.errors import InputError, check_name, check_number
from mdssl.sweep.search.settings import SearchSettings


@dataclass(frozen=True, kw_only=True)
class SweepSettings(Recipe, ProbeConfig, RunSettings, SearchSettings):
    """The fixed settings of a sweep, its resources, and the place of its results."""

    own_axes: ClassVar[tuple[str, ...]] = ()
    """Settings of a trial that the sweep has axes for under other names."""
    methods_left_out: ClassVar[tuple[str, ...]] = ()
    """Methods whose trials the sweep may leave out for lack of a dataset."""
    evaluates_domains: ClassVar[bool] = False
    """Whether ``evaluate`` defaults to the domains; those without labels are then left out."""

    preset: str = "quick"
    """Defaults of settings that are not given: quick (built-in domains, ResNet-18, minutes on a CPU) | cifar
    (ResNet-18, cifar stem, 200 epochs: one GPU) | vit (ViT-Tiny, AdamW) | convnext (ConvNeXt-Atto, AdamW) | paper
    (section 3.1)."""
    domains: tuple[str, ...] = ()
    """Prepared datasets to train on, one domain each. Their order is part of a trial's id."""
    evaluate: tuple[str, ...] = ()
    """Prepared datasets to score on; default: the training domains that have labels."""
    lambda1: tuple[float, ...] = (1.0,)
    """Weights of the within-domain term, each in (0, 1]. The paper's figures label this axis -lambda1."""
    lambda2: tuple[float, ...] = (0.1,)
    """Weights of the across-domain term, each at least 0; useful up to about 0.2."""
    temperature: tuple[float, ...] = (0.1,)
    """Temperatures, at least 0.02; each is an axis of the grid."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each repeats the whole grid, its baselines included."""
    grid: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """One more axis: a setting without an axis, and its values: --grid learning_rate 2 4"""
    pretrained: tuple[str, ...] = ()
    """Files of pretrained weights, each a trial: torchvision, timm, solo-learn, lightly, Bolts, or
    safetensors; or torchvision or timm, for those that they publish of --arch."""
    input_size: int | None = None
    """Pixels that images are resized to for them; default: as they are prepared."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA); each machine keeps a copy of a bucket's, in the folder
    that MDSSL_DATA_CACHE names."""
    workers: int = 1
    """Data-parallel workers of each trial."""
    cpus_per_worker: int = 1
    """CPU cores, and so torch threads, of each worker."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; default: 1 if there are any. With one worker these are the trial's: 0.5
    puts two trials on a GPU."""
    executor: Literal["torchtrainer", "inline"] = "torchtrainer"
    """torchtrainer (Ray Train, any number of workers) | inline (one worker inside the Tune trial: starts in a second).
    """
    max_concurrent: int | None = None
    """Trials that train at once; default: as many as fit. With --address, for how many a cluster may start nodes."""
    address: str | None = None
    """A running Ray cluster, e.g. auto; default: a private Ray on this machine."""
    dry_run: bool = False
    """Print the planned trials and their states, then stop."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of finished trials, which are deleted once a trial has all its scores."""
    force: bool = False
    """Train and score all trials of this sweep again; their earlier results are deleted."""
    retry_failed: bool = False
    """Try failed trials and failed probes again."""

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        ProbeConfig.__post_init__(self)
        RunSettings.__post_init__(self)
        SearchSettings.__post_init__(self)
        if isinstance(self, ClusterSettings):
            ClusterSettings.__post_init__(self)
        self._check_workers()
        self._check_domains()
        if self.scheduler != "none" and self.score_every == 0:
            raise InputError(
                f"scheduler {self.scheduler!r} ends trials by their validation scores, but score_every is 0; leave "
                "--score-every out, or use --scheduler none."
            )
        if self.scheduler != "none" and self.search == "grid" and len(self.seeds) > 1:
            seeds = ", ".join(map(str, self.seeds))
            raise InputError(
                f"seeds are {seeds}, but scheduler {self.scheduler!r} ends trials one by one: the mean of a setting "
                "would be over its better seeds. Give one seed, or --scheduler none."
            )
        if self.force and self.skips_stopped:
            raise InputError(
                "force deletes the results of a sweep's trials, but a search chooses its trials by earlier results; "
                "leave --force out, and for new results use another --storage."
            )
        for axis in ("lambda1", "lambda2", "temperature", "seeds", "evaluate"):
            check_axis(axis, getattr(self, axis))
        for value in self.lambda1:
            check_lambda1(value)
        for value in self.lambda2:
            check_number("lambda2", value, low=0)
        starts = {self.init, *self.grid_axes.get("init", ())} - {"random"}
        # The sweep scores these, too, as they are before training.
        check_layers(self.features, bool(self.pretrained or starts))
        if self.input_size is not None and not self.pretrained:
            raise InputError(f"input_size is {self.input_size}, but there is no pretrained encoder; add --pretrained.")

    def _check_workers(self) -> None:
        check_number("workers", self.workers, low=1)
        check_number("cpus_per_worker", self.cpus_per_worker, low=1)
        if self.max_concurrent is not None:
            check_number("max_concurrent", self.max_concurrent, low=1)
        if self.executor == "inline" and self.workers > 1:
            raise InputError(
                f"executor 'inline' runs one worker inside the trial, but workers is {self.workers}; "
                "use --executor torchtrainer."
            )
        gpus = self.gpus_per_worker
        if gpus is None:
            return
        check_number("gpus_per_worker", gpus, low=0)
        if gpus % 1 and not 0.01 <= gpus < 1:
            raise InputError(
                f"gpus_per_worker is {gpus:g}; it must be a whole number of GPUs, or a part of one from 0.01, such as "
                "0.5."
            )
        if self.workers > 1 and gpus % 1:
            raise InputError(
                f"gpus_per_worker is {gpus} with {self.workers} workers, but NCCL refuses two ranks on one GPU; use "
                "one worker, or a whole number of GPUs."
            )

    def _check_domains(self) -> None:
        check_mixture(self.domains)
        if not self.domains:
            raise InputError(
                f"preset {self.preset!r} names no domains to train on; give prepared datasets with --domains, e.g. "
                "--domains cifar10 svhn. `mdssl data list` shows them."
            )
        if not self.evaluate:
            object.__setattr__(self, "evaluate", self.domains)
            object.__setattr__(self, "evaluates_domains", True)

    def entries(self, *methods: str | Mapping[str, Any]) -> list[dict[str, Any]]:
        """The settings of ``methods``: names, or settings such as ``{"method": "simclr", "domains": ("cifar10",)}``.

        Raises:
            InputError: an unknown method or setting.
        """
        found = [{"method": method} if isinstance(method, str) else dict(method) for method in methods]
        for entry in found:
            if "method" not in entry:
                raise InputError(f"{entry} names no method; add one, such as {{'method': 'mdssl'}}.")
            check_name("method", entry["method"], METHODS)
            for name in entry:
                check_name("setting of a method", name, (field.name for field in fields(TrialConfig)))
        return found

    def expand(self, *methods: str | Mapping[str, Any]) -> list[dict[str, Any]]:
        """Settings for `mdssl.sweep.grid.trials`: each of ``methods`` (see `entries`), at every pair of λ1 and λ2 if
        its loss has them."""
        lambdas = [{"lambda1": first, "lambda2": second} for first in self.lambda1 for second in self.lambda2]
        found: list[dict[str, Any]] = []
        for entry in self.entries(*methods):
            found += [pair | entry for pair in (lambdas if METHODS[entry["method"]].weighs_domains else [{}])]
        return found

    @property
    def grid_axes(self) -> dict[str, tuple[Any, ...]]:
        """The values of each axis of ``--grid``, in their types.

        Raises:
            ValueError: an unknown setting, one with an axis, or invalid values.
        """
        types = get_type_hints(type(self))
        axes: dict[str, tuple[Any, ...]] = {}
        for name, *texts in (axis or ("",) for axis in self.grid):
            name = current_name(name.replace("-", "_"))
            valid = [name for name in self.trial_settings if name not in self.own_axes]
            hint = "Domains, λ1, λ2, temperature, seeds and the like have their own flags."
            check_name("grid axis", name, valid, hint)
            if name in axes:
                raise InputError(f"axis {name} is in --grid twice; give all its values at once.")
            axes[name] = tuple(parse_as(name, text, types[name]) for text in texts)
            check_axis(name, axes[name])
        return axes

    @property
    def repeats(self) -> int:
        """The number of trials at each point of a script's axes: by seeds, temperatures and ``--grid``."""
        return math.prod(map(len, (self.seeds, self.temperature, *self.grid_axes.values())))

    @property
    def trial_settings(self) -> dict[str, Any]:
        """Settings of all trials, with those of `ClusterSettings` in a script with methods that find their domains."""
        shared = asdict(pick(Recipe, self))
        return shared | asdict(pick(ClusterSettings, self)) if isinstance(self, ClusterSettings) else shared

    @property
    def probe_config(self) -> ProbeConfig:
        return pick(ProbeConfig, self)

    @property
    def run_settings(self) -> RunSettings:
        return pick(RunSettings, self)


@dataclass(frozen=True, kw_only=True)
class WithMoreMethods(SweepSettings):
    """A sweep that can train further methods."""

    add_methods: tuple[str, ...] = ()
    """Methods to train beside those of the sweep: simclr-weighted, or the control mdssl-shuffled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.add_methods:
            check_axis("add_methods", self.add_methods)
        for name in self.add_methods:
            trained = [method.name for method in METHODS.values() if method.trains and not method.finds_domains]
            check_name("method to add", name, trained, "`mdssl sweep clustering` has the clustered methods.")


def check_axis(name: str, values: Sequence[object]) -> None:
    """Raise ``ValueError`` unless the axis has values, each of them once."""
    if not values:
        raise InputError(f"axis {name} has no value; give at least one.")
    if len(set(values)) < len(values):
        raise InputError(f"axis {name} has a value twice: {', '.join(map(str, values))}; name each once.")
