"""The command ``mdssl``: one settings class and one function for each of its commands.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from mdssl.command_line import parse, run
from mdssl.config import ClusterSettings, TrialConfig, foreign_cluster_settings
from mdssl.errors import InputError, check_name
from mdssl.presets import PRESETS
from mdssl.run_config import ProbeConfig, RunSettings, check_gradient_caching
from mdssl.terminal import printable

_DATA = os.environ.get("MDSSL_DATA", "data")
_STORAGE = os.environ.get("MDSSL_STORAGE", "results")


@dataclass(frozen=True, kw_only=True)
class DataList:
    data: str = _DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def data_list(settings: DataList) -> None:
    """List the datasets that are prepared, and those that are known by name and are not.

    Example: mdssl data list
    """
    from mdssl.data.catalog import CATALOG, description_of
    from mdssl.data.local_copy import list_prepared

    prepared, problems = list_prepared(settings.data)
    print(f"prepared in {settings.data}:" if prepared else f"nothing is prepared in {settings.data} yet")
    for dataset in prepared:
        counts = " / ".join(f"{count:,} {split}" for split, count in dataset.counts.items())
        size, classes = dataset.image_size, len(dataset.classes)
        line = f"  {dataset.name:18} {counts:28} {classes:4} classes  {size}x{size}  {dataset.description}"
        print(printable(line))
    print("known by name; `mdssl data prepare NAME` prepares one:")
    there = {dataset.name for dataset in prepared}
    for name in CATALOG:
        if name not in there:
            print(f"  {name:18} {description_of(name)}; {CATALOG[name].splits}")
    if problems:
        raise InputError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class DataPrepare:
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to prepare: names that `mdssl data list` knows, or one new name together with --source."""
    source: str | None = None
    """File or folder to read: class folders, Parquet shards as Hugging Face lays them out, an npz, or raw downloads."""
    kind: str | None = None
    """What the source is: folder | parquet | npz | published (a known dataset's raw files); default: seen from its
    files."""
    download: bool = False
    """Fetch the raw files of a known dataset from its authors; goes on where it stopped."""
    size: int = 32
    """Height and width in pixels."""
    filter: str = "bicubic"
    """Resize filter: bicubic | bilinear | box | lanczos | nearest."""
    test_fraction: float = 0.2
    """Share of a source without a test split that becomes one, stratified by class."""
    seed: int = 0
    """Seed of that split, and of imagenet250k's choice of training images."""
    workers: int | None = None
    """Processes that decode images; default: one per CPU."""
    overwrite: bool = False
    """Replace what was prepared before with other settings."""
    data: str = _DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def data_prepare(settings: DataPrepare) -> None:
    """Turn images from any source into arrays to train on: decoded, RGB, one size. All or nothing.

    Examples:
      mdssl data prepare cifar10 svhn --download
      mdssl data prepare cells --source ~/pictures/cells
    """
    from mdssl.data.upload import prepare_in

    if not settings.names:
        raise InputError("no dataset is named; give one or more, e.g. `mdssl data prepare cifar10 --download`.")
    if settings.source and len(settings.names) > 1:
        raise InputError(
            f"one source cannot become {len(settings.names)} datasets ({', '.join(settings.names)}); "
            "prepare one at a time."
        )
    for name in settings.names:
        dataset = prepare_in(
            settings.data,
            name,
            source=settings.source,
            kind=settings.kind,
            download=settings.download,
            image_size=settings.size,
            resize_filter=settings.filter,
            workers=settings.workers,
            overwrite=settings.overwrite,
            seed=settings.seed,
            test_fraction=settings.test_fraction,
        )
        counts = ", ".join(f"{count:,} {split}" for split, count in dataset.counts.items())
        place = dataset.path if dataset.builtin else f"{settings.data.rstrip('/')}/{name}"
        print(f"{name}: {counts} images of {len(dataset.classes)} classes in {place}")


@dataclass(frozen=True, kw_only=True)
class DataShow:
    name: tyro.conf.Positional[str]
    """A prepared dataset."""
    split: str = "train"
    """train | test"""
    per_class: int = 10
    """Images of each class."""
    output: str | None = None
    """PNG file to write; default: NAME-SPLIT.png here."""
    data: str = _DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def data_show(settings: DataShow) -> None:
    """Write a contact sheet: random images of each class, with class names. Look before you train.

    Example: mdssl data show builtin-shapes
    """
    from mdssl.data.contact_sheet import contact_sheet
    from mdssl.data.local_copy import at_hand
    from mdssl.data.prepared import open_dataset

    path = settings.output or f"{settings.name}-{settings.split}.png"
    if not path.lower().endswith(".png"):
        raise InputError(f"output {path!r} would not be a PNG file by its name; end it in .png.")
    data = at_hand(settings.data, [settings.name], progress=True)
    contact_sheet(open_dataset(data, settings.name), settings.split, path, per_class=settings.per_class)
    print(path)


@dataclass(frozen=True, kw_only=True)
class Train(TrialConfig, RunSettings):
    data_fingerprint: Annotated[str, tyro.conf.Suppress] = ""
    weights: Annotated[str, tyro.conf.Suppress] = ""
    weights_fingerprint: Annotated[str, tyro.conf.Suppress] = ""
    input_size: Annotated[int | None, tyro.conf.Suppress] = None
    preset: str = "quick"
    """What is not given comes from: quick (built-in domains, ResNet-18, minutes on a CPU) | cifar (ResNet-18, cifar
    stem, 100 epochs: one GPU) | paper (section 3.1)."""
    device: str = "auto"
    """cpu | cuda | auto (a GPU where there is one)."""
    storage: str = _STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = _DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""

    def __post_init__(self) -> None:
        check_name("preset", self.preset, PRESETS)
        if self.method == "random" and self.domains == PRESETS[self.preset].get("domains"):
            # The preset's domains, which nobody asked for.
            object.__setattr__(self, "domains", ())
        self._refuse_settings_of_other_methods()
        TrialConfig.__post_init__(self)
        RunSettings.__post_init__(self)
        check_gradient_caching(self, self)

    def _refuse_settings_of_other_methods(self) -> None:
        for field in fields(ClusterSettings):
            unasked = PRESETS[self.preset].get(field.name, field.default)
            if field.name in foreign_cluster_settings(self.method) and getattr(self, field.name) != unasked:
                raise InputError(
                    f"{field.name} is {getattr(self, field.name)!r}, but method {self.method!r} has no such setting; "
                    "leave it out, or choose a clustered method."
                )


def train(settings: Train) -> None:
    """Train one encoder without Ray, or go on with it. Under torchrun each process is a worker of the one trial.

    Examples:
      mdssl train --lambda1 0.9 --lambda2 0.1
      torchrun --nproc-per-node 2 -m mdssl train --lambda1 0.9 --lambda2 0.1
    """
    from mdssl.pretrain.standalone import train_standalone

    train_standalone(settings)


@dataclass(frozen=True, kw_only=True)
class Probe(ProbeConfig):
    trial_id: tyro.conf.Positional[str] = ""
    """A trained trial: the 12 hex digits that `mdssl train` and the leaderboard print."""
    weights: str = ""
    """Instead of a trial: the file of an encoder that was pretrained elsewhere: torchvision, timm, solo-learn, lightly,
    Bolts, safetensors."""
    input_size: int | None = None
    """Pixels that images are resized to for it; default: as they are prepared. 224 for most ImageNet encoders."""
    evaluate: tuple[str, ...] = ()
    """Prepared datasets to score on; default: those the trial was trained on."""
    device: str = "auto"
    """cpu | cuda | auto (a GPU where there is one)."""
    storage: str = _STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = _DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def probe(settings: Probe) -> None:
    """Score a trained encoder on more datasets, or with another probe, and add the rows to the leaderboard.

    Examples:
      mdssl probe 0123456789ab --evaluate stl10 --probe sgd
      mdssl probe --weights resnet50.pth --input-size 224 --evaluate cifar10
    """
    from mdssl.sweep.standalone import probe_standalone

    probe_standalone(settings)


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    method: tuple[str, ...] = ()
    """Only these methods."""
    train_mixture: tuple[str, ...] = ()
    """Only these training mixtures, written cifar10+svhn."""
    evaluate: tuple[str, ...] = ()
    """Only these evaluation datasets."""
    probe: str | None = None
    """Scores of this probe; default: of each that has been run."""
    features: str = "encoder"
    """Scores of this layer: encoder | projection."""
    compact: bool = False
    """First copy all rows into one file, leaderboard-compacted.parquet, from which thousands of trials are read in a
    moment. The files of the trials stay the truth: what changes later is still read from them."""
    storage: str = _STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


def leaderboard(settings: Leaderboard) -> None:
    """Print what storage holds: for each training mixture and probe a table, one row a trial, top-1 in percent.

    Examples:
      mdssl leaderboard --method mdssl simclr --evaluate cifar10
      mdssl leaderboard --compact
    """
    from mdssl.results.compacted import compact
    from mdssl.results.table import print_leaderboard

    if settings.compact:
        print(compact(settings.storage))
    print_leaderboard(
        settings.storage,
        method=settings.method,
        train_mixture=settings.train_mixture,
        evaluate=settings.evaluate,
        probe=settings.probe,
        features=settings.features,
    )


@dataclass(frozen=True, kw_only=True)
class Status:
    watch: bool = False
    """Say it again every few seconds, until Ctrl-C."""
    json: bool = False
    """As a JSON list with one entry a trial, for scripts."""
    storage: str = _STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


def status(settings: Status) -> None:
    """Say what every trial in a storage is doing: where, how far, how fast, ETA, and why what failed did. Reads files
    alone.

    Examples:
      mdssl status --storage s3://bucket/results
      mdssl status --watch
    """
    from mdssl.sweep.status import print_json, print_status, watch_status

    if settings.json and settings.watch:
        raise InputError("json and watch go not together; call `mdssl status --json` as often as you need it.")
    if settings.json:
        print_json(settings.storage)
    elif settings.watch:
        watch_status(settings.storage)
    else:
        print_status(settings.storage)


@dataclass(frozen=True, kw_only=True)
class Log:
    trial_id: tyro.conf.Positional[str]
    """A trial: the 12 hex digits that `mdssl status` and the leaderboard print."""
    follow: bool = False
    """Go on with what is new, until Ctrl-C."""
    storage: str = _STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


def log(settings: Log) -> None:
    """Print what the processes of a trial have logged, warned of and printed, over all its starts, with tracebacks.

    Example: mdssl log 0123456789ab --follow
    """
    from mdssl.trial_log import print_log

    print_log(settings.storage, settings.trial_id, follow=settings.follow)


COMMANDS: dict[str, tuple[type, Callable]] = {
    "data list": (DataList, data_list),
    "data prepare": (DataPrepare, data_prepare),
    "data show": (DataShow, data_show),
    "train": (Train, train),
    "probe": (Probe, probe),
    "leaderboard": (Leaderboard, leaderboard),
    "status": (Status, status),
    "log": (Log, log),
}


def _main(argv: Sequence[str]) -> None:
    words = argv[:2] if argv[:1] == ["data"] else argv[:1]
    if not argv or "--help" in words or "-h" in words or words == ["data"]:
        print(_usage())
        return
    command = " ".join(words)
    check_name("command", command, COMMANDS, "`mdssl --help` says what each does.")
    settings_class, function = COMMANDS[command]
    description = inspect.cleandoc(function.__doc__)
    settings = parse(settings_class, prog=f"mdssl {command}", description=description, argv=argv[len(words) :])
    function(settings)


def _usage() -> str:
    lines = ["usage: mdssl COMMAND [flags]; `mdssl COMMAND --help` lists the flags, defaults and an example", ""]
    lines += [f"  {name:14} {function.__doc__.strip().splitlines()[0]}" for name, (_, function) in COMMANDS.items()]
    lines += ["", "Sweeps are scripts of their own: python sweeps/lambda_grid.py --help"]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the command ``mdssl``."""
    run(_main)
