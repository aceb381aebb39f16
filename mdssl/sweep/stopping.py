"""How a sweep and its trials stop: after Ctrl-C or SIGTERM trials save a checkpoint and end.

The request travels through the key-value store of the Ray that the sweep runs on, where each worker looks once a
second. So it reaches all machines, and Ray has to survive the signal: see `mdssl.sweep.ray_session`. A signal to the
sweep stops all trials; one to the process of a trial stops that trial's workers, and Tune restarts the trial.
"""

from __future__ import annotations

import os
import signal
import threading
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
from mdssl.storage.retry import retrying

WAIT_SECONDS = 12.0
"""How long a sweep waits for its trials to stop; a batch system may kill it 30 s after SIGTERM."""
_GRACE_SECONDS = 16.0
"""How long the process of a trial may take to stop after SIGTERM."""
_LOOK_SECONDS = 1.0


def _key(token: str = "") -> bytes:
    return f"mdssl-stop-{ray.get_runtime_context().get_job_id()}-{token}".encode()


def stop_requested(token: str = "") -> bool:
    """Whether this process's sweep, or its trial that has the claim with ``token``, has been asked to stop."""
    if not ray.is_initialized():
        return False
    return any(internal_kv._internal_kv_exists(key) for key in {_key(), _key(token)})


def stop_requested_now_and_then(token: str) -> Callable[[], bool]:
    """`stop_requested`, cheap enough to be called after each step: it looks once in `_LOOK_SECONDS`."""
    looked, answer = float("-inf"), False

    def requested() -> bool:
        nonlocal looked, answer
        if time.monotonic() - looked >= _LOOK_SECONDS:
            looked, answer = time.monotonic(), stop_requested(token)
        return answer

    return requested


@contextmanager
def passing_on(terminated: Callable[[], bool], token: str) -> Iterator[None]:
    """Within the context, once this process is ``terminated``, the workers of its trial are asked to stop.

    Where the context does not end soon after that, as while Ray Train waits for a free CPU, this process kills itself.
    """
    ended, told = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_SECONDS):
            if terminated():
                internal_kv._internal_kv_put(_key(token), b"")
                told.set()
                if not ended.wait(_GRACE_SECONDS):
                    os.kill(os.getpid(), signal.SIGKILL)
                return

    thread = threading.Thread(target=watch, name="pass-on-sigterm", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if told.is_set():
            internal_kv._internal_kv_del(_key(token))


class Stop:
    """Handles Ctrl-C and SIGTERM in a sweep's own process.

    While Tune runs, the first signal asks the trials to stop, and Tune ends when they have; the second one ends Tune at
    once. At any other time a signal raises KeyboardInterrupt.

    Attributes:
        callback: to be passed to Tune.
    """

    def __init__(self, console: Console):
        self.signals: list[int] = []
        self.tune_runs = False
        self.callback = _StopTrials(self, console)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within the context, this object handles signals.

        Raises:
            Terminated: in place of KeyboardInterrupt, after SIGTERM.
        """
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        # Tune handles it while it runs; before that it would end the process.
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            with retrying(stop_requested=lambda: bool(self.signals)):
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
    """Make Tune kill the trials that still run, and return."""
    signal.raise_signal(signal.SIGUSR1)


class _StopTrials(tune.Callback):
    """Passes the first signal on to the trials, and ends Tune when they have stopped."""

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
        # A trial that is being evaluated has nothing to save: its scores are made again.
        training = {t.trial_id for t in trials if t.status == "RUNNING" and t.last_result.get("phase") != "evaluating"}
        if self.running is None:
            internal_kv._internal_kv_put(_key(), b"")
            self.running, self.since = training, time.monotonic()
            name = signal.Signals(self.stop.signals[0]).name
            self.console.print(
                f"{name}: {len(training)} trial(s) save a checkpoint and stop; once more stops at once", soft_wrap=True
            )
        if not self.running & training or time.monotonic() - self.since > WAIT_SECONDS:
            end_tune()
