"""Stop a sweep and its trials: after Ctrl-C or SIGTERM, trials save a checkpoint and end.

The request travels through the key-value store of the Ray that the sweep runs on, where each worker looks once a
second. So it reaches all machines, and Ray has to survive the signal: see `mdssl.sweep.ray_session`. A signal to the
sweep stops all trials; one to the process of a trial stops that trial's workers, and Tune restarts the trial. A request
in a trial's folder, which `mdssl stop` writes without Ray, is seen by the owner of its claim, and stops it for good.
"""

from __future__ import annotations

import logging
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

from mdssl.errors import InputError, Terminated
from mdssl.storage.retry import retrying

WAIT_SECONDS = 12.0
"""How long a sweep waits for its trials to stop; a batch system may kill it 30 s after SIGTERM."""
_GRACE_SECONDS = 16.0
"""How long the process of a trial may take to stop after SIGTERM."""
_LOOK_SECONDS = 1.0
_DECISION_SECONDS = 60.0
"""How long a trial waits for a scheduler's decision, which takes a second or so."""

log = logging.getLogger(__name__)


def _key(*what: object) -> bytes:
    """The key of a record of this sweep."""
    return "-".join(map(str, ("mdssl", ray.get_runtime_context().get_job_id(), *what))).encode()


def delete_records() -> None:
    """Delete what this sweep has put into the key-value store, which a cluster keeps for good."""
    for key in internal_kv._internal_kv_list(_key()):
        internal_kv._internal_kv_del(key)


def stop_requested(token: str = "") -> bool:
    """Whether this process's sweep, or its trial that has the claim with ``token``, has been asked to stop."""
    if not ray.is_initialized():
        return False
    return any(internal_kv._internal_kv_exists(key) for key in {_key("stop"), _key("stop", token)})


def stop_requested_now_and_then(token: str) -> Callable[[], bool]:
    """`stop_requested`, cheap enough to be called after each step: it looks once in `_LOOK_SECONDS`."""
    looked, answer = float("-inf"), False

    def requested() -> bool:
        nonlocal looked, answer
        if time.monotonic() - looked >= _LOOK_SECONDS:
            looked, answer = time.monotonic(), stop_requested(token)
        return answer

    return requested


def put_decision(trial_id: str, step: int, ends: bool) -> None:
    """Tell a trial whether it ends early after ``step``."""
    internal_kv._internal_kv_put(_key("decision", trial_id, step), b"end" if ends else b"go")


def decision(trial_id: str, step: int) -> bool:
    """Wait for the scheduler's decision whether the trial ends early after ``step``.

    Without an answer, as when the sweep stops at this moment, training continues.
    """
    asked = time.monotonic()
    while time.monotonic() - asked < _DECISION_SECONDS:
        answer = internal_kv._internal_kv_get(_key("decision", trial_id, step))
        if answer is not None:
            return bool(answer == b"end")
        if stop_requested():
            return False
        time.sleep(0.05)
    log.warning("trial %s: no decision on early stopping after step %d; training continues", trial_id, step)
    return False


@contextmanager
def passing_on(terminated: Callable[[], bool], token: str, asked: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within the context, once this process is ``terminated`` or the trial ``asked`` to stop, so are its workers.

    Where the context does not end soon after SIGTERM, as while Ray Train waits for a free CPU, this process kills
    itself.
    """
    ended, told = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_SECONDS):
            if not (terminated() or asked()):
                continue
            internal_kv._internal_kv_put(_key("stop", token), b"")
            told.set()
            if terminated():
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
            internal_kv._internal_kv_del(_key("stop", token))


class Stop:
    """Handles Ctrl-C and SIGTERM in a sweep's own process.

    While Tune runs, the first signal asks the trials to stop, and Tune ends when they have; the second one ends Tune at
    once. At any other time a signal raises KeyboardInterrupt. The end of ``seconds``, where they are limited, is like a
    first signal.

    Attributes:
        callback: to be passed to Tune.
    """

    def __init__(self, console: Console, seconds: float | None = None):
        self.signals: list[int] = []
        self.ends_at = None if seconds is None else time.monotonic() + seconds
        self.tune_runs = False
        self.callback = _StopTrials(self, console)

    @property
    def is_asked(self) -> bool:
        """Whether a signal has arrived, or the time is over."""
        return bool(self.signals) or (self.ends_at is not None and time.monotonic() >= self.ends_at)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within the context, this object handles signals.

        Raises:
            Terminated: in place of KeyboardInterrupt, after SIGTERM.
            InputError: this is not the main thread, which alone gets signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise InputError(
                "a sweep was started in a thread, where signals cannot stop it; start it in the main thread, or in a "
                "separate process."
            )
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
        if not self.stop.is_asked:
            return
        # A trial that is being evaluated has nothing to save: its scores are made again.
        training = {t.trial_id for t in trials if t.status == "RUNNING" and t.last_result.get("state") != "evaluating"}
        if self.running is None:
            internal_kv._internal_kv_put(_key("stop"), b"")
            self.running, self.since = training, time.monotonic()
            signals = self.stop.signals
            why = signal.Signals(signals[0]).name if signals else "time budget used up"
            more = "; a second signal stops at once" if signals else "; the same command resumes them"
            text = f"{why}: {len(training)} trial(s) save a checkpoint and stop{more}"
            self.console.print(text, soft_wrap=True)
        if not self.running & training or time.monotonic() - self.since > WAIT_SECONDS:
            end_tune()
