"""Kill a worker that hangs, such as in a collective that never returns, so that it is restarted.

Ray notices a process that has ended, but not one whose training thread hangs while other threads answer.
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

_CHECKS = 20
"""How often the time since the last sign of life is checked within the limit."""


@contextmanager
def watchdog(seconds: float) -> Iterator[Callable[[], None]]:
    """Kill this process, with its stacks in the log, when the yielded function was not called for ``seconds``.

    0 turns this off. Changes of the wall clock and time in which the machine sleeps do not count.
    """
    last, ended = [time.monotonic()], threading.Event()

    def beat() -> None:
        last[0] = time.monotonic()

    def watch() -> None:
        while not ended.wait(seconds / _CHECKS):
            if time.monotonic() - last[0] > seconds:
                message = "no report for %.3g min: this worker hangs and is killed (--hang-minutes)\n%s"
                log.error(message, seconds / 60, _stacks())
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
