"""The temporary folder of a sweep, for Ray's session and Tune's records; deletes those of killed sweeps."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mdssl.errors import InputError

_PREFIX, _MARKER = "mdssl-ray-", ".temporary-folder-of-a-sweep"
_LONGEST = 107 - len(f"/mdssl-ray-01234567/r/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/dash_MetricsHead")
"""The longest path of a folder for Ray's sockets; their own paths may have 107 characters."""


@dataclass
class TemporaryFolder:
    """A folder that is deleted at the end, unless ``keep`` is set."""

    path: Path
    keep: bool = False


@contextmanager
def temporary_folder() -> Iterator[TemporaryFolder]:
    """A new folder for this user alone, in RAY_TMPDIR or TMPDIR, or in /tmp if their paths are too long for Ray.

    Folders that killed sweeps left there are deleted. A running sweep locks its folder, which also other machines and
    containers that share the disk see, unlike a process id.

    Raises:
        ValueError: no folder can be made.
    """
    parent = _parent()
    for left in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_if_unlocked(left)
    path, lock = _make(parent)
    folder = TemporaryFolder(path)
    try:
        yield folder
    finally:
        if folder.keep:
            (path / _MARKER).unlink(missing_ok=True)
        else:
            # Ray's last processes may still write there; what they leave is deleted at a later start.
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _parent() -> Path:
    parent = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    return parent if len(os.fsencode(parent)) <= _LONGEST else Path("/tmp")


def _make(parent: Path) -> tuple[Path, int]:
    try:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise InputError(
            f"no folder can be made in {parent} for Ray's temporary files: {error}. Set RAY_TMPDIR to a folder that "
            f"you can write, with at most {_LONGEST} characters."
        ) from error
    lock = os.open(path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    # After the lock: a folder without the marker is never deleted.
    (path / _MARKER).touch()
    return path, lock


def _remove_if_unlocked(path: Path) -> None:
    if path.is_symlink() or path.stat().st_uid != os.getuid() or not (path / _MARKER).exists():
        return
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # a sweep that runs
    else:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
