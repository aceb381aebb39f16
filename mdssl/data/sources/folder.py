"""Folders of images: class folders, optionally inside split folders such as ``train`` and ``val``; or images alone.

`scan` lists the images once; `layout` decides from their paths alone what is a split and what is a class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, Reading, Source
from mdssl.data.sources.files import is_hidden, scan, suffixes
from mdssl.data.sources.labels import NOT_SELECTED, check_classes, class_name
from mdssl.data.splits import one_per_split, split_of
from mdssl.errors import InputError

_NOT_A_CLASS = re.compile(
    "images?|imgs?|photos|pictures|jpegimages|annotations?|labels?|(ground)?truth|gt|masks?|trimaps?|"
    "segmentation(class|object|s)?|bounding_?boxes|original|augmented"
)
"""Folder names that describe the kind of the files inside, in lower case."""

Rows = dict[str, str]
"""Path of an image -> its path below the folder of the split."""


def folder_source(path: Path, reading: Reading | None = None) -> Source:
    """Read the images below ``path``. Classes are numbered in the alphabetical order of their folders.

    Images may lie deeper inside a class folder. Images without class folders have no labels.

    Raises:
        InputError: there are no images, the folders can be read in two ways, or names are not valid UTF-8.
    """
    reading, findings = reading or Reading(), Findings()
    if reading.label_column is not None:
        raise InputError(
            f"label column {reading.label_column!r} is for Parquet files, and {path.name} has images in folders. Leave "
            "--label-column out."
        )
    files = scan(path, findings)
    if not files:
        left = findings.left_out_in_words()
        raise InputError(
            f"folder {str(path)!r} has no images at any depth{f' ({left})' if left else ''}; image files end in "
            f"{', '.join(sorted(suffixes()))}."
        )
    by_split = layout(files, reading, path.name, findings)
    by_class = {split: _classes_in(split, rows, reading) for split, rows in by_split.items()}
    labelled = {split: found for split, found in by_class.items() if found.keys() != {None}}
    names = {name for found in labelled.values() for name in found if name is not None}
    if len(names) < 2:
        # A single class is no label: the folder only contains the images.
        if names:
            findings.remarks.append(
                f"there is one class folder, {next(iter(names))}: its images are read without labels"
            )
        labelled, names = {}, set()
    if _depth_in_classes(by_split.values() if labelled else ()):
        findings.remarks.append(
            "images lie in folders below the class folders; if these are the classes, --source is the folder above them"
        )
    classes = tuple(sorted(names))
    if reading.classes:
        check_classes([class_name(name) for name in reading.classes], classes, path.name)
        classes = tuple(class_name(name) for name in reading.classes)
    number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    parts = {}
    for split, found in by_class.items():
        has_classes = split in labelled and split != "unlabelled"
        paths: list[str] = []
        labels: list[int] = []
        for name in sorted(found, key=lambda name: (name is None, name)):
            if has_classes and name not in number:
                reason = "images outside the class folders" if name is None else NOT_SELECTED
                findings.leave_out(reason, found[name][0], len(found[name]))
                continue
            paths += found[name]
            labels += [number[name] if has_classes else NO_LABEL] * len(found[name])
        if paths:
            parts[split] = files_part(path, paths, labels)
    return Source("folder", path.name, classes, parts, findings)


def layout(files: list[str], reading: Reading, origin: str, findings: Findings) -> dict[str, Rows]:
    """Return the images of each split.

    Raises:
        InputError: the folders can be read in two ways; the message names the option that decides.
    """
    if reading.splits:
        return _named_by_user(reading.splits, files, origin, findings)
    prefix = _wrapping(files)
    if prefix:
        findings.remarks.append(f"read from the folder {prefix.rstrip('/')}")
    inside = [file[len(prefix) :] for file in files]
    tops = sorted({name.partition("/")[0] for name in inside if "/" in name})
    named = {} if reading.splits == {} else _split_folders(tops, inside, origin)
    findings.splits |= named
    by_split = {split: _below(f"{prefix}{folder}/", files, split) for split, folder in named.items()}
    rest = _not_in(by_split, files)
    if named.keys() <= {"unlabelled"}:
        # Class folders, optionally beside a folder of unlabelled images.
        by_split["train"] = {file: file[len(prefix) :] for file in rest}
        rest = []
    if reading.splits is None and reading.classes is None:
        for split in by_split.keys() - {"unlabelled"}:
            _refuse_unclear_classes(by_split[split].values(), origin)
    if rest:
        findings.leave_out("images outside the split folders", rest[0], len(rest))
    return by_split


def _split_folders(tops: list[str], inside: list[str], origin: str) -> dict[str, str]:
    """Split -> folder; empty if the folders in ``tops`` are classes."""
    split_by_top = {top: split for top in tops if (split := split_of(top))}
    splits = set(split_by_top.values())
    if splits <= {"unlabelled"}:
        return one_per_split(split_by_top, origin)
    others = [top for top in tops if top not in split_by_top]
    # A folder that holds folders but no images holds classes.
    with_images = {name.partition("/")[0] for name in inside if name.count("/") == 1}
    with_classes = split_by_top.keys() - with_images
    if others and not with_classes:
        return {}
    has_train = any(split_by_top[top] == "train" for top in with_classes)
    if others and not (has_train and splits & {"test", "validation"}):
        raise InputError(
            f"the folders of {origin} can be read in two ways: {', '.join(split_by_top)} as split, with classes in it; "
            f"or {', '.join((*others[:3], *split_by_top))} as classes. Decide with --splits train=FOLDER test=FOLDER, "
            "or with --splits none if all are classes."
        )
    return one_per_split(split_by_top, origin)


def _refuse_unclear_classes(inside: Iterable[str], origin: str) -> None:
    """Raise ``InputError`` if the top folders may not be classes."""
    folders = {tuple(name.split("/")[:-1]) for name in inside}
    tops = {folder[0] for folder in folders if folder}
    below: dict[str, set[str]] = {}
    for folder in folders:
        if len(folder) > 1:
            below.setdefault(folder[1], set()).add(folder[0])
    # One folder of the same name in each class, as in CLASS/images, is no label.
    repeated = sorted(name for name, above in below.items() if len(above) > 1 or name in tops or split_of(name))
    repeated = repeated if len(below) > 1 or any(map(split_of, repeated)) else []
    odd = sorted(top for top in tops if _NOT_A_CLASS.fullmatch(top.lower()))
    if repeated:
        why = f"{repeated[0]!r} is a folder in {', '.join(sorted(below[repeated[0]])[:3])}"
    elif odd and len(tops) > 1:
        why = f"{odd[0]!r} does not look like a class"
    else:
        return
    raise InputError(
        f"the classes of {origin} are ambiguous: {why}. If they are the top folders, such as "
        f"{', '.join(sorted(tops)[:3])}, use --splits none; otherwise give the folder that has one folder for each "
        "class, name the splits with --splits, or read the images without labels with --classes none."
    )


def _named_by_user(splits: dict[str, str], files: list[str], origin: str, findings: Findings) -> dict[str, Rows]:
    by_split = {split: _below("" if place == "." else f"{place}/", files, split) for split, place in splits.items()}
    for split, rows in by_split.items():
        if not rows:
            raise InputError(
                f"split {split!r} is {splits[split]!r}, but {origin} has no images there. Name a folder in it; or use "
                "--splits none if it has no splits."
            )
    if left := _not_in(by_split, files):
        findings.leave_out("images in other folders", left[0], len(left))
    findings.splits |= splits
    return by_split


def _below(prefix: str, files: list[str], split: str) -> Rows:
    rows = [file for file in files if file.startswith(prefix)]
    # As in seg_train/seg_train/CLASS: a second folder named like the split is skipped.
    wrapped = _wrapping([file[len(prefix) :] for file in rows], only=split)
    return {file: file[len(prefix) + len(wrapped) :] for file in rows}


def _not_in(by_split: dict[str, Rows], files: list[str]) -> list[str]:
    taken = {file for rows in by_split.values() for file in rows}
    return [file for file in files if file not in taken]


def _classes_in(split: str, rows: Rows, reading: Reading) -> dict[str | None, list[str]]:
    """Class -> paths; None for images that lie in no class folder."""
    found: dict[str | None, list[str]] = {}
    folder_of: dict[str, str] = {}
    for path, name in rows.items():
        folder, _, rest = name.partition("/")
        has_no_class = not rest or reading.classes == () or split == "unlabelled"
        named = None if has_no_class else class_name(folder)
        if named is not None and folder_of.setdefault(named, folder) != folder:
            raise InputError(
                f"two class folders of {split} have the same name, {named!r}, in two Unicode forms. Merge them."
            )
        found.setdefault(named, []).append(path)
    return found


def _depth_in_classes(splits: Iterable[Rows]) -> int:
    """Return the number of folders between a class folder and its deepest image."""
    return max((name.count("/") - 1 for rows in splits for name in rows.values() if "/" in name), default=0)


def _wrapping(files: list[str], only: str | None = None) -> str:
    """Return the path, ending in a slash, of the outermost nested folders that contain nothing but one folder each.

    It ends before a folder that names a split; with ``only``, before a folder that does not name that split.
    """
    prefix = ""
    while files and all("/" in file[len(prefix) :] for file in files):
        tops = {file[len(prefix) :].partition("/")[0] for file in files}
        top = next(iter(tops))
        deeper = f"{prefix}{top}/"
        has_images = any("/" not in file[len(deeper) :] for file in files)
        if len(tops) > 1 or split_of(top) != only or (has_images and only is None):
            break
        prefix = deeper
    return prefix


def subfolders(path: Path) -> list[Path]:
    """Return the folders directly inside ``path`` that are not hidden, sorted."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not is_hidden(folder.name))


def class_folders(root: Path, folders: Sequence[str]) -> Part:
    """Return the images directly in ``folders`` in ``root``, one folder per class, each with images."""
    names: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = os.listdir(root / folder) if (root / folder).is_dir() else []
        found = sorted(name for name in found if PurePath(name).suffix.lower() in suffixes() and name[0] != ".")
        if not found:
            raise InputError(f"class folder {root / folder} is missing or has no images. Unpack its images again.")
        names += [f"{folder}/{name}" for name in found]
        labels += [label] * len(found)
    return files_part(root, names, labels)


def files_part(root: Path, names: Sequence[str], labels: Sequence[int]) -> Part:
    """Return the image files ``names`` in ``root`` with their labels. Messages name them relative to the folder around
    ``root``. Paths are joined on demand: a million of them would take half a gigabyte."""
    return Part(
        np.array(labels, dtype=np.int64),
        lambda row: str(PurePath(root.name, names[row])),
        lambda rows: (root / names[row] for row in rows),
    )
