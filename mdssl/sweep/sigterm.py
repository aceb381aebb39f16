"""SIGTERM to a sweep's own process, as from ``ray job stop``, ends it as Ctrl-C does.

Where all of its process group gets it, Ray ends at the same moment: the sweep notices that after a minute and fails.
Nothing is lost by that, and the same command goes on.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within, SIGTERM goes to whoever takes Ctrl-C at the time; that is Tune, while trials run."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
