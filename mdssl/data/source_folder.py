"""Folders of images: class folders, maybe inside of split folders such as ``train`` and ``val``; or images alone.

`scan` lists the images once; `layout` decides from their paths alone what is a split and what is a class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from mdssl.data.labels import class_name
from mdssl.data.parts import NO_LABEL, Findings, Part, Reading, Source
from mdssl.data.splits import one_per_split, split_of
from mdssl.errors import InputError, check_name

_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".tga", ".avif"),
)
_LITTER = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}
"""What systems leave in folders of others, in small letters."""
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes in a file's name that are no UTF-8."""
_HIDDEN = "hidden files and folders"
_BESIDE_CLASSES = "images outside of the class folders"

Rows = dict[str, list[str]]


@cache
def suffixes() -> frozenset[str]:
    """The endings of file names that are images, in small letters: of those that Pillow opens here."""
    from PIL import Image

    can_open = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(_SUFFIXES) & can_open


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's own: hidden, or left by the system."""
    return name.startswith((".", "._")) or name.lower() in _LITTER


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


def scan(root: Path, findings: Findings) -> list[str]:
    """The relative paths of all images below ``root``, sorted; links are followed.

    Raises:
        InputError: a folder's or image's name is no UTF-8, as in archives from Windows.
    """
    found: list[str] = []
    unnamed: list[str] = []

    def look_into(folder: str, inside: str, above: tuple[str, ...]) -> None:
        before = len(found)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            place = f"{inside}{entry.name}"
            if is_hidden(entry.name):
                findings.leave_out(_HIDDEN, place)
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in above:
                    findings.leave_out("links that lead back to a folder around them", place)
                    continue
                if entry.is_symlink():
                    linked.append(place)
                look_into(entry.path, f"{place}/", (*above, real))
            elif os.path.splitext(entry.name)[1].lower() not in suffixes():
                suffix = os.path.splitext(entry.name)[1].lower()
                findings.leave_out(f"files that are no images by their names ({suffix or 'no suffix'})", place)
            elif not entry.is_file():
                findings.leave_out("links to nothing", place)
            else:
                if entry.is_symlink():
                    linked.append(place)
                found.append(place)
                if _NO_TEXT.search(place):
                    unnamed.append(place)
        if len(found) == before and inside:
            findings.leave_out("folders without images", inside.rstrip("/"))

    linked: list[str] = []
    look_into(str(root), "", (os.path.realpath(root),))
    if unnamed:
        raise InputError(
            f"{len(unnamed)} images have paths that are no UTF-8, such as {unnamed[0]!a}; rename them, for names from "
            "Windows with: convmv -r -f cp1252 -t utf8 --notest FOLDER."
        )
    if linked:
        findings.remarks.append(f"{len(linked):,} links are followed, such as {linked[0]}")
    return found


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
        return by_split | {"train": {"paths": rest, "inside": [file[len(prefix) :] for file in rest]}}
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
    beside = [top for top in others if any("/" not in name for name in _inside(top, inside))]
    if beside and not (has_train and splits & {"test", "validation"}):
        said = ", ".join(says)
        raise InputError(
            f"the folders of {origin} can be read in two ways: {said} as split, with classes in it; or "
            f"{', '.join((*beside[:3], said))} as classes. Decide with --splits train=FOLDER test=FOLDER, or with "
            "--splits none where all are classes."
        )
    return one_per_split(says, origin)


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


def _wrapping(files: list[str], only: str | None = None) -> str:
    """The folders, with a slash at the end, that hold nothing but one folder of folders each.

    They say no split, or with ``only`` no other than that.
    """
    prefix = ""
    while files and all("/" in file[len(prefix) :] for file in files):
        tops = {file[len(prefix) :].partition("/")[0] for file in files}
        top = next(iter(tops))
        deeper = f"{prefix}{top}/"
        if len(tops) > 1 or split_of(top) != only or any("/" not in file[len(deeper) :] for file in files):
            break
        prefix = deeper
    return prefix


def _inside(top: str, inside: list[str]) -> list[str]:
    return [name[len(top) + 1 :] for name in inside if name.startswith(f"{top}/")]


def _slashed(folder: str) -> str:
    return f"{folder.strip('/')}/"


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
