"""How a sweep stops: after Ctrl-C or SIGTERM its trials save a checkpoint and end, then the sweep ends.

The request travels through the key-value store of the Ray that the sweep runs on, where each trial looks once a second.
So it reaches trials on all machines, and Ray has to survive the signal: see `mdssl.sweep.ray_session`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.experimental import internal_kv
from rich.console import Console

from mdssl.errors import Terminated

WAIT_SECONDS = 12.0
"""How long a sweep waits for its trials to stop. A batch system may kill it 30 s after SIGTERM."""
_LOOK_SECONDS = 1.0


def _key() -> bytes:
    return f"mdssl-stop-{ray.get_runtime_context().get_job_id()}".encode()


def stop_requested() -> bool:
    """Whether the sweep that this process works for has been asked to stop."""
    return ray.is_initialized() and bool(internal_kv._internal_kv_exists(_key()))


def stop_requested_now_and_then() -> Callable[[], bool]:
    """`stop_requested`, cheap enough to be called after each step: it looks once in `_LOOK_SECONDS`."""
    looked, answer = float("-inf"), False

    def requested() -> bool:
        nonlocal looked, answer
        if time.monotonic() - looked >= _LOOK_SECONDS:
            looked, answer = time.monotonic(), stop_requested()
        return answer

    return requested


class Stop:
    """What Ctrl-C and SIGTERM do to a sweep's own process.

    While Tune runs, the first signal asks the trials to stop, and Tune ends when they have; the second one ends it at
    once. At any other time a signal is a KeyboardInterrupt.

    Attributes:
        callback: has to be one of Tune's.
    """

    def __init__(self, console: Console):
        self.signals: list[int] = []
        self.tune_runs = False
        self.callback = _StopTrials(self, console)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within, signals come here. Ray's own handlers, which `ray.init` installs, must be there before.

        Raises:
            Terminated: in place of KeyboardInterrupt, after SIGTERM.
        """
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        # Tune takes it while it runs; before that it would end the process.
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if signal.SIGTERM in self.signals:
                raise Terminated from interrupt
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def while_tune_runs(self) -> Iterator[None]:
        self.tune_runs = True
        try:
            yield
        finally:
            self.tune_runs = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        if not self.tune_runs:
            raise KeyboardInterrupt
        if len(self.signals) > 1:
            end_tune()


def end_tune() -> None:
    """Have Tune kill the trials that still run, and return."""
    signal.raise_signal(signal.SIGUSR1)


class _StopTrials(tune.Callback):
    """Passes the first signal on to the trials, and ends Tune when those that ran have stopped."""

    def __init__(self, stop: Stop, console: Console):
        self.stop, self.console = stop, console
        self.running: set[str] | None = None
        self.since = 0.0

    def __getstate__(self) -> dict:
        # Tune pickles its callbacks for a restore that this project does not use; a terminal cannot be pickled.
        return {}

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if not self.stop.signals:
            return
        # A score that is being made is made again; there is nothing to save.
        training = {t.trial_id for t in trials if t.status == "RUNNING" and t.last_result.get("phase") != "probe"}
        if self.running is None:
            internal_kv._internal_kv_put(_key(), b"")
            self.running, self.since = training, time.monotonic()
            name = signal.Signals(self.stop.signals[0]).name
            self.console.print(
                f"{name}: {len(training)} trial(s) save a checkpoint and stop; once more stops at once", soft_wrap=True
            )
        if not self.running & training or time.monotonic() - self.since > WAIT_SECONDS:
            end_tune()
