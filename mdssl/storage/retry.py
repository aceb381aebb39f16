"""Storage that is away for a while: a full disk that somebody clears, a file server or a bucket that comes back.

Work that costs hours waits for it, within ``patience``; a command that only reads or checks fails at once, as does
whatever runs outside. What is wrong for good, such as a missing file or a missing right, is never waited for.
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
"""How long one read or write may be tried: less than the ten minutes after which NCCL gives up a rank that waits."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE,
    errno.ENOSPC, errno.EDQUOT,
    errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ESHUTDOWN,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
}  # fmt: skip
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_LASTING_ON_S3 = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")

_patience: ContextVar[float] = ContextVar("patience", default=0.0)
T = TypeVar("T")


class StorageLostError(OSError):
    """The storage did not come back within the patience."""


@contextmanager
def retrying(seconds: float | None = None) -> Iterator[None]:
    """Within, in this thread, reads and writes wait up to ``seconds`` for the storage; default `PATIENCE_SECONDS`."""
    token = _patience.set(RETRY_SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def is_transient(error: OSError, *, is_local: bool) -> bool:
    """Whether the same may succeed in some minutes. Errors of object stores have no numbers, so all may but a few."""
    if isinstance(error, _LASTING):
        return False
    if is_local:
        return error.errno in _PASSING
    return not any(f"AWS Error {name}" in str(error) for name in _LASTING_ON_S3)


def retry(uri: str, action: Callable[[], T], *, is_local: bool) -> T:
    """What ``action`` returns, tried again with growing pauses while its errors may pass and patience lasts.

    Raises:
        StorageLostError: it did not succeed in time.
        OSError: the error of ``action``, where that will not pass, or where there is no patience.
    """
    seconds, begun, pause = _patience.get(), time.monotonic(), _FIRST_PAUSE
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
                    f"{uri} could not be used for {seconds / 60:.3g} min: {error}. See to the disk, the file server or "
                    "the network, then start the same again (a sweep with --retry-failed): it goes on from the last "
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
