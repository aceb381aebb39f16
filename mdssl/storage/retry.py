"""Retries of requests to a storage that is unavailable: a full disk, a file server or bucket that is down.

Inside `retrying`, which work that takes hours uses, requests are repeated while their errors may be transient. Outside
of it they fail at once, as commands that only read should. A missing file or permission is never retried. A request to
stop ends retries: batch systems kill a process some 30 s after SIGTERM.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from mdssl.errors import StoppedError

log = logging.getLogger(__name__)

RETRY_SECONDS = 8 * 60.0
"""How long one request is retried: less than the ten minutes after which NCCL gives up a rank that waits."""
_SECONDS_AFTER_STOP = 3.0
"""The same, once a stop was requested. A request to an object store may take 6 s by itself."""
_FIRST_PAUSE, _LONGEST_PAUSE, _LOOK_SECONDS = 0.5, 15.0, 0.5
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

T = TypeVar("T")
R = TypeVar("R")


class StorageLostError(OSError):
    """The storage did not come back in time."""


@dataclass(frozen=True)
class _Stop:
    """Whether a stop was ``requested``, and whether the storage was ``given_up`` because of it."""

    requested: Callable[[], bool]
    given_up: threading.Event = field(default_factory=threading.Event)


_seconds: ContextVar[float] = ContextVar("retry_seconds", default=0.0)
_stop: ContextVar[_Stop | None] = ContextVar("retry_stop", default=None)


@contextmanager
def retrying(seconds: float | None = None, stop_requested: Callable[[], bool] | None = None) -> Iterator[None]:
    """Within the context, in this thread, requests are retried for ``seconds``; default `RETRY_SECONDS`, 0 is never.

    Args:
        stop_requested: asked between retries, also of contexts within this one. Once it returns true, a request that
            fails raises `StoppedError` after some seconds. Later ones are not retried, and those to object stores are
            not even tried, as each would take some seconds.
    """
    outer, stop = _stop.get(), None
    if stop_requested and outer:
        stop = _Stop(lambda: stop_requested() or outer.requested(), outer.given_up)
    elif stop_requested:
        stop = _Stop(stop_requested)
    token = _seconds.set(RETRY_SECONDS if seconds is None else seconds)
    stop_token = _stop.set(stop or outer)
    try:
        yield
    finally:
        _stop.reset(stop_token)
        _seconds.reset(token)


def in_threads(action: Callable[[T], R], items: Iterable[T], threads: int = 16) -> list[R]:
    """The results of ``action`` for each of ``items``, by threads whose requests are retried as the caller's are."""
    with ThreadPoolExecutor(threads) as pool:
        return [each.result() for each in [pool.submit(copy_context().run, action, item) for item in items]]


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
        StorageLostError: it did not succeed in time, or an object store was given up before because of a stop.
        StoppedError: it failed, and a stop was requested.
        OSError: an error of ``action`` that is not transient, or any outside of `retrying`.
    """
    seconds, stop, begun, pause = _seconds.get(), _stop.get(), time.monotonic(), _FIRST_PAUSE
    if stop and stop.given_up.is_set():
        if not is_local:
            raise StorageLostError(errno.ECANCELED, f"{uri} is not used any more: it was unavailable when work stopped")
        seconds = 0
    warned = False
    while True:
        try:
            result = action()
        except OSError as error:
            if not seconds or isinstance(error, StorageLostError) or not is_transient(error, is_local=is_local):
                raise
            if not warned:
                log.warning("%s is unavailable (%s); retrying for up to %.3g min", uri, error, seconds / 60)
                warned = True
            try:
                _wait(min(time.monotonic() + pause, begun + seconds), begun, uri, error)
            except KeyboardInterrupt:
                if stop:
                    stop.given_up.set()
                raise
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if warned:
                log.warning("%s is available again after %.0f s", uri, time.monotonic() - begun)
            return result


def _wait(until: float, begun: float, uri: str, error: OSError) -> None:
    """Wait for the next try of a request that was ``begun`` then, and has failed with ``error``.

    Raises:
        StorageLostError, StoppedError: there is none; see `retry`.
    """
    seconds, stop = _seconds.get(), _stop.get()
    while True:
        now = time.monotonic()
        if stop and now - begun >= _SECONDS_AFTER_STOP and stop.requested():
            stop.given_up.set()
            raise StoppedError(
                f"stopped; nothing was saved since the last checkpoint, because {uri} is unavailable ({error})"
            ) from error
        if now - begun >= seconds:
            raise StorageLostError(
                error.errno,
                f"{uri} was unavailable for {seconds / 60:.3g} min: {error}. Repair the disk, the file server or "
                "the network, then start the same command (a sweep with --retry-failed): it resumes from the last "
                "checkpoints.",
            ) from error
        if now >= until:
            return
        time.sleep(min(until - now, _LOOK_SECONDS))
