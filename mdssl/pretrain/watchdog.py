"""A worker that hangs, in a driver call or a collective that never returns, is killed; who started it starts it anew.

Ray sees a process that is gone or stopped, and not one whose training stands still in a thread while others answer.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_LOOKS = 20
"""How often it looks while it would wait."""


@contextmanager
def watchdog(seconds: float) -> Iterator[Callable[[], None]]:
    """Kill this process, its stacks in the log, when what this gives was not called for ``seconds``.

    Zero is never. Steps of the wall clock, and time in which the machine sleeps, do not count.
    """
    last, ended = [time.monotonic()], threading.Event()

    def beat() -> None:
        last[0] = time.monotonic()

    def watch() -> None:
        while not ended.wait(seconds / _LOOKS):
            if time.monotonic() - last[0] > seconds:
                log.error(
                    "no report for %.3g min: this worker hangs, and is killed (--hang-minutes)\n%s",
                    seconds / 60,
                    _stacks(),
                )
                os.kill(os.getpid(), signal.SIGKILL)

    if not seconds:
        yield beat
        return
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        ended.set()
        thread.join()


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
