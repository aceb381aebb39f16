"""Download files over HTTP(S), with resumption after a broken connection, and unpack archives."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from mdssl.errors import InputError

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30

FUTILE_ATTEMPTS = 4
"""Consecutive attempts without a new byte; a connection that breaks but makes progress is always retried."""


def download(url: str, path: Path, md5: str, *, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Fetch ``url`` to ``path``; ``path`` exists only once it is complete and checked.

    The bytes received so far are in ``path``.part, and a later call, also of another process, requests only the rest.

    Args:
        url: an ``http`` or ``https`` address.
        path: where to keep it, in an existing folder.
        md5: the MD5 sum in hex that the file must have.
        progress: called with the bytes so far and the total, or None if the server does not send it.

    Raises:
        InputError: the server cannot be reached or refuses, or the MD5 sum differs.
    """
    part = path.with_name(path.name + ".part")
    futile = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, progress)
            break
        except urllib.error.HTTPError as error:
            # Only "busy" and "broken" are transient.
            if error.code not in (429, 500, 502, 503, 504):
                raise _unreachable(url, path, error) from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        futile = 0 if _size(part) > before else futile + 1
        if futile == FUTILE_ATTEMPTS:
            raise _unreachable(url, path, failure) from failure
        time.sleep(0.1 * 4**futile)
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise InputError(
            f"{url} has MD5 {found} instead of {md5} and was deleted. Try again, or put the right file into "
            f"{path.parent} as {path.name}."
        )
    os.replace(part, path)


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Append the missing bytes to ``part``; raises if the connection ends before the server has sent everything."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "mdssl", "Range": f"bytes={have}-"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # 416, no bytes after these: the file is complete. The MD5 sum is checked later.
        if error.code == 416 and have:
            return
        raise
    with response:
        # 200 instead of 206: this server does not support ranges and sends everything again.
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(CHUNK_BYTES):
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    # When reading by blocks, the standard library does not report an early end of the connection.
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _unreachable(url: str, path: Path, error: Exception) -> InputError:
    return InputError(
        f"{url} cannot be downloaded: {error}. The same command resumes the download; without a network, put the "
        f"file into {path.parent} as {path.name} by hand."
    )


def unpack(archive: Path, folder: Path, wanted: Iterable[str]) -> None:
    """Unpack the members of ``archive`` that are, or lie in, one of ``wanted`` into ``folder``.

    Args:
        archive: a ``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip`` file.
        folder: receives the files when all are unpacked. An existing file is kept.
        wanted: files and folders inside the archive, e.g. ``"dtd/images"``.

    Raises:
        InputError: the archive is cut off, or one of its members points outside ``folder``.
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
    # zlib.error and EOFError: a compressed stream that ends early.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        # A damaged gzip is an OSError, too, but not one of the system.
        is_whole = isinstance(error, OSError) and error.errno is not None
        hint = (
            f"Check the space and the permissions of {folder}" if is_whole else "Remove and fetch it again (--download)"
        )
        raise InputError(f"archive {archive} cannot be unpacked: {error}. {hint}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    """Move a file or folder without replacing existing files, which may be the user's."""
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
        # The "data" filter checks again for devices and links that lead outside, by where they would end on disk.
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
