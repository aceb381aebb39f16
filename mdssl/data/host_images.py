"""Batches of images that stay on the host because they do not fit into the memory of the device."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from mdssl.device import send


class HostImages:
    """Gathers batches from memory maps. A thread prefetches the next batch while the device processes the current one.

    Each batch is copied once. For a GPU the copy is in pinned memory, so that the transfer is asynchronous. After each
    batch, the process releases the pages of the maps; the page cache keeps them while there is memory.

    Args:
        arrays: per domain, uint8 (n, S, S, 3). Image i is the i-th of the concatenated domains.
        device: the device of the batches.
    """

    def __init__(self, arrays: Sequence[np.ndarray], device: str | torch.device):
        self.device = torch.device(device)
        self._arrays = arrays
        self._offsets = np.cumsum([0, *map(len, arrays)])
        self._thread = ThreadPoolExecutor(
            1, "images", initializer=_begin, initargs=(self.device if self._on_gpu else None,)
        )
        self._next: tuple[np.ndarray, Future[torch.Tensor]] | None = None

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def take(self, rows: np.ndarray, then: Callable[[], np.ndarray] | None = None) -> torch.Tensor:
        """Return the images ``rows`` in this order, uint8 (len(rows), S, S, 3) on the device.

        Args:
            then: returns the rows to prefetch. The next call may ask for other rows.
        """
        waiting, self._next = self._next, None
        is_there = waiting is not None and np.array_equal(waiting[0], rows)
        batch = waiting[1].result() if waiting and is_there else self._gather(rows)
        if then is not None:
            later = then()
            self._next = later, self._thread.submit(self._gather, later)
        return send(batch, self.device)

    def _gather(self, rows: np.ndarray) -> torch.Tensor:
        batch = torch.empty((len(rows), *self._arrays[0].shape[1:]), dtype=torch.uint8, pin_memory=self._on_gpu)
        numbers = batch.numpy()
        domains = np.searchsorted(self._offsets, rows, side="right") - 1
        for domain, array in enumerate(self._arrays):
            places = np.flatnonzero(domains == domain)
            local = rows[places] - self._offsets[domain]
            if len(places) and places[-1] - places[0] + 1 == len(places):
                # With mode="raise" NumPy would write to a buffer first.
                np.take(array, local, axis=0, out=numbers[places[0] : places[-1] + 1], mode="clip")
            else:
                numbers[places] = array[local]
            if isinstance(array, np.memmap) and (mapped := array._mmap):  # type: ignore[attr-defined]
                mapped.madvise(mmap.MADV_DONTNEED)
        return batch


def _begin(gpu: torch.device | None) -> None:
    """Select the GPU in the new thread, which would otherwise allocate memory on the first GPU."""
    if gpu:
        torch.cuda.set_device(gpu)
