"""Checkpoints written by a thread, while training continues."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from mdssl.pretrain import checkpoint
from mdssl.pretrain.checkpoint import LoopState, Snapshot
from mdssl.pretrain.trial_files import write_metrics
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying

log = logging.getLogger(__name__)


class Saver:
    """Saves the checkpoints and metrics of a trial, as a context manager whose end waits for the last one.

    Training does not wait: a GPU copies the state to pinned memory before its next step, and a thread writes it, at
    most one checkpoint at a time. The next call of any method raises an error of the thread.

    Args:
        trial_dir: folder of the trial's files.
        before_writing: called before each write, also in the thread; may raise.
        in_background: whether checkpoints that need not be saved are written by the thread.
    """

    def __init__(self, trial_dir: Location, before_writing: Callable[[], None], *, in_background: bool):
        self.trial_dir, self.before_writing, self.in_background = trial_dir, before_writing, in_background
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: LoopState, *, must: bool) -> None:
        """Save a checkpoint of the present state.

        If it ``must`` be saved, it is written on return. Otherwise, a full or unreachable storage only gives a warning.
        """
        self.wait()
        # Rows are only appended, so copies of the lists are enough. The list of checkpoints stays shared with the run.
        now = replace(state, metrics=[*state.metrics], rounds=[*state.rounds], terms=[*state.terms])
        snapshot = Snapshot(model, optimizer, now)
        if must or not self.in_background:
            self._write(snapshot, now, must)
        else:
            # In the context of this thread, which sets what is retried.
            run = contextvars.copy_context().run
            self._written = self._thread.submit(run, self._write, snapshot, now, must)

    def check(self) -> None:
        """Raise the error of the thread, if it has one."""
        if self._written and self._written.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise its error."""
        written, self._written = self._written, None
        if written:
            written.result()

    def _write(self, snapshot: Snapshot, state: LoopState, must: bool) -> None:
        try:
            with nullcontext() if must else retrying(0):
                self.before_writing()
                checkpoint.save(self.trial_dir / "checkpoints", snapshot, state)
                write_metrics(self.trial_dir, state)
        except OSError as error:
            if must or not self.trial_dir.may_come_back(error):
                raise
            message = (
                "trial %s: the checkpoint of step %d could not be saved: %s. Training continues until the next one"
            )
            log.warning(message, self.trial_dir.name, state.step, error)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            log.warning("trial %s: its last checkpoint could not be saved: %s", self.trial_dir.name, error)
        finally:
            self._thread.shutdown()
