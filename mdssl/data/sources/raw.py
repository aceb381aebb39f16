"""Readers of published datasets in their original files; for ImageNet see `mdssl.data.sources.imagenet`.

torchvision's classes are not used: they require files that are not needed (STL-10's 2.6 GB of unlabelled images),
unpickle arbitrary objects, and report a missing file as "not found or corrupted".
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Part
from mdssl.data.sources.folder import class_folders, files_part, folder_source
from mdssl.errors import InputError

# The result of a reader: the class names, and the parts by split.
Read = tuple[tuple[str, ...], dict[str, Part]]

STL10_SHAPE = (3, 96, 96)
CIFAR_SHAPE = (3, 32, 32)
CHESTXRAY_CLASSES = ("NORMAL", "PNEUMONIA")


def read_cifar10(root: Path) -> Read:
    """CIFAR-10: five pickled batches for train and one for test."""
    folder = root / "cifar-10-batches-py"
    files = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _read_cifar(folder, files, "labels", "batches.meta", "label_names")


def read_cifar100(root: Path) -> Read:
    """CIFAR-100 with its fine labels."""
    files = {"train": ["train"], "test": ["test"]}
    return _read_cifar(root / "cifar-100-python", files, "fine_labels", "meta", "fine_label_names")


def _read_cifar(folder: Path, files: dict[str, list[str]], labels_key: str, meta: str, names_key: str) -> Read:
    """Pickled batches of flat rows, channels first; ``names_key`` of ``meta`` has the class names."""
    (classes,) = _unpickle(folder / meta, names_key)
    parts: dict[str, Part] = {}
    for split, names in files.items():
        for name in names:
            with file_errors(folder / name):
                rows, labels = _unpickle(folder / name, "data", labels_key)
                pixels = rows.reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
                batch = _pixels_part(f"{folder.name}/{name}", pixels, np.array(labels))
            parts[split] = Part.join(parts[split], batch) if split in parts else batch
    return tuple(classes), parts


def read_svhn(root: Path) -> Read:
    """SVHN, cropped digits: MATLAB files with X (32, 32, 3, N) and y (N, 1), in which the digit 0 is labelled 10."""
    from scipy.io import loadmat

    parts = {}
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        with file_errors(path):
            file = loadmat(path)
            parts[split] = _pixels_part(path.name, file["X"].transpose(3, 0, 1, 2), file["y"].ravel() % 10)
    return tuple(str(digit) for digit in range(10)), parts


def read_stl10(root: Path, unlabelled: bool = False) -> Read:
    """STL-10: bytes in the order channel, column, row; labels from 1 to 10; optionally with the unlabelled images."""
    folder = root / "stl10_binary"
    parts = {}
    for split in ("train", "test"):
        path = folder / f"{split}_X.bin"
        with file_errors(path):
            labels = np.fromfile(folder / f"{split}_y.bin", dtype=np.uint8).astype(np.int64) - 1
            parts[split] = _pixels_part(path.name, _stl10_images(path), labels)
    if unlabelled:
        path = folder / "unlabeled_X.bin"
        with file_errors(path):
            images = _stl10_images(path)
            parts["unlabelled"] = _pixels_part(path.name, images, np.full(len(images), NO_LABEL))
    return tuple((folder / "class_names.txt").read_text().split()), parts


def _stl10_images(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, *STL10_SHAPE).transpose(0, 3, 2, 1)


def read_dtd(root: Path) -> Read:
    """DTD, partition 1: train and val together are the train split, as in the paper."""
    lists = {}
    for split in ("train", "val", "test"):
        path = root / f"dtd/labels/{split}1.txt"
        with file_errors(path):
            lists[split] = path.read_text().split()
    classes = tuple(sorted({line.split("/")[0] for lines in lists.values() for line in lines}))
    parts = {}
    for split, lines in lists.items():
        paths = [f"images/{line}" for line in lines]
        parts[split] = files_part(root / "dtd", paths, [classes.index(line.split("/")[0]) for line in lines])
    return classes, {"train": Part.join(parts["train"], parts["val"]), "test": parts["test"]}


def read_eurosat(root: Path) -> Read:
    """EuroSAT, RGB: one folder of class folders, no official split."""
    source = folder_source(root / "2750")
    return source.classes, source.parts


def read_chestxray(root: Path) -> Read:
    """Chest X-rays (Kermany et al. 2018) as published on Kaggle: train, test and a val folder of 16 images."""
    folder, splits = root / "chest_xray", {"train": "train", "test": "test", "validation": "val"}
    parts = {
        split: class_folders(folder, [f"{name}/{label}" for label in CHESTXRAY_CLASSES])
        for split, name in splits.items()
        if split != "validation" or (folder / name).is_dir()
    }
    return CHESTXRAY_CLASSES, parts


def _pixels_part(name: str, images: np.ndarray, labels: np.ndarray) -> Part:
    if len(images) != len(labels):
        raise InputError(f"{name} has {len(images)} images and {len(labels)} labels")
    return Part(
        labels.astype(np.int64),
        lambda row: f"{name} row {row}",
        lambda rows: (np.ascontiguousarray(images[row]) for row in rows),
    )


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts, lists, strings and NumPy arrays, and refuses any other class or function."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "encode"})
    MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "_codecs"})

    def find_class(self, module: str, name: str) -> Any:
        if module not in self.MODULES or name not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a CIFAR batch never contains")
        # The published files name NumPy 1's modules.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path, *keys: str) -> list:
    """Return the values under ``keys`` of the dict that is pickled in ``path``."""
    with file_errors(path), open(path, "rb") as file:
        # Written by Python 2: its str is bytes here, and latin-1 keeps every byte.
        content = _ArraysOnly(file, encoding="latin1").load()
        return [content[key] for key in keys]


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn any error of a reader on broken bytes into one message that names the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise InputError(
            f"{path} cannot be read: {str(error) or type(error).__name__}. It may be truncated or modified: fetch it "
            "again."
        ) from error
