"""mdssl replaces and deletes only files that it wrote.

A folder is replaced only if a marker shows that mdssl wrote it, and if it has no other files, including hidden ones.
Files are deleted by name, never as a tree, so files of others always stay. Links are followed: the folder that a link
points to is filled, and the link stays.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from mdssl.errors import InputError, some_of
from mdssl.storage.location import Location

MADE_BY = "mdssl"
"""In the metadata of pictures and pages: the software of a PNG, the creator of SVG and PDF, ..."""
_MARKS = (
    b"tEXtSoftware\0mdssl",
    b"<dc:title>mdssl</dc:title>",
    b"/Creator (mdssl)",
    b'<meta name="generator" content="mdssl">',
)
_SHOWN = 3
"""The number of files that a message names."""


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """A kind of folder that mdssl writes.

    Attributes:
        what: its name in messages.
        marker: the JSON file that marks a folder of mdssl.
        is_marker: whether the JSON value in that file is one that mdssl writes.
        files: patterns of all files of such a folder, relative to it; ``*`` stands for any characters, also ``/``.
        setting: with which the user named the folder.
    """

    what: str
    marker: str
    is_marker: Callable[[Any], bool]
    files: tuple[str, ...]
    setting: str

    def holds(self, path: str) -> bool:
        """Whether a file with this relative path belongs to the kind."""
        return any(fnmatchcase(path, pattern) for pattern in self.files)


def files_in(place: Location) -> list[str]:
    """The relative paths of all files below ``place``, sorted, with hidden ones; links are not followed."""
    if not place.is_local:
        return place.files()
    paths = []

    def refuse(error: OSError) -> NoReturn:
        # A folder that cannot be listed may contain anything.
        raise InputError(
            f"{error.filename} cannot be read: {error.strerror}. Nothing was changed. Check its permissions."
        )

    for folder, subfolders, files in os.walk(place.path, onerror=refuse if os.path.isdir(place.path) else None):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        paths += [os.path.relpath(os.path.join(folder, name), place.path) for name in (*files, *links)]
    return sorted(paths)


def is_ours(place: Location, kind: FolderKind) -> bool:
    """Whether the folder ``place`` has a readable marker of ``kind``."""
    try:
        return kind.is_marker(json.loads((place / kind.marker).read_bytes()))
    except (ValueError, FileNotFoundError, NotADirectoryError):
        return False


def check_replaceable(place: Location, kind: FolderKind, *, beside: tuple[str, ...] = ()) -> bool:
    """Whether ``place`` is a folder of ``kind``; False if it does not exist or is empty.

    Args:
        beside: patterns of other files that may be in the folder, and stay there.

    Raises:
        InputError: ``place`` is a file, or has files that mdssl did not write as a folder of ``kind``.
    """
    if place.is_local and os.path.lexists(place.path) and not os.path.isdir(os.path.realpath(place.path)):
        if not os.path.islink(place.path) or os.path.exists(place.path):
            raise InputError(f"{place} is a file, where {kind.what} would be written. Give another {kind.setting}.")
        return False
    found = [path for path in files_in(place) if not any(fnmatchcase(path, pattern) for pattern in beside)]
    ours = bool(found) and is_ours(place, kind)
    foreign = [path for path in found if not (ours and kind.holds(path))]
    if foreign:
        raise InputError(
            f"folder {place} contains {some_of(foreign, _SHOWN, nouns='files')}, which mdssl did not write as "
            f"{kind.what}. Nothing was changed. Move these files away, or give another {kind.setting}."
        )
    return ours


def delete(place: Location, kind: FolderKind) -> None:
    """Delete the files of ``kind`` in ``place``, and its folders if they are empty then."""
    paths = [path for path in files_in(place) if kind.holds(path)]
    # The marker goes last: the rest of a run that is killed is still known to be mdssl's.
    for path in sorted(paths, key=lambda path: path == kind.marker):
        (place / path).delete()
    remove_empty_folders(place, (*paths, *kind.files))


def remove_empty_folders(place: Location, paths: Iterable[str]) -> None:
    """Remove the folders of files with the relative ``paths`` in ``place``, and ``place``, if they are empty."""
    if place.is_local:
        folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
        for folder in sorted(folders, reverse=True):
            with suppress(OSError):
                os.rmdir(os.path.join(place.path, folder) if folder != "." else place.path)


@contextmanager
def replaced(target: Path, kind: FolderKind, *, resumes: bool = False) -> Iterator[Path]:
    """A hidden folder that becomes ``target`` when the block ends, and is deleted when the block raises.

    The previous folder stays usable until then, and longer for processes that have mapped its files.

    Args:
        resumes: whether the block continues what an earlier one left in the folder. The folder is then deleted only if
            the block raises ``OSError``, as on a full disk. The caller must know that nobody else replaces ``target``.

    Raises:
        InputError: see `check_replaceable`.
        OSError: the folder cannot be written.
    """
    target = Path(os.path.realpath(target))
    check_replaceable(Location.of(target), kind)
    left = _unfinished(target, kind) if resumes else None
    temporary = left or target.parent / f".{target.name}.mdssl-{uuid.uuid4().hex[:8]}.tmp"
    previous = temporary.with_suffix(".old")
    temporary.mkdir(parents=True, exist_ok=resumes)
    try:
        yield temporary
        if target.exists():
            check_replaceable(Location.of(target), kind)
            shutil.copymode(target, temporary)
            os.rename(target, previous)
        try:
            os.rename(temporary, target)
        except BaseException:
            if previous.exists():
                os.rename(previous, target)
            raise
    except OSError:
        resumes = False
        raise
    finally:
        if resumes:
            remove_empty_folders(Location.of(temporary), kind.files)
        else:
            _delete_if_possible(temporary, kind)
        _delete_if_possible(previous, kind)


def clear_leftovers(target: Path, kind: FolderKind, *, resumes: bool = False) -> None:
    """Delete the leftover folders of a killed `replaced`, with ``resumes`` all but the one that the next one continues.

    The caller must know that nobody replaces ``target`` now.
    """
    target = Path(os.path.realpath(target))
    kept = _unfinished(target, kind) if resumes else None
    for leftover in _leftovers(target):
        if leftover.suffix == ".old" and not target.exists() and is_ours(Location.of(leftover), kind):
            # The run ended between its two renames.
            os.rename(leftover, target)
        if leftover != kept:
            _delete_if_possible(leftover, kind)


def _leftovers(target: Path) -> list[Path]:
    ours = re.compile(rf"\.{re.escape(target.name)}\.mdssl-[0-9a-f]{{8}}\.(tmp|old)")
    found = sorted(target.parent.glob(".*.mdssl-*")) if target.parent.is_dir() else []
    return [path for path in found if ours.fullmatch(path.name) and not path.is_symlink() and path.is_dir()]


def _unfinished(target: Path, kind: FolderKind) -> Path | None:
    """The folder in which a killed `replaced` made ``target``, if it has no other files than those of ``kind``."""
    found = (path for path in _leftovers(target) if path.suffix == ".tmp")
    return next((path for path in found if all(map(kind.holds, files_in(Location.of(path))))), None)


def _delete_if_possible(leftover: Path, kind: FolderKind) -> None:
    """`delete`, and ignore errors: leftover files are harmless."""
    with suppress(OSError, InputError):
        delete(Location.of(leftover), kind)


def refuse_overlap(source: Path, target: Location, *, what: str, setting: str) -> None:
    """Raise ``InputError`` if one of ``source`` and ``target`` lies in the other, through links too.

    Args:
        what: would be written to ``target``, for the message.
        setting: with which the user named ``target``.
    """
    place = Path(target.path)
    if not target.is_local:
        return
    if _is_inside(source, place):
        raise InputError(
            f"source {str(source)!r} lies in {target}, where {what} would replace it. Nothing was changed. Give "
            f"another {setting}, or move the source."
        )
    if _is_inside(place, source):
        raise InputError(
            f"{what} would be written to {target}, which lies in the source {str(source)!r}. Nothing was written. Give "
            f"another {setting}."
        )


def check_regular(place: Location, hint: str = "Give another --output.") -> None:
    """Raise ``InputError`` if ``place`` exists and is no regular file; writing would replace a pipe or a device."""
    if place.is_local and os.path.exists(place.path) and not os.path.isfile(place.path):
        what = "a folder" if os.path.isdir(place.path) else "a pipe or a device"
        raise InputError(f"{place} is {what}, where no file can be written. {hint}")


def check_file(place: Location) -> None:
    """Raise ``InputError`` if there is something at ``place`` that mdssl did not write."""
    check_regular(place)
    try:
        data = place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{place} cannot be written: {error}. Give another --output.") from error
    if not any(mark in data for mark in _MARKS):
        raise InputError(f"{place} exists, and mdssl did not write it. Move it away, or give another --output.")


def _is_inside(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is in ``outer``, by the files on disk instead of their paths."""
    if not outer.exists():
        return False
    inner = Path(os.path.realpath(inner))
    return any(path.exists() and os.path.samefile(path, outer) for path in (inner, *inner.parents))
