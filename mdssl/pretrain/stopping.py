"""Requests to stop, after which training saves a checkpoint and ends with `StoppedError`."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

_ASK_SECONDS = 1.0
"""How often several workers agree on whether to stop."""


class StoppedError(RuntimeError):
    """Training stopped on request, with a checkpoint to go on from."""


@contextmanager
def sigterm_received() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM does not end this process; what this gives says whether one has arrived.

    For any thread, which Python's own handlers are not: those run in the main thread alone, and in a worker of Ray that
    thread waits in C++. So the handler is faulthandler's, in C, which writes to a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    faulthandler.register(signal.SIGTERM, file=writer, all_threads=False, chain=False)
    try:
        yield lambda: bool(poll.poll(0))
    finally:
        faulthandler.unregister(signal.SIGTERM)
        os.close(reader)
        os.close(writer)


class Agreement:
    """Whether to stop, to which all workers give the same answer after the same step."""

    def __init__(self, requested: Callable[[], bool], device: str):
        """``requested`` says whether this worker has been asked to stop."""
        self.requested, self.device = requested, device
        self.several = dist.is_initialized() and dist.get_world_size() > 1
        self.asked_at, self.asked_after = float("-inf"), -1
        self.next_step = 0

    def stop_after(self, step: int) -> bool:
        """Whether any worker has been asked to stop.

        Of several workers each calls this before its first step and after each one. They exchange their answers about
        every `_ASK_SECONDS`, for each exchange waits for a GPU, and after steps that all of them know, for those follow
        from the speed of the slowest.
        """
        if not self.several:
            return self.requested()
        if step < self.next_step:
            return False
        now = time.monotonic()
        seconds_per_step = (now - self.asked_at) / (step - self.asked_after)
        answers = torch.tensor([float(self.requested()), seconds_per_step], device=self.device)
        dist.all_reduce(answers, dist.ReduceOp.MAX)
        requested, slowest = answers.tolist()
        self.asked_at, self.asked_after = now, step
        self.next_step = step + max(int(_ASK_SECONDS / max(slowest, 1e-3)), 1)
        return bool(requested)
