"""One writer of a dataset at a time, and a folder that appears whole or not at all.

Under the lock ``<data>/.<name>.lock`` a dataset is written to a hidden folder beside its own, and renamed. Whatever a
killed run left is put right by the next one that holds the lock. `mdssl.storage.ownership` says what may be replaced.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mdssl.errors import InputError
from mdssl.storage.ownership import FolderKind, clear_leftovers, replaced

DATASET = FolderKind(
    what="a prepared dataset",
    marker="meta.json",
    is_marker=lambda said: isinstance(said, dict) and {"format", "splits", "mdssl_version"} <= said.keys(),
    files=("meta.json", *(f"{split}/{array}.npy" for split in ("train", "test") for array in ("images", "labels"))),
    setting="--data or MDSSL_DATA",
)


@contextlib.contextmanager
def locked(data: Path, name: str, progress: bool) -> Iterator[None]:
    """Hold the lock of the dataset ``name``, waiting for whoever has it; with ``progress``, say so.

    Raises:
        ValueError: the data folder cannot be made or written.
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
                print(f"another process prepares or fetches {name}; waiting for it", file=sys.stderr)
            lock.acquire()
    try:
        with _writing(data):
            clear_leftovers(data / name, DATASET)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def all_or_nothing(data: Path, name: str) -> Iterator[Path]:
    """`mdssl.storage.ownership.replaced` for the dataset ``name``.

    Raises:
        ValueError: the folder cannot be written, the disk being full included, or holds something else.
    """
    with _writing(data), replaced(data / name, DATASET) as temporary:
        yield temporary


@contextlib.contextmanager
def _writing(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"data folder {str(data)!r} cannot be written: {error}. Give a writable folder with enough space with "
            "--data or MDSSL_DATA, or for copies from a bucket with MDSSL_DATA_CACHE."
        ) from error
