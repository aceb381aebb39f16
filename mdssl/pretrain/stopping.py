"""Requests to stop, after which training saves a checkpoint and ends with `StoppedError`."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from mdssl.errors import StoppedError

_ASK_SECONDS = 1.0
"""How often several workers agree on whether to stop."""

T = TypeVar("T")


@contextmanager
def sigterm_received() -> Iterator[Callable[[], bool]]:
    """Catch SIGTERM within the context; the callable returns, in any thread, whether one has arrived.

    Python runs signal handlers only in the main thread, which in a Ray worker waits in C++. Therefore the handler is
    faulthandler's, in C, which writes to a pipe. Contexts cannot be nested.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def has_arrived() -> bool:
        # A new object for each call, because two threads cannot use one at the same time.
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        return bool(poll.poll(0))

    faulthandler.register(signal.SIGTERM, file=writer, all_threads=False, chain=False)
    try:
        yield has_arrived
    finally:
        faulthandler.unregister(signal.SIGTERM)
        os.close(reader)
        os.close(writer)


def rank_and_workers() -> tuple[int, int]:
    """Return the rank of this worker, and the number of workers; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class Agreement:
    """Decisions of all workers together. ``requested`` returns whether this worker has been asked to stop.

    Attributes:
        saves: whether rank 0 wants to save a checkpoint; `stop_after` sets it on all workers.
    """

    def __init__(self, requested: Callable[[], bool], device: str | torch.device):
        self.requested, self.device = requested, device
        self.several = rank_and_workers()[1] > 1
        self.asked_at, self.asked_after = float("-inf"), -1
        self.next_step = 0
        self.saves, self.second_is_over, self.told_at = False, False, float("-inf")

    def stop_after(self, step: int, *, wants_to_save: bool = False) -> bool:
        """Whether any worker has been asked to stop. Each worker calls this before its first step and after each one.

        Args:
            wants_to_save: whether this is rank 0, and wants to save a checkpoint.

        Several workers exchange their answers about every `_ASK_SECONDS`, because each exchange waits for a GPU. The
        speed of the slowest worker determines after which steps, so all workers agree on these.
        """
        if not self.several:
            self.saves = wants_to_save
            return self.requested()
        if step < self.next_step:
            return False
        now = time.monotonic()
        seconds_per_step = (now - self.asked_at) / (step - self.asked_after)
        requested, slowest, saves = self._maximum(float(self.requested()), seconds_per_step, float(wants_to_save))
        self.asked_at, self.asked_after = now, step
        self.saves, self.second_is_over = bool(saves), True
        self.next_step = step + max(int(_ASK_SECONDS / max(slowest, 1e-3)), 1)
        return bool(requested)

    def second_passed(self) -> bool:
        """Whether `_ASK_SECONDS` have passed since this was last true, or it is the first call; same on all workers."""
        now = time.monotonic()
        if not self.several:
            self.second_is_over = now - self.told_at >= _ASK_SECONDS
        is_over, self.second_is_over = self.second_is_over, False
        self.told_at = now if is_over else self.told_at
        return is_over

    def any_worker(self, answer: bool) -> bool:
        """Whether ``answer`` is true on any worker. All call this after the same step."""
        return bool(self._maximum(float(answer))[0])

    def least(self, value: int) -> int:
        """Return the smallest ``value`` of all workers. All call this at the same time."""
        return -round(self._maximum(-float(value))[0])

    def unless_stopped(self, work: Callable[[], T] | None) -> T | None:
        """Return the result of ``work``, which one worker does in a thread; None for the others, which wait for it.

        Raises:
            StoppedError: on all workers, when one has been asked to stop. The thread is abandoned.
        """
        future: Future[T] | None = None if work is None else _in_thread(work)
        while True:
            if future:
                wait([future], _ASK_SECONDS)
            stops, runs = self._maximum(float(self.requested()), float(future is not None and not future.done()))
            if not runs:
                return future.result() if future else None
            if stops:
                raise StoppedError("stopped on request")

    def _maximum(self, *values: float) -> list[float]:
        """Return the maximum of each value over all workers."""
        if not self.several:
            return list(values)
        answers = torch.tensor(values, device=self.device)
        dist.all_reduce(answers, dist.ReduceOp.MAX)
        return answers.tolist()


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a daemon thread, which, unlike a pool's, does not keep the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="stoppable", daemon=True).start()
    return future
