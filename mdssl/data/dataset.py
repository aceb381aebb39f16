"""Prepared datasets: where they lie, what ``meta.json`` says of them, and their arrays as read-only memory maps.

    <data>/<name>/meta.json
    <data>/<name>/{train,test}/images.npy      uint8 (N, S, S, 3)
    <data>/<name>/{train,test}/labels.npy      int64 (N,)

Images for pretraining alone, where a dataset has some, follow the labelled ones in ``train/images.npy``: pretraining
maps one array, and whoever asks for the train split never sees them.

All trials of a node map the same files, so the page cache holds one copy of the pixels however many trials run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np

from mdssl.data.sources.catalog import CATALOG, size_words, variant_of
from mdssl.errors import InputError, check_name

SPLITS = ("train", "test")
# In ``meta.json`` beside the splits, where there are such images.
UNLABELLED = "unlabelled"
META_FORMAT = 1
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        images: uint8 (N, S, S, 3), RGB, a read-only memory map.
        labels: int64 (N,), class numbers.
        fingerprint: SHA-256 in hex over the shape and bytes of both, as ``meta.json`` has it.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset; nothing but ``meta.json`` has been read.

    Attributes:
        name: the name it was prepared under.
        path: its folder.
        classes: class names; a label is an index into them.
        image_size: S, height and width in pixels.
        meta: all of ``meta.json``.
        data: the data folder or bucket that it is from, as the user knows it.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    image_size: int
    meta: dict
    data: str

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of images by split, that of the unlabelled ones among them where there are any."""
        return {split: self.meta["splits"][split]["count"] for split in self._written}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The SHA-256 of each split, and of the unlabelled images, without opening the arrays."""
        return {split: self.meta["splits"][split]["sha256"] for split in self._written}

    @property
    def pretraining_count(self) -> int:
        """How many images ``pretraining_images`` has."""
        return self.counts["train"] + self.counts.get(UNLABELLED, 0)

    @property
    def pretraining_fingerprint(self) -> str:
        """64 hex digits over all that pretraining sees: the train split's own where no image is unlabelled."""
        if UNLABELLED not in self.fingerprints:
            return self.fingerprints["train"]
        both = f"{self.fingerprints['train']}\n{self.fingerprints[UNLABELLED]}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def is_labelled(self) -> bool:
        """Whether it has classes, and so scores; without, all its images are ``UNLABELLED`` ones for pretraining."""
        return bool(self.classes)

    @property
    def variant(self) -> str:
        """What sets it apart from the published dataset of its name, such as ``"4,434 of 73,257"``; mostly empty."""
        counts = {"unlabelled": 0} | self.counts
        words = self.meta.get("variant", variant_of(self.name, classes=len(self.classes), **counts))
        return ", ".join(filter(None, [words, size_words(self.name, self.image_size)]))

    @property
    def builtin(self) -> bool:
        """Whether its images are made up."""
        return self.meta["builtin"]

    @property
    def description(self) -> str:
        return self.meta["description"]

    def split(self, which: str) -> Split:
        """Map the arrays of ``train`` or ``test``.

        Raises:
            ValueError: another split is asked for, or a file is cut off or not what ``meta.json`` says.
        """
        check_name("split", which, SPLITS)
        count = self.counts[which]
        images = self.pretraining_images()[:count] if which == "train" else self._images(which, count)
        labels = self._map(self.path / which / "labels.npy", np.dtype(np.int64), (count,))
        return Split(images, labels, self.fingerprints[which])

    def pretraining_images(self) -> np.ndarray:
        """Map what pretraining sees: the images of the train split, then the unlabelled ones; uint8 (N, S, S, 3).

        Raises:
            ValueError: the file is cut off or not what ``meta.json`` says.
        """
        return self._images("train", self.pretraining_count)

    @property
    def _written(self) -> tuple[str, ...]:
        return (*SPLITS, UNLABELLED) if UNLABELLED in self.meta["splits"] else SPLITS

    def _images(self, which: str, count: int) -> np.ndarray:
        shape = (count, self.image_size, self.image_size, 3)
        return self._map(self.path / which / "images.npy", np.dtype(np.uint8), shape)

    def _map(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        # EOFError: not even the header is whole.
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, str(error)) from error
        if array.dtype != dtype or array.shape != shape:
            found = f"it holds {array.dtype} {array.shape}, and meta.json says {dtype} {shape}"
            raise self._damaged(path, found)
        return array

    def check_fingerprints(self) -> None:
        """Read all arrays, and raise ``ValueError`` unless they have the fingerprints that ``meta.json`` says."""
        images = self.pretraining_images()
        parts = {split: [self.split(split).images, self.split(split).labels] for split in SPLITS}
        parts[UNLABELLED] = [images[self.counts["train"] :]]
        for name, said in self.fingerprints.items():
            found = Fingerprint(self.counts[name], self.image_size)
            for array in parts[name]:
                for start in range(0, len(array), _ROWS_AT_A_TIME):
                    found.update(array[start : start + _ROWS_AT_A_TIME])
            if found.hexdigest() != said:
                split = self.path / ("train" if name == UNLABELLED else name)
                raise self._damaged(split, f"its SHA-256 is {found.hexdigest()}, and meta.json says {said}")

    def _damaged(self, path: Path, why: str) -> InputError:
        file = f"{self.data}/{self.name}/{path.relative_to(self.path)}"
        again = prepare_command(self.data, self.name)
        return InputError(f"prepared file {file} is damaged: {why}. Prepare it again: {again} --overwrite")


def open_dataset(data: str | Path, name: str) -> Dataset:
    """Open the prepared dataset ``name`` in the folder ``data``.

    Raises:
        ValueError: it is not prepared, or its files are cut off or do not match ``meta.json``.
    """
    data = Path(data).expanduser()
    if not is_prepared(data, name):
        refuse_unprepared(data, name, _prepared_names(data))
    try:
        meta = (data / name / "meta.json").read_bytes()
    except OSError as error:
        raise _unreadable(data, name, error) from error
    dataset = dataset_of(name, data / name, meta, data)
    for split in SPLITS:
        dataset.split(split)
    return dataset


def dataset_of(name: str, path: Path, meta: bytes, data: str | Path) -> Dataset:
    """The dataset ``name`` in the folder ``path`` of which ``meta.json`` says ``meta``; its arrays are not looked at.

    Args:
        data: the data folder as the user knows it, for messages.

    Raises:
        ValueError: ``meta`` is damaged, or of another version.
    """
    try:
        said = json.loads(meta)
        if said["format"] != META_FORMAT:
            raise InputError(f"it has format {said['format']}, this version of mdssl reads format {META_FORMAT}")
        dataset = Dataset(name, path, tuple(said["classes"]), said["image_size"], said, str(data))
        _ = dataset.counts, dataset.fingerprints, dataset.builtin, dataset.description
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(data, name, f"{error} is missing" if isinstance(error, KeyError) else error) from error
    return dataset


def _unreadable(data: str | Path, name: str, why: object) -> InputError:
    again = prepare_command(data, name)
    return InputError(
        f"{data}/{name}/meta.json cannot be read: {why}. Move the folder away, and prepare the dataset again: {again}"
    )


def is_prepared(data: Path, name: str) -> bool:
    """Whether ``name`` stands in ``data``; says nothing about its files being whole."""
    return name != "" and not name.startswith(".") and "/" not in name and (data / name / "meta.json").is_file()


def list_datasets(data: str | Path) -> tuple[list[Dataset], list[str]]:
    """All datasets prepared in the folder ``data``, by name, and what is wrong with those that cannot be opened."""
    datasets, problems = [], []
    for name in _prepared_names(Path(data).expanduser()):
        try:
            datasets.append(open_dataset(data, name))
        except InputError as error:
            problems.append(str(error))
    return datasets, problems


def prepare_command(data: str | Path, name: str) -> str:
    """The command that prepares ``name``, as a user would type it."""
    command = f"mdssl data prepare {name} --data {data}"
    if name not in CATALOG:
        return f"{command} --source PATH"
    published = CATALOG[name].published
    if published is None:
        return command
    return f"{command} --download" if published.remotes else f"{command} --source PATH"


class Fingerprint:
    """SHA-256 over the shape and bytes of images and labels, fed chunk by chunk while they are written.

    Of unlabelled images the shape of the labels is in it, but no label.
    """

    def __init__(self, count: int, size: int) -> None:
        self._hash = hashlib.sha256(f"images uint8 {(count, size, size, 3)} labels int64 {(count,)}\n".encode())

    def update(self, array: np.ndarray) -> None:
        """Take the next images, uint8 (n, S, S, 3), or, after the last of them, all labels, int64 (N,)."""
        self._hash.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _prepared_names(data: Path) -> list[str]:
    return sorted(path.parent.name for path in data.glob("*/meta.json") if is_prepared(data, path.parent.name))


def refuse_unprepared(data: str | Path, name: str, prepared: list[str]) -> NoReturn:
    """Raise ``ValueError`` for ``name``, which is not among those that are ``prepared`` in ``data``."""
    listed, command = ", ".join(prepared) or "none yet", prepare_command(data, name)
    known = dict.fromkeys([*prepared, *CATALOG])
    check_name("dataset", name, known, f"Prepared in {data}: {listed}. To add it: {command}")
    raise InputError(f"dataset {name!r} is not prepared in {data}; prepared: {listed}. Run: {command}")
