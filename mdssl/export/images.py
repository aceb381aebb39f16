"""Images for an encoder: how they are resized for it, and the sources that ``mdssl embed`` reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mdssl.config.trial import TrialConfig
from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import SPLITS, Dataset, open_dataset
from mdssl.data.decode import FILTERS, LARGEST_SIZE, SMALLEST_SIZE, grey_bits
from mdssl.data.mixture import fingerprint_of
from mdssl.data.remote import described_in, ensure_local, is_prepared_in
from mdssl.data.sources.base import Findings, Part
from mdssl.data.sources.files import parquet_files, scan, shard_paths, suffixes
from mdssl.data.sources.parquet import parquet_images
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.neighbors.search import split_to_search
from mdssl.terminal import printable


@dataclass(frozen=True)
class Preparation:
    """How images are resized before they are encoded: to ``size`` x ``size`` pixels by `FILTERS`' ``filter``."""

    size: int
    filter: str


def preparation_of(
    config: TrialConfig,
    data: str | Path,
    *,
    scored_on: Sequence[str] = (),
    size: int | None = None,
    resize_filter: str | None = None,
) -> Preparation:
    """Return the preparation of the trial's training images, as far as ``size`` and ``resize_filter`` do not set it.

    For an encoder that was not trained here, it is that of its input size or of the datasets in ``scored_on``.

    Args:
        data: folder or bucket of prepared datasets.
        scored_on: names of datasets; those that are not prepared in ``data`` are ignored.

    Raises:
        ValueError: an invalid size or filter; or neither the arguments nor the datasets determine both.
    """
    if size is not None:
        check_number("size", size, low=SMALLEST_SIZE, high=LARGEST_SIZE, hint="It is in pixels.")
    if resize_filter is not None:
        check_name("resize filter", resize_filter, FILTERS)
    if config.input_size is not None:
        size = size or config.input_size
        # Of a trained encoder it is that of its training images.
        resize_filter = resize_filter or (None if config.domains else "bicubic")
    if size is not None and resize_filter is not None:
        return Preparation(size, resize_filter)
    datasets = _datasets_of(config, data, scored_on)
    return Preparation(
        size or _common("size", {dataset.image_size for dataset in datasets}),
        resize_filter or _common("filter", {dataset.meta["resize_filter"] for dataset in datasets}),
    )


def _datasets_of(config: TrialConfig, data: str | Path, scored_on: Sequence[str]) -> list[Dataset]:
    names = config.domains or tuple(dict.fromkeys(scored_on))
    if not names:
        raise InputError(
            "the encoder has no training or evaluation datasets, so the size of its images is unknown. Give --size and "
            "--filter (`mdssl embed --weights`: or --input-size, such as 224)."
        )
    found = [described_in(data, name) for name in names if is_prepared_in(data, name)]
    hint = "so the size of its images is unknown. Give the --data that has them, or --size and --filter."
    if not found:
        listed = f"none of its {'training' if config.domains else 'evaluation'} datasets ({', '.join(names)})"
        raise InputError(f"trial {config.trial_id}: {listed} is prepared in {data}, {hint}")
    if config.domains and fingerprint_of(found) != config.data_fingerprint:
        raise InputError(
            f"trial {config.trial_id} was trained on {config.train_mixture}, and the datasets of these names in {data} "
            f"have other images or are incomplete, {hint}"
        )
    return found


def _common(what: str, found: set[Any]) -> Any:
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise InputError(f"its datasets were prepared with different {what}s ({listed}); choose one with --{what}.")
    return found.pop()


@dataclass(frozen=True)
class ImagesToEmbed:
    """Images in a fixed order.

    Attributes:
        name: of the source, without its folder.
        part: the images and their labels; a label of -1 is unknown.
        keys: rows (M,) to the columns that identify these images, M values each.
        classes: class names; None if labels have no names.
        state: rows (M,) to text that changes when one of these images changes.
        dataset: the prepared dataset, if the source is one.
    """

    name: str
    part: Part
    keys: Callable[[np.ndarray], dict[str, pa.Array]]
    classes: tuple[str, ...] | None
    state: Callable[[np.ndarray], str]
    dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self.part.labels)

    @cached_property
    def bits(self) -> int:
        """`grey_bits` of all images."""
        return grey_bits(self.part)

    def columns(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Return the keys of ``rows``, and ``label`` where any image of the source has one."""
        if (self.part.labels < 0).all():
            return self.keys(rows)
        names = dict(enumerate(self.classes or ()))
        labels = [None if label < 0 else names.get(label, str(label)) for label in self.part.labels[rows]]
        return self.keys(rows) | {"label": pa.array(labels, pa.string())}


def open_images(source: str, *, data: str | Path, split: str = "") -> ImagesToEmbed:
    """Open ``source``: the path of a folder or of Parquet files, or the name of a dataset that is prepared in ``data``.

    Where both exist, a name is the dataset, and ``./NAME`` is the folder; a line on stderr says so.

    Args:
        data: folder or bucket of prepared datasets.
        split: the only split to read; all if it is empty.

    Raises:
        ValueError: there is no such source or split, or it has no images.
    """
    if "/" not in source and (source in BUILTIN or is_prepared_in(data, source)):
        # In the folder of datasets, the two are one.
        if Path(source).exists() and not is_prepared_in(".", source):
            print(
                printable(f"{source}: the dataset prepared in {data}; ./{source} names what is here"), file=sys.stderr
            )
        return _open_dataset(source, data, split)
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(
            f"source {source!r} is neither a folder or file nor a dataset that is prepared in {data}. Give a folder of "
            "images, Parquet shards, or a name that `mdssl data list` shows."
        )
    if path.suffix.lower() == ".parquet" or (path.is_dir() and parquet_files(path)):
        return _open_parquet(path, split)
    if not path.is_dir():
        raise InputError(f"source {source!r} is a file, but not Parquet; give a folder of images.")
    if split:
        raise InputError(f"split is {split!r}, but a folder of images has none; leave it out, or name a folder in it.")
    return _open_folder(path)


def _open_folder(root: Path) -> ImagesToEmbed:
    findings = Findings()
    found = scan(root, findings)
    if not found:
        allowed = ", ".join(sorted(suffixes()))
        raise InputError(f"folder {str(root)!r} has no images, at any depth; supported suffixes: {allowed}.")
    for reason, left in findings.left_out.items():
        print(printable(f"left out: {reason}: {left['count']:,}, such as {left['example']}"), file=sys.stderr)

    def state(rows: np.ndarray) -> str:
        return "\n".join(f"{found[row]} {_size_and_time(root / found[row])}" for row in rows)

    return ImagesToEmbed(
        name=root.absolute().name,
        part=Part(np.full(len(found), -1), found.__getitem__, lambda rows: (root / found[row] for row in rows)),
        keys=lambda rows: {"path": pa.array([found[row] for row in rows], pa.string())},
        classes=None,
        state=state,
    )


def _size_and_time(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError:
        # The decoder reports a file that is gone.
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _open_parquet(path: Path, split: str) -> ImagesToEmbed:
    classes, parts, from_labels = parquet_images(path)
    files = [file for files in shard_paths(path).values() for file in files]
    state = "\n".join(f"{file.name} {_size_and_time(file)}" for file in files)
    # Earlier versions left such labels out.
    state += "\nlabels that are not integers" if from_labels and classes else ""
    return _of_splits(path.absolute().name, parts, classes, split, state)


def _open_dataset(name: str, data: str | Path, split: str) -> ImagesToEmbed:
    dataset = open_dataset(ensure_local(data, [name], progress=True), name)
    parts = {each: _prepared_part(dataset, each) for each in SPLITS}
    state = " ".join(dataset.fingerprints.values())
    return _of_splits(name, parts, dataset.classes or None, split, state, dataset)


def _prepared_part(dataset: Dataset, split: str) -> Part:
    arrays = split_to_search(dataset, split)
    return Part(
        np.asarray(arrays.labels) if dataset.is_labelled else np.full(len(arrays.labels), -1),
        lambda row: f"{dataset.name} {split} image {row}",
        lambda rows: (arrays.images[row] for row in rows),
    )


def _of_splits(
    name: str,
    parts: dict[str, Part],
    classes: tuple[str, ...] | None,
    split: str,
    state: str,
    dataset: Dataset | None = None,
) -> ImagesToEmbed:
    if split:
        check_name("split", split, parts)
        parts = {split: parts[split]}
    names = list(parts)
    starts = np.cumsum([0, *(len(part.labels) for part in parts.values())])
    if not starts[-1]:
        raise InputError(f"{name} has no images in {', '.join(names)}.")

    def keys(rows: np.ndarray) -> dict[str, pa.Array]:
        which = np.searchsorted(starts, rows, side="right") - 1
        return {
            "split": pa.array([names[index] for index in which], pa.string()),
            "row": pa.array(rows - starts[which], pa.int64()),
        }

    joined = Part.join(*parts.values())
    return ImagesToEmbed(name, joined, keys, classes, lambda rows: f"{state} {names} {rows[0]}-{rows[-1]}", dataset)
