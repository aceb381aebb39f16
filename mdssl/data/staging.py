"""One writer at a time, and a folder that appears whole or not at all.

A dataset is written to ``<data>/.<name>.tmp`` under the lock ``<data>/.<name>.lock`` and then renamed. Whatever a
killed run left is put right by the next one that holds the lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mdssl.errors import InputError


@contextlib.contextmanager
def locked(data: Path, name: str, progress: bool) -> Iterator[None]:
    """Hold the lock of the dataset ``name``, waiting for whoever has it; with ``progress``, say so.

    Raises:
        ValueError: the data folder cannot be made or written.
    """
    with _writing(data):
        data.mkdir(parents=True, exist_ok=True)
        lock = FileLock(data / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                print(f"another process prepares or fetches {name}; waiting for it", file=sys.stderr)
            lock.acquire()
    try:
        with _writing(data):
            _tidy(data, name)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def all_or_nothing(data: Path, name: str) -> Iterator[Path]:
    """A hidden folder that becomes ``data/name`` when the block ends, and vanishes when the block raises.

    What stood under the name before stays usable until then, and longer by those who have mapped its files.

    Raises:
        ValueError: the folder cannot be written, the disk being full included.
    """
    try:
        with _writing(data):
            temporary = _temporary(data, name)
            temporary.mkdir()
            yield temporary
            if (data / name).exists():
                os.rename(data / name, _previous(data, name))
            os.rename(temporary, data / name)
    finally:
        _tidy(data, name)


def _temporary(data: Path, name: str) -> Path:
    return data / f".{name}.tmp"


def _previous(data: Path, name: str) -> Path:
    return data / f".{name}.old"


def _tidy(data: Path, name: str) -> None:
    shutil.rmtree(_temporary(data, name), ignore_errors=True)
    if _previous(data, name).exists():
        # A run ended between its two renames: without the new dataset, the previous one is put back.
        if not (data / name).exists():
            os.rename(_previous(data, name), data / name)
        shutil.rmtree(_previous(data, name), ignore_errors=True)


@contextlib.contextmanager
def _writing(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"data folder {str(data)!r} cannot be written: {error}. Give a writable folder with enough space with "
            "--data or MDSSL_DATA, or for copies from a bucket with MDSSL_DATA_CACHE."
        ) from error
