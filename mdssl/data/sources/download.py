"""Fetching one file over HTTP(S) so that a broken connection costs only what was on the wire."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mdssl.errors import InputError

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30

# In a row without a single new byte; a connection that breaks but moves on may break as often as it likes.
FUTILE_ATTEMPTS = 4


def download(url: str, path: Path, md5: str, *, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Fetch ``url`` to ``path``; ``path`` appears whole and checked, or not at all.

    What arrives is kept in ``path``.part, and a later call, also of another process, asks the server only for the rest.

    Args:
        url: an ``http`` or ``https`` address.
        path: where to keep it; its folder is there already.
        md5: the MD5 sum in hex that the file must have.
        progress: called with the bytes so far and the bytes in all, where the server says so.

    Raises:
        ValueError: the server cannot be reached or refuses, or the MD5 sum differs; says what to put where by hand.
    """
    part = path.with_name(path.name + ".part")
    futile = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, progress)
            break
        except urllib.error.HTTPError as error:
            # Of the refusals only "busy" and "broken" may pass by themselves.
            if error.code not in (429, 500, 502, 503, 504):
                raise _unreachable(url, path, error) from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        futile = 0 if _size(part) > before else futile + 1
        if futile == FUTILE_ATTEMPTS:
            raise _unreachable(url, path, failure) from failure
        time.sleep(0.1 * 4**futile)
    arrived = file_md5(part)
    if arrived != md5:
        part.unlink()
        raise InputError(
            f"{url} arrived with MD5 {arrived} instead of {md5} and was thrown away. Try again, or put the right file "
            f"into {path.parent} as {path.name}."
        )
    os.replace(part, path)


def file_md5(path: Path) -> str:
    """The MD5 sum of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(url: str, part: Path, progress: Callable[[int, int | None], None] | None) -> None:
    """Append what is missing in ``part``; raises when the connection ends before the server has sent everything."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "mdssl", "Range": f"bytes={have}-"})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # 416, nothing after these bytes: all of it has arrived, and the MD5 sum decides whether it is any good.
        if error.code == 416 and have:
            return
        raise
    with response:
        # 200 instead of 206: this server knows no ranges and sends everything anew.
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(CHUNK_BYTES):
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    # Reading by blocks, the standard library takes an early end of the connection for the end of the file.
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _unreachable(url: str, path: Path, error: Exception) -> InputError:
    return InputError(
        f"{url} cannot be downloaded: {error}. What has arrived is kept, so trying again goes on from there; without a "
        f"network, put the file into {path.parent} as {path.name} by hand."
    )
