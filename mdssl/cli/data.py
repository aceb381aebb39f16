"""Commands that prepare and show datasets: ``mdssl data list``, ``prepare`` and ``show``.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from mdssl.cli.places import DataFlag
from mdssl.errors import InputError
from mdssl.terminal import printable

if TYPE_CHECKING:
    from mdssl.data.sources.base import Reading


def data_list(settings: DataFlag) -> None:
    """List the prepared datasets, and the other datasets that are known by name.

    Example: mdssl data list
    """
    from mdssl.data.remote import list_prepared
    from mdssl.data.sources.catalog import CATALOG, description_of
    from mdssl.data.summary import counts_in_words

    prepared, problems = list_prepared(settings.data)
    print(f"prepared in {settings.data}:" if prepared else f"nothing is prepared in {settings.data} yet")
    for dataset in prepared:
        size, left = dataset.image_size, sum(left["count"] for left in dataset.meta.get("left_out", {}).values())
        name = f"{dataset.name} ({dataset.variant})" if dataset.variant else dataset.name
        line = f"  {name:18} {counts_in_words(dataset):44} {size}x{size}  {dataset.description}"
        print(printable(line + (f"; {left:,} left out, see `mdssl data show {dataset.name}`" if left else "")))
    print("known by name, to prepare with `mdssl data prepare NAME`:")
    there = {dataset.name for dataset in prepared}
    for name in CATALOG:
        if name not in there:
            print(f"  {name:18} {description_of(name)}; {CATALOG[name].splits}")
    if problems:
        raise InputError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class DataPrepare(DataFlag):
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Datasets to prepare: names that `mdssl data list` shows, or new ones together with --source."""
    source: str | None = None
    """File or folder to read: class folders, images without labels, Parquet shards in the layout of Hugging Face, an
    npz file, or raw downloads. With several names, the folder that has a folder for each name."""
    kind: str | None = None
    """Kind of the source: folder | parquet | npz | published (a known dataset's raw files); default: detected."""
    splits: tuple[str, ...] = ()
    """Folder or Parquet file of each split in the source, such as train=Training test=Testing; or none, if names such
    as train are classes. Default: by names such as train, val and test."""
    classes: tuple[str, ...] = ()
    """Only these classes, in this order; or none: read the images without labels, for pretraining only."""
    label_column: str | None = None
    """Column of Parquet files with the classes; default: label, fine_label, labels or target."""
    download: bool = False
    """Fetch the raw files of a known dataset from its authors; an interrupted download is resumed."""
    size: int = 32
    """Height and width in pixels."""
    filter: str = "bicubic"
    """Resize filter: bicubic | bilinear | box | lanczos | nearest."""
    test_fraction: float = 0.2
    """Share of test images, stratified by class, for a source without a test split."""
    seed: int = 0
    """Seed of that split, and of the choice of training images of imagenet250k."""
    workers: int | None = None
    """Processes that decode images; default: one per CPU."""
    overwrite: bool = False
    """Replace a dataset that was prepared with other settings."""
    skip_damaged: bool = False
    """Leave out images that cannot be decoded. Without it, the first of them are listed and nothing is prepared."""


def data_prepare(settings: DataPrepare) -> None:
    """Decode images from any source into arrays for training: RGB, one size. All or nothing.

    An interrupted run continues where it stopped. Prints what was taken and what was left out; `mdssl data show` prints
    it again.

    Examples:
      mdssl data prepare cifar10 svhn --download
      mdssl data prepare cells --source ~/pictures/cells
      mdssl data prepare slides --source ~/pictures/slides --classes none
    """
    from mdssl.data.remote import prepare_in
    from mdssl.data.settings import check_dataset_name
    from mdssl.data.summary import counts_in_words, summary

    if not settings.names:
        raise InputError("no dataset is named; give one or more, such as `mdssl data prepare cifar10 --download`.")
    for name, value in (("source", settings.source), ("data", settings.data)):
        if value is not None and not value.strip():
            raise InputError(f"{name} is empty; is a variable on the command line not set?")
    for name in settings.names:
        check_dataset_name(name)
    sources = dict.fromkeys(settings.names, settings.source)
    if settings.source and len(settings.names) > 1:
        sources = {name: f"{settings.source.rstrip('/')}/{name}" for name in settings.names}
    for name, source in sources.items():
        dataset = prepare_in(
            settings.data,
            name,
            source=source,
            kind=settings.kind,
            reading=_reading(settings),
            download=settings.download,
            image_size=settings.size,
            resize_filter=settings.filter,
            workers=settings.workers,
            overwrite=settings.overwrite,
            skip_damaged=settings.skip_damaged,
            seed=settings.seed,
            test_fraction=settings.test_fraction,
        )
        place = dataset.path if dataset.builtin else f"{settings.data.rstrip('/')}/{name}"
        print(printable(f"{name}: {counts_in_words(dataset)} in {place}"))
        for line in summary(dataset):
            print(printable(f"  {line}"))


def _reading(settings: DataPrepare) -> Reading:
    from mdssl.data.sources.base import Reading

    splits: dict[str, str] | None = {} if settings.splits == ("none",) else None
    if settings.splits and splits is None:
        splits = {}
        for text in settings.splits:
            split, _, place = text.partition("=")
            if not split or not place or split in splits:
                raise InputError(
                    f"splits has {text!r}; write SPLIT=FOLDER_OR_FILE for each split, such as train=Training, or none."
                )
            splits[split] = place
    classes = () if settings.classes == ("none",) else settings.classes or None
    return Reading(splits=splits, classes=classes, label_column=settings.label_column)


@dataclass(frozen=True, kw_only=True)
class DataShow(DataFlag):
    name: tyro.conf.Positional[str]
    """A prepared dataset."""
    split: str = "train"
    """train | test"""
    per_class: int = 10
    """Images of each class."""
    max_classes: int = 20
    """Maximum number of classes."""
    output: str | None = None
    """PNG file to write; default: NAME-SPLIT.png here."""


def data_show(settings: DataShow) -> None:
    """Write a contact sheet, random images of each class, and print how they were prepared.

    Example: mdssl data show builtin-shapes
    """
    from mdssl.data.contact_sheet import contact_sheet
    from mdssl.data.dataset import open_dataset
    from mdssl.data.remote import ensure_local
    from mdssl.data.summary import counts_in_words, summary

    path = settings.output or f"{settings.name}-{settings.split}.png"
    if not path.lower().endswith(".png"):
        raise InputError(f"output {path!r} would not be a PNG file by its name; end it in .png.")
    data = ensure_local(settings.data, [settings.name], progress=True)
    dataset = open_dataset(data, settings.name)
    contact_sheet(dataset, settings.split, path, per_class=settings.per_class, max_classes=settings.max_classes)
    for line in (f"{settings.name}: {counts_in_words(dataset)}", *summary(dataset), path):
        print(printable(line))
