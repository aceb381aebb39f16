"""Unpacking a downloaded tar or zip archive, whole or not at all, and never outside its folder."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mdssl.errors import InputError


def unpack(archive: Path, folder: Path, wanted: Iterable[str]) -> None:
    """Unpack the members of ``archive`` that are, or lie in, one of ``wanted`` into ``folder``.

    Args:
        archive: a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip`` file.
        folder: gets the files once all are unpacked; a file that is there already stays as it is.
        wanted: files and folders inside the archive, e.g. ``"dtd/images"``.

    Raises:
        ValueError: the archive is cut off, or one of its members points outside ``folder``.
    """
    temporary = folder / f".{archive.name}.mdssl-unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, temporary, tuple(wanted))
        else:
            _unpack_tar(archive, temporary, tuple(wanted))
        for top in temporary.iterdir():
            _move(top, folder / top.name)
    # zlib.error and EOFError: where a compressed stream ends early.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(
            f"archive {archive} cannot be unpacked: {error}. Remove it and fetch it again (--download)."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    """Move a file or folder; of what is there already nothing is replaced, as somebody may have put it there."""
    if not os.path.lexists(target):
        os.rename(path, target)
    elif path.is_dir() and target.is_dir():
        for child in path.iterdir():
            _move(child, target / child.name)


def _unpack_tar(archive: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            _refuse_outside(archive, member.name)
            if member.issym():
                _refuse_outside(archive, str(PurePosixPath(member.name).parent / member.linkname))
            if member.islnk():
                _refuse_outside(archive, member.linkname)
        # The "data" filter refuses devices and links that lead outside a second time, by where they would really end.
        tar.extractall(folder, [member for member in members if _is_wanted(member.name, wanted)], filter="data")


def _unpack_zip(archive: Path, folder: Path, wanted: tuple[str, ...]) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            _refuse_outside(archive, name)
        file.extractall(folder, [name for name in file.namelist() if _is_wanted(name, wanted)])


def _is_wanted(name: str, wanted: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(path.is_relative_to(want) for want in wanted)


def _refuse_outside(archive: Path, name: str) -> None:
    depth = 0
    for part in PurePosixPath(name.replace("\\", "/")).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part.startswith("/"):
            raise InputError(
                f"archive {archive} has the member {name!r}, which points outside the folder it is unpacked to; "
                "nothing was unpacked. Fetch the archive from its original address (--download)."
            )
