"""Prepared datasets: their files, their ``meta.json``, and their arrays as read-only memory maps.

    <data>/<name>/meta.json
    <data>/<name>/{train,test}/images.npy      uint8 (N, S, S, 3)
    <data>/<name>/{train,test}/labels.npy      int64 (N,)

Images for pretraining only, if a dataset has any, follow the labelled ones in ``train/images.npy``. So pretraining maps
one array, and users of the train split never see them.

All trials of a node map the same files, so the page cache holds one copy of the pixels for any number of trials.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mdssl.data.sources.catalog import CATALOG, published_as, size_words, variant_of
from mdssl.errors import InputError, check_name

SPLITS = ("train", "test")
UNLABELLED = "unlabelled"
"""Key of ``meta.json`` beside the splits, for images without a label."""
META_FORMAT = 1
ROWS_AT_A_TIME = 4096
"""Number of images that are hashed at once."""


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        images: uint8 (N, S, S, 3), RGB, a read-only memory map.
        labels: int64 (N,), class numbers.
        fingerprint: SHA-256 in hex over the shape and bytes of both, from ``meta.json``.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. Only ``meta.json`` has been read.

    Attributes:
        name: its name.
        path: its folder.
        classes: class names; a label is an index into them.
        image_size: S, height and width in pixels.
        meta: all of ``meta.json``.
        data: the data folder or bucket, as the user wrote it.
    """

    name: str
    path: Path
    classes: tuple[str, ...]
    image_size: int
    meta: dict
    data: str

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of images of each split, and of the unlabelled ones if there are any."""
        return {split: self.meta["splits"][split]["count"] for split in self._parts}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The SHA-256 of each split, and of the unlabelled images if there are any, from ``meta.json``."""
        return {split: self.meta["splits"][split]["sha256"] for split in self._parts}

    @property
    def pretraining_count(self) -> int:
        """The number of `pretraining_images`."""
        return self.counts["train"] + self.counts.get(UNLABELLED, 0)

    @property
    def pretraining_fingerprint(self) -> str:
        """SHA-256 in hex over all images for pretraining; that of the train split if no image is unlabelled."""
        if UNLABELLED not in self.fingerprints:
            return self.fingerprints["train"]
        both = f"{self.fingerprints['train']}\n{self.fingerprints[UNLABELLED]}"
        return hashlib.sha256(both.encode()).hexdigest()

    @property
    def evaluation_fingerprint(self) -> str:
        """Identifies the train and test images, on which probes are fitted and scored."""
        return f"{self.fingerprints['train'][:16]}-{self.fingerprints['test'][:16]}"

    @property
    def is_labelled(self) -> bool:
        """Whether it has classes and can be scored. If not, all its images are for pretraining only."""
        return bool(self.classes)

    @property
    def variant(self) -> str:
        """The difference from the published dataset of this name, such as ``"4,434 of 73,257"``; empty if none."""
        counts = {"unlabelled": 0} | self.counts
        words = self.meta.get("variant", variant_of(self.name, classes=len(self.classes), **counts))
        return ", ".join(filter(None, [words, size_words(self.name, self.image_size)]))

    @property
    def builtin(self) -> bool:
        """Whether it is a built-in domain of synthetic images."""
        return self.meta["builtin"]

    @property
    def description(self) -> str:
        return self.meta["description"]

    def split(self, which: str) -> Split:
        """Map the arrays of ``train`` or ``test``.

        Raises:
            InputError: there is no such split, or a file is cut off or does not match ``meta.json``.
        """
        check_name("split", which, SPLITS)
        count = self.counts[which]
        images = self.pretraining_images()[:count] if which == "train" else self._images(which, count)
        labels = self._map(self.path / which / "labels.npy", np.dtype(np.int64), (count,))
        return Split(images, labels, self.fingerprints[which])

    def pretraining_images(self) -> np.ndarray:
        """Map the images for pretraining: those of the train split, then the unlabelled ones; uint8 (N, S, S, 3).

        Raises:
            InputError: the file is cut off or does not match ``meta.json``.
        """
        return self._images("train", self.pretraining_count)

    @property
    def _parts(self) -> tuple[str, ...]:
        return (*SPLITS, UNLABELLED) if UNLABELLED in self.meta["splits"] else SPLITS

    def _images(self, which: str, count: int) -> np.ndarray:
        shape = (count, self.image_size, self.image_size, 3)
        return self._map(self.path / which / "images.npy", np.dtype(np.uint8), shape)

    def _map(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        # EOFError: the header itself is cut off.
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, str(error)) from error
        if array.dtype != dtype or array.shape != shape:
            found = f"it holds {array.dtype} {array.shape}, but meta.json records {dtype} {shape}"
            raise self._damaged(path, found)
        return array

    def check_fingerprints(self) -> None:
        """Read all arrays, and raise ``InputError`` unless their fingerprints match ``meta.json``."""
        images = self.pretraining_images()
        parts = {split: [self.split(split).images, self.split(split).labels] for split in SPLITS}
        parts[UNLABELLED] = [images[self.counts["train"] :]]
        for name, expected in self.fingerprints.items():
            found = new_fingerprint(self.counts[name], self.image_size)
            for array in parts[name]:
                for start in range(0, len(array), ROWS_AT_A_TIME):
                    found.update(array[start : start + ROWS_AT_A_TIME].data)
            if found.hexdigest() != expected:
                split = self.path / ("train" if name == UNLABELLED else name)
                raise self._damaged(split, f"its SHA-256 is {found.hexdigest()}, but meta.json records {expected}")

    def _damaged(self, path: Path, why: str) -> InputError:
        file = f"{self.data}/{self.name}/{path.relative_to(self.path)}"
        again = prepare_command(self.data, self.name, self.meta)
        return InputError(f"prepared file {file} is damaged: {why}. Prepare it again: {again} --overwrite")


def open_dataset(data: str | Path, name: str) -> Dataset:
    """Open the prepared dataset ``name`` in the folder ``data``.

    Raises:
        InputError: it is not prepared, or its files are cut off or do not match ``meta.json``.
    """
    data = Path(data).expanduser()
    if not is_prepared(data, name):
        refuse_unprepared(data, name, prepared_names(data))
    try:
        meta = (data / name / "meta.json").read_bytes()
    except OSError as error:
        raise _unreadable(data, name, error) from error
    dataset = dataset_of(name, data / name, meta, data)
    for split in SPLITS:
        dataset.split(split)
    return dataset


def dataset_of(name: str, path: Path, meta: bytes, data: str | Path) -> Dataset:
    """Return the dataset ``name`` in the folder ``path``, from the bytes ``meta`` of its ``meta.json`` alone.

    Args:
        data: the data folder as the user wrote it, for messages.

    Raises:
        InputError: ``meta`` is damaged, or has another format.
    """
    try:
        content = json.loads(meta)
        if content["format"] != META_FORMAT:
            raise InputError(f"it has format {content['format']}, but this version of mdssl reads format {META_FORMAT}")
        dataset = Dataset(name, path, tuple(content["classes"]), content["image_size"], content, str(data))
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
    """Whether ``name`` is in ``data``. Its files are not checked."""
    return name != "" and not name.startswith(".") and "/" not in name and (data / name / "meta.json").is_file()


def prepare_command(data: str | Path, name: str, meta: dict | None = None) -> str:
    """Return the command that prepares ``name``; with the ``meta`` of a dataset, as that was prepared."""
    words = ["mdssl", "data", "prepare", name, "--data", str(data)]
    kind = "published"
    if meta is not None:
        kind, split = meta["source"]["kind"], meta["split"]
        flags = {"size": meta["image_size"], "filter": meta["resize_filter"]}
        flags |= {"kind": kind} if kind in ("folder", "parquet", "npz") else {}
        flags |= {key: split[key] for key in ("seed", "test_fraction") if key in split} | meta.get("reading", {})
        for key, value in flags.items():
            if isinstance(value, dict):
                value = [f"{part}={place}" for part, place in value.items()]
            listed = value if isinstance(value, list) else [str(value)]
            words += [f"--{key.replace('_', '-')}", *(listed or ["none"])]
    if name not in CATALOG or CATALOG[name].published is not None:
        published = published_as(name)
        words += ["--download"] if published and published.remotes and kind == "published" else ["--source", "PATH"]
    return shlex.join(words)


def new_fingerprint(count: int, size: int) -> Any:
    """SHA-256 over the shape and bytes of images and labels, to be updated with the images and, after the last of them,
    all labels. For unlabelled images, it includes the shape of the labels and no label."""
    return hashlib.sha256(f"images uint8 {(count, size, size, 3)} labels int64 {(count,)}\n".encode())


def prepared_names(data: Path) -> list[str]:
    return sorted(path.parent.name for path in data.glob("*/meta.json") if is_prepared(data, path.parent.name))


def refuse_unprepared(data: str | Path, name: str, prepared: list[str]) -> NoReturn:
    """Raise ``InputError`` for ``name``, which is not among the datasets ``prepared`` in ``data``."""
    listed = ", ".join(prepared) or "none yet"
    own = f"For images of your own, prepare them first: {prepare_command(data, 'NAME')}"
    check_name("dataset", name, dict.fromkeys([*prepared, *CATALOG]), f"Prepared in {data}: {listed}. {own}")
    raise InputError(
        f"dataset {name!r} is not prepared in {data}; prepared: {listed}. Run: {prepare_command(data, name)}"
    )
