"""Batches of images that stay on the host, for a device whose memory they would not fit into."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from mdssl.device import send


class HostImages:
    """Gathers batches from memory maps: the next one in a thread, while the device works on the present one.

    Each batch is copied once, into memory that is pinned for a GPU, from which it goes there without anyone waiting.
    Pages of the maps leave this process's memory after each batch, and stay in the page cache while there is room.

    Args:
        arrays: per domain, uint8 (n, S, S, 3). Image i is the i-th of the concatenated domains.
        device: where batches go.
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
        """(len(rows), S, S, 3) uint8 on the device: these images, in this order.

        Args:
            then: gives the rows of the batch that is probably taken next. Any other batch can be.
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
                # Straight into the batch; with mode="raise" NumPy would copy it twice.
                np.take(array, local, axis=0, out=numbers[places[0] : places[-1] + 1], mode="clip")
            else:
                numbers[places] = array[local]
            if isinstance(array, np.memmap) and (mapped := array._mmap):  # type: ignore[attr-defined]
                mapped.madvise(mmap.MADV_DONTNEED)
        return batch


def _begin(gpu: torch.device | None) -> None:
    """A new thread's current device is the first GPU, on which it would then take memory."""
    if gpu:
        torch.cuda.set_device(gpu)
