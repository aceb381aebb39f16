"""Folders of images: class folders, maybe inside of split folders such as ``train`` and ``val``; or images alone.

`scan` lists the images once; `layout` decides from their paths alone what is a split and what is a class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, Reading, Source
from mdssl.data.sources.labels import class_name
from mdssl.data.sources.scan import is_hidden, scan, suffixes
from mdssl.data.sources.splits import one_per_split, split_of
from mdssl.errors import InputError, check_name

_NO_CLASS = re.compile(
    "images?|imgs?|photos|pictures|jpegimages|annotations?|labels?|(ground)?truth|gt|masks?|trimaps?|"
    "segmentation(class|object|s)?|bounding_?boxes|original|augmented"
)
"""Names that say what kind of files a folder has, in small letters."""
_BESIDE_CLASSES = "images outside of the class folders"

Rows = dict[str, list[str]]


def folder_source(path: Path, reading: Reading | None = None) -> Source:
    """Read the images below ``path``; classes are numbered in the alphabetical order of their folders.

    Images may lie deeper inside a class folder. Images without class folders have no labels.

    Raises:
        InputError: there are no images, the folders can be read in two ways, or names are no text.
    """
    reading, findings = reading or Reading(), Findings()
    files = scan(path, findings)
    if not files:
        listed = "; ".join(f"{found['count']} {reason}" for reason, found in findings.left_out.items())
        raise InputError(
            f"folder {str(path)!r} has no images at any depth{f' ({listed})' if listed else ''}; read are "
            f"{', '.join(sorted(suffixes()))}."
        )
    by_split = layout(files, reading, path.name, findings)
    by_class = {split: _classes_in(split, rows, reading, findings) for split, rows in by_split.items()}
    labelled = {split: found for split, found in by_class.items() if found.keys() != {None}}
    # One class tells nothing apart: it is the name of a folder of images.
    names = {name for found in labelled.values() for name in found if name is not None}
    if len(names) < 2:
        if names:
            findings.remarks.append(f"the one class folder, {next(iter(names))}, is taken for images without labels")
        labelled = {}
    classes = tuple(sorted(names if labelled else ()))
    if reading.label_column is not None:
        raise InputError(
            f"label column {reading.label_column!r} is of Parquet files, and {path.name} has images in folders. Leave "
            "--label-column out."
        )
    if depth := _depth_in_classes(by_split.values() if labelled else ()):
        findings.remarks.append(f"images lie up to {depth} folders deep in a class folder")
    if reading.classes:
        for name in reading.classes:
            check_name(f"class of {path.name}", class_name(name), classes)
        classes = tuple(class_name(name) for name in reading.classes)
    parts = {}
    for split, found in by_class.items():
        paths: list[str] = []
        labels: list[int] = []
        for name in sorted(found, key=lambda name: (name is None, name)):
            rows = found[name]
            if split in labelled and split != "unlabelled" and name not in classes:
                reason = _BESIDE_CLASSES if name is None else "images of classes that were not asked for"
                findings.leave_out(reason, rows[0], len(rows))
                continue
            paths += rows
            is_named = bool(labelled) and split != "unlabelled" and name is not None
            labels += [classes.index(name) if is_named else NO_LABEL] * len(rows)
        if paths:
            parts[split] = paths_part(path, [path / file for file in paths], labels)
    return Source("folder", path.name, classes, parts, findings)


def layout(files: list[str], reading: Reading, origin: str, findings: Findings) -> dict[str, Rows]:
    """By split, ``{"paths": …, "inside": …}``: the files, and their paths below the split's folder.

    Raises:
        InputError: the folders can be read in two ways; the message names the option that decides.
    """
    if reading.splits:
        folders = _told(reading.splits, files, origin, findings)
        return {split: _below(_slashed(folder), files, split) for split, folder in folders.items()}
    prefix = _wrapping(files)
    if prefix:
        findings.remarks.append(f"read from the folder {prefix.rstrip('/')}")
    inside = [file[len(prefix) :] for file in files]
    tops = sorted({name.partition("/")[0] for name in inside if "/" in name})
    named = {} if reading.splits == {} else _split_folders(tops, inside, origin)
    findings.splits |= named
    by_split = {split: _below(f"{prefix}{folder}/", files, split) for split, folder in named.items()}
    taken = {path for rows in by_split.values() for path in rows["paths"]}
    rest = [file for file in files if file not in taken]
    if named.keys() <= {"unlabelled"}:
        # Class folders, maybe with a folder beside them of images that nobody has sorted.
        by_split["train"] = {"paths": rest, "inside": [file[len(prefix) :] for file in rest]}
        rest = []
    if reading.splits is None and reading.classes is None:
        for split in by_split.keys() - {"unlabelled"}:
            _refuse_unclear_classes(by_split[split]["inside"], origin)
    if rest:
        findings.leave_out("images outside of the split folders", rest[0], len(rest))
    return by_split


def _split_folders(tops: list[str], inside: list[str], origin: str) -> dict[str, str]:
    """Split to folder; empty where the folders in ``tops`` are classes."""
    says = {top: split for top in tops if (split := split_of(top))}
    others = [top for top in tops if top not in says]
    splits = set(says.values())
    if splits <= {"unlabelled"}:
        return one_per_split(says, origin)
    # A folder that holds folders but no images holds classes.
    with_classes = {top for top in says if all("/" in name for name in _inside(top, inside))}
    if others and not with_classes:
        return {}
    has_train = any(says[top] == "train" for top in with_classes)
    if others and not (has_train and splits & {"test", "validation"}):
        said = ", ".join(says)
        raise InputError(
            f"the folders of {origin} can be read in two ways: {said} as split, with classes in it; or "
            f"{', '.join((*others[:3], said))} as classes. Decide with --splits train=FOLDER test=FOLDER, or with "
            "--splits none where all are classes."
        )
    return one_per_split(says, origin)


def _refuse_unclear_classes(inside: list[str], origin: str) -> None:
    """Raise ``InputError`` where the folders on top may be something else than classes."""
    folders = {tuple(name.split("/")[:-1]) for name in inside}
    tops = {folder[0] for folder in folders if folder}
    below: dict[str, set[str]] = {}
    for folder in folders:
        if len(folder) > 1:
            below.setdefault(folder[1], set()).add(folder[0])
    # One folder of the same name in each class, as in CLASS/images, tells nothing apart.
    again = sorted(name for name, above in below.items() if len(above) > 1 or name in tops or split_of(name))
    again = again if len(below) > 1 or any(map(split_of, again)) else []
    odd = sorted(top for top in tops if _NO_CLASS.fullmatch(top.lower()))
    if again:
        why = f"{again[0]!r} is a folder in {', '.join(sorted(below[again[0]])[:3])}"
    elif odd and len(tops) > 1:
        why = f"{odd[0]!r} does not sound like a class"
    else:
        return
    raise InputError(
        f"what the classes of {origin} are is not clear: {why}. If they are the folders on top, such as "
        f"{', '.join(sorted(tops)[:3])}, say so with --splits none; else give the folder that has one folder for each "
        "class, name the splits with --splits, or take the images without labels with --classes none."
    )


def _told(splits: Mapping[str, str], files: list[str], origin: str, findings: Findings) -> dict[str, str]:
    taken: set[str] = set()
    for split, folder in splits.items():
        rows = [file for file in files if file.startswith(_slashed(folder))]
        if not rows:
            raise InputError(f"split {split!r} is {folder!r}, but {origin} has no images there. Name a folder in it.")
        taken |= set(rows)
    if left := [file for file in files if file not in taken]:
        findings.leave_out("images in folders that are no split", left[0], len(left))
    findings.splits |= splits
    return dict(splits)


def _below(prefix: str, files: list[str], split: str) -> Rows:
    rows = [file for file in files if file.startswith(prefix)]
    inside = [file[len(prefix) :] for file in rows]
    # As in seg_train/seg_train/CLASS: a folder of the split's own name says nothing.
    wrapped = _wrapping(inside, only=split)
    return {"paths": rows, "inside": [name[len(wrapped) :] for name in inside]}


def _classes_in(split: str, rows: Rows, reading: Reading, findings: Findings) -> dict[str | None, list[str]]:
    """Class to paths; None is the class of images that lie in no class folder."""
    found: dict[str | None, list[str]] = {}
    folder_of: dict[str, str] = {}
    for path, name in zip(rows["paths"], rows["inside"], strict=True):
        folder, _, rest = name.partition("/")
        is_unsorted = not rest or reading.classes == () or split == "unlabelled"
        named = None if is_unsorted else class_name(folder)
        if named is not None and folder_of.setdefault(named, folder) != folder:
            raise InputError(
                f"two class folders of {split} have the same name, {named!r}, in two spellings of its accents. Merge "
                "them."
            )
        found.setdefault(named, []).append(path)
    return found


def _depth_in_classes(splits: Iterable[Rows]) -> int:
    """How many folders below a class folder the deepest image lies."""
    return max((name.count("/") - 1 for rows in splits for name in rows["inside"] if "/" in name), default=0)


def _wrapping(files: list[str], only: str | None = None) -> str:
    """The folders, with a slash at the end, that hold nothing but one folder of folders each.

    They say no split, or with ``only`` no other than that.
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


def _inside(top: str, inside: list[str]) -> list[str]:
    return [name[len(top) + 1 :] for name in inside if name.startswith(f"{top}/")]


def _slashed(folder: str) -> str:
    return "" if folder == "." else f"{folder}/"


def subfolders(path: Path) -> list[Path]:
    """The folders directly inside ``path``, sorted, hidden ones left out."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not is_hidden(folder.name))


def class_folder(folder: Path) -> list[Path]:
    """The images in ``folder`` and deeper, sorted.

    Raises:
        InputError: there are none.
    """
    found = [folder / file for file in scan(folder, Findings())]
    if not found:
        raise InputError(
            f"class folder {folder} has no images; read are {', '.join(sorted(suffixes()))}. Fill or remove it."
        )
    return found


def paths_part(root: Path, paths: list[Path], labels: list[int]) -> Part:
    """The image files ``paths`` with their labels; messages name them relative to ``root``."""

    def read(rows: np.ndarray) -> Iterator[Path]:
        return (paths[row] for row in rows)

    return Part(np.array(labels, dtype=np.int64), lambda row: str(paths[row].relative_to(root.parent)), read)
