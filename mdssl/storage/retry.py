"""Retries of requests to a storage that is away for a while: a full disk, a file server or bucket that is down.

Inside `retrying`, which work that takes hours uses, requests are repeated while their errors may be transient. Outside
of it they fail at once, as commands that only read should. A missing file or permission is never retried.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

log = logging.getLogger(__name__)

RETRY_SECONDS = 8 * 60.0
"""How long one request is retried: less than the ten minutes after which NCCL gives up a rank that waits."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_TRANSIENT = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE,
    errno.ENOSPC, errno.EDQUOT,
    errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ESHUTDOWN,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
}  # fmt: skip
_PERMANENT = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_PERMANENT_S3 = (
    "ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH",
)  # fmt: skip

_seconds: ContextVar[float] = ContextVar("retry_seconds", default=0.0)
T = TypeVar("T")


class StorageLostError(OSError):
    """The storage did not come back in time."""


@contextmanager
def retrying(seconds: float | None = None) -> Iterator[None]:
    """Within the context, in this thread, requests are retried for ``seconds``; default `RETRY_SECONDS`, 0 is never."""
    token = _seconds.set(RETRY_SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        _seconds.reset(token)


def is_transient(error: OSError, *, is_local: bool) -> bool:
    """Whether the same request may succeed in some minutes. Errors of object stores have no numbers: all but a few."""
    if isinstance(error, _PERMANENT):
        return False
    if is_local:
        return error.errno in _TRANSIENT
    return not any(f"AWS Error {name}" in str(error) for name in _PERMANENT_S3)


def retry(uri: str, action: Callable[[], T], *, is_local: bool) -> T:
    """The result of ``action``, which is repeated with growing pauses while its errors are transient.

    Raises:
        StorageLostError: it did not succeed in time.
        OSError: an error of ``action`` that is not transient, or any outside of `retrying`.
    """
    seconds, begun, pause = _seconds.get(), time.monotonic(), _FIRST_PAUSE
    warned = False
    while True:
        try:
            result = action()
        except OSError as error:
            if not seconds or isinstance(error, StorageLostError) or not is_transient(error, is_local=is_local):
                raise
            left = begun + seconds - time.monotonic()
            if left <= 0:
                raise StorageLostError(
                    error.errno,
                    f"{uri} could not be used for {seconds / 60:.3g} min: {error}. Repair the disk, the file server or "
                    "the network, then start the same command (a sweep with --retry-failed): it goes on from the last "
                    "checkpoints.",
                ) from error
            if not warned:
                log.warning("%s cannot be used (%s); it is tried again for up to %.3g min", uri, error, seconds / 60)
                warned = True
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if warned:
                log.warning("%s can be used again, after %.0f s", uri, time.monotonic() - begun)
            return result
