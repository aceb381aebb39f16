"""Commands that prepare and show datasets: ``mdssl data list``, ``prepare`` and ``show``.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from mdssl.commands.places import DATA
from mdssl.errors import InputError
from mdssl.terminal import printable


@dataclass(frozen=True, kw_only=True)
class DataList:
    data: str = DATA
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
    data: str = DATA
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
    data: str = DATA
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
