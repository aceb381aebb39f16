"""Write datasets atomically, one process at a time.

A process takes the lock ``<data>/.<name>.lock``, writes the dataset to a hidden folder, and renames that folder. The
next process that takes the lock continues in the folder that a killed run left, or deletes it.
`mdssl.storage.ownership` decides what may be replaced.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mdssl.data.dataset import SPLITS
from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, check_replaceable, clear_leftovers, replaced

ARRAYS = tuple(f"{split}/{array}.npy" for split in SPLITS for array in ("images", "labels"))
"""The files of a prepared dataset besides ``meta.json``."""
JOURNALS = tuple(f"{split}/decoded.jsonl" for split in SPLITS)
"""Files of an unfinished dataset alone, see `mdssl.data.arrays.Journal`."""

DATASET = FolderKind(
    what="a prepared dataset",
    marker="meta.json",
    is_marker=lambda content: isinstance(content, dict) and {"format", "splits", "mdssl_version"} <= content.keys(),
    files=("meta.json", *ARRAYS, *JOURNALS),
    setting="--data or MDSSL_DATA",
)


@contextlib.contextmanager
def locked(data: Path, name: str, progress: bool, *, resumes: bool = False) -> Iterator[None]:
    """Hold the lock of the dataset ``name``. With ``progress``, print a line if another process holds it.

    What a killed run left is deleted; with ``resumes``, what `all_or_nothing` can continue stays.

    Raises:
        InputError: the data folder cannot be created or written.
    """
    with _writing(data):
        data.mkdir(parents=True, exist_ok=True)
        # Two names may be links to one folder.
        target = Path(os.path.realpath(data / name))
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                print(f"another process is preparing or fetching {name}; waiting for it", file=sys.stderr)
            lock.acquire()
    try:
        with _writing(data):
            clear_leftovers(data / name, DATASET, resumes=resumes)
        yield
    finally:
        lock.release()


def check_target(data: Path, name: str) -> None:
    """Raise ``InputError`` if the folder of ``name`` cannot be replaced: it is a mount point, or has other files."""
    target = os.path.realpath(data / name)
    if os.path.ismount(target) or target in _mount_points():
        raise InputError(
            f"{data / name} is a mount point, which cannot be replaced. Mount its parent folder instead and set "
            f"{DATASET.setting} to that, or choose another name."
        )
    check_replaceable(Location.of(data / name), DATASET)


def _mount_points() -> set[str]:
    """Return all mount points on Linux, because ``os.path.ismount`` misses bind mounts within a file system."""
    try:
        lines = Path("/proc/self/mounts").read_bytes().splitlines()
    except OSError:
        return set()
    # The kernel writes special characters such as spaces as octal escapes.
    return {os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")) for line in lines}


@contextlib.contextmanager
def all_or_nothing(data: Path, name: str, *, resumes: bool = False) -> Iterator[Path]:
    """Yield a hidden folder that becomes the dataset ``name`` when the block ends, or is deleted if the block raises.

    Empty folders that the user made in the dataset are kept. For ``resumes`` see `mdssl.storage.ownership.replaced`.

    Raises:
        InputError: the folder cannot be written, for example because the disk is full, or contains other files.
    """
    check_target(data, name)
    with _writing(data), replaced(data / name, DATASET, resumes=resumes) as temporary:
        yield temporary
        for journal in JOURNALS:
            (temporary / journal).unlink(missing_ok=True)
        _move_empty_folders(data / name, temporary)


def _move_empty_folders(target: Path, new: Path) -> None:
    for folder, _, _ in os.walk(target, topdown=False):
        if folder != str(target) and not os.listdir(folder):
            (new / os.path.relpath(folder, target)).mkdir(parents=True, exist_ok=True)
            os.rmdir(folder)


@contextlib.contextmanager
def _writing(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"data folder {str(data)!r} cannot be written: {error}. Give a writable folder with enough space with "
            "--data or MDSSL_DATA, or for copies from a bucket with MDSSL_DATA_CACHE."
        ) from error
