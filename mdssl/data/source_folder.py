"""Folders of class folders: ``train/<class>/…`` with ``test/<class>/…`` or ``val/<class>/…``, or just ``<class>/…``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mdssl.data.parts import SPLIT_NAMES, Part, Source
from mdssl.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}


def folder_source(path: Path) -> Source:
    """Read the class folders below ``path``; classes are numbered in the alphabetical order of their folders.

    Images may lie deeper inside a class folder. Hidden files and files that are no images by their suffix are ignored.

    Raises:
        ValueError: no class folders, a class folder without images, or splits with different class folders.
    """
    split_folders = {SPLIT_NAMES[f.name.lower()]: f for f in subfolders(path) if f.name.lower() in SPLIT_NAMES}
    if not split_folders:
        classes, part = _read_classes(path, path)
        return Source("folder", path.name, classes, {"train": part})
    class_sets, parts = {}, {}
    for split, folder in split_folders.items():
        class_sets[split], parts[split] = _read_classes(folder, path)
    classes = class_sets.get("train", ())
    for split, names in class_sets.items():
        _check_same_classes(path, classes, split, split_folders[split], names)
    return Source("folder", path.name, classes, parts)


def subfolders(path: Path) -> list[Path]:
    """The folders directly inside ``path``, sorted, hidden ones left out."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def class_folder(folder: Path) -> list[Path]:
    """The images in ``folder`` and deeper, sorted.

    Raises:
        ValueError: there are none.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise InputError(
            f"class folder {folder} has no images; read are {', '.join(sorted(SUFFIXES))}. Fill or remove it."
        )
    return found


def paths_part(root: Path, paths: list[Path], labels: list[int]) -> Part:
    """The image files ``paths`` with their labels; messages name them relative to ``root``."""

    def read(rows: np.ndarray) -> Iterator[Path]:
        return (paths[row] for row in rows)

    return Part(np.array(labels, dtype=np.int64), lambda row: str(paths[row].relative_to(root.parent)), read)


def _read_classes(folder: Path, root: Path) -> tuple[tuple[str, ...], Part]:
    paths: list[Path] = []
    labels: list[int] = []
    class_folders = subfolders(folder)
    if not class_folders:
        raise InputError(
            f"{folder} has no class folders; expected {folder.name}/<class>/<image>. Sort the images into one folder "
            "per class."
        )
    for label, each in enumerate(class_folders):
        found = class_folder(each)
        paths += found
        labels += [label] * len(found)
    return tuple(each.name for each in class_folders), paths_part(root, paths, labels)


def _check_same_classes(root: Path, classes: tuple[str, ...], split: str, folder: Path, names: tuple[str, ...]) -> None:
    # Without a train folder there is nothing to compare with; resolve_splits says that it is missing.
    if not classes or names == classes:
        return
    extra = [f"only in {folder.name}: {name!r}" for name in names if name not in classes]
    lacking = [f"only in train: {name!r}" for name in classes if name not in names]
    raise InputError(
        f"train and {split} of {root} have different class folders; {'; '.join((extra + lacking)[:6])}. Give every "
        "split the same class folders."
    )
