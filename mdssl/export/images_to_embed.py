"""What is to be embedded: a folder of images, Parquet, or a prepared dataset, each as rows that can be told apart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import SPLITS, Dataset, open_dataset
from mdssl.data.remote import ensure_local, is_prepared_in
from mdssl.data.sources.base import Findings, Part
from mdssl.data.sources.files import parquet_files, scan, shard_paths, suffixes
from mdssl.data.sources.parquet import parquet_images
from mdssl.errors import InputError, check_name
from mdssl.evaluate.neighbors.search import split_to_search
from mdssl.terminal import printable


@dataclass(frozen=True)
class ImagesToEmbed:
    """Images in a fixed order.

    Attributes:
        name: of the source, without the folders of this machine.
        part: the images; a label of -1 means that nobody knows.
        key_types: by name, the types of the columns that say which image a row is of.
        keys: rows (M,) to those columns' M values each.
        classes: class names; None where labels have none.
        state: rows (M,) to text that changes when one of these images does.
        dataset: the prepared dataset, if it is one.
    """

    name: str
    part: Part
    key_types: dict[str, pa.DataType]
    keys: Callable[[np.ndarray], dict[str, Sequence[Any]]]
    classes: tuple[str, ...] | None
    state: Callable[[np.ndarray], str]
    dataset: Dataset | None = None

    def __len__(self) -> int:
        return len(self.part.labels)

    @property
    def has_labels(self) -> bool:
        return bool((self.part.labels >= 0).any())

    def label_names(self, rows: np.ndarray) -> list[str | None]:
        labels = self.part.labels[rows]
        named = self.classes or ()
        return [None if x < 0 else named[x] if x < len(named) else str(x) for x in labels]


def open_images(source: str, *, data: str | Path, split: str = "") -> ImagesToEmbed:
    """Open ``source``: the path of a folder, of Parquet, or else the name of a dataset that is prepared in ``data``.

    A name that could be both is the dataset; ``./NAME`` is the folder.

    Args:
        data: folder or bucket of prepared datasets.
        split: only this one; all where it is empty.

    Raises:
        ValueError: nothing of these; no images; or no such split.
    """
    if "/" not in source and (source in BUILTIN or is_prepared_in(data, source)):
        return _dataset(source, data, split)
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(
            f"source {source!r} is no folder or file here, and no dataset that is prepared in {data}. Give a folder of "
            "images, Parquet shards, or a name that `mdssl data list` shows."
        )
    if path.suffix == ".parquet" or (path.is_dir() and parquet_files(path)):
        return _parquet(path, split)
    if not path.is_dir():
        raise InputError(f"source {source!r} is one file and no Parquet; give a folder of images.")
    if split:
        raise InputError(f"split is {split!r}, but a folder of images has none; leave it out, or name a folder in it.")
    return _folder(path)


def _folder(root: Path) -> ImagesToEmbed:
    findings = Findings()
    found = scan(root, findings)
    if not found:
        raise InputError(f"folder {str(root)!r} has no images, at any depth; read are {', '.join(sorted(suffixes()))}.")
    for reason, left in findings.left_out.items():
        print(printable(f"left out: {reason}: {left['count']:,}, such as {left['example']}"), file=sys.stderr)

    def keys(rows: np.ndarray) -> dict[str, Sequence[Any]]:
        return {"path": [found[row] for row in rows]}

    def state(rows: np.ndarray) -> str:
        return "\n".join(f"{found[row]} {_stamp(root / found[row])}" for row in rows)

    part = Part(np.full(len(found), -1), found.__getitem__, lambda rows: (root / found[row] for row in rows))
    return ImagesToEmbed(root.absolute().name, part, {"path": pa.string()}, keys, None, state)


def _stamp(file: Path) -> str:
    """Size and time of writing of a file."""
    try:
        stat = file.stat()
    except OSError:
        # A link to nothing. Whoever decodes it says so.
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _parquet(path: Path, split: str) -> ImagesToEmbed:
    classes, parts = parquet_images(path)
    files = [file for files in shard_paths(path).values() for file in files]
    shards = [f"{file.name} {_stamp(file)}" for file in files]
    return _of_splits(path.absolute().name, parts, classes, split, "\n".join(shards))


def _dataset(name: str, data: str | Path, split: str) -> ImagesToEmbed:
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
    borders = np.cumsum([0, *(len(part.labels) for part in parts.values())])

    def keys(rows: np.ndarray) -> dict[str, Sequence[Any]]:
        which = np.searchsorted(borders, rows, side="right") - 1
        return {"split": [names[index] for index in which], "row": rows - borders[which]}

    first, *others = parts.values()
    for other in others:
        first = Part.join(first, other)
    if not len(first.labels):
        raise InputError(f"{name} has no images in {', '.join(names)}.")
    types = {"split": pa.string(), "row": pa.int64()}

    def state_of(rows: np.ndarray) -> str:
        return f"{state} {names} {rows[0]}-{rows[-1]}"

    return ImagesToEmbed(name, first, types, keys, classes, state_of, dataset)
