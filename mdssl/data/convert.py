"""All images of a split, in order, through ``images.convert``: in this process, or in a pool where that pays."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from mdssl.data.images import convert
from mdssl.data.parts import Part, RawImage
from mdssl.errors import InputError

# Small enough that progress moves and that a worker holds few raw images, large enough to hide the cost of sending.
CHUNK = 64

# Starting workers takes half a second on a free machine and more on a busy one; less work is done sooner right here.
POOL_PAYS_AFTER_SECONDS = 2.0


def available_cpus() -> int:
    """The CPUs that this process may use, which under a scheduler or in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def convert_part(part: Part, size: int, resize_filter: str, workers: int | None = None) -> Iterator[np.ndarray]:
    """Yield the images of ``part`` in order, as uint8 chunks (n, size, size, 3) of up to 64.

    Args:
        part: where they come from.
        size: height and width to bring them to.
        resize_filter: a key of ``images.FILTERS``.
        workers: processes to decode with; None takes as many as there are CPUs. A pool is started only if the first
            chunk shows that it pays.

    Raises:
        ValueError: an image cannot be decoded; the message names its file or row.
    """
    return _chunks(_convert_chunk, part, size, resize_filter, workers)


def convert_each(
    part: Part, size: int, resize_filter: str, workers: int | None = None
) -> Iterator[list[np.ndarray | InputError]]:
    """`convert_part` for whoever goes on without the images that cannot be decoded: in their places are the errors."""
    return _chunks(_convert_each, part, size, resize_filter, workers)


def _chunks(function: Callable, part: Part, size: int, resize_filter: str, workers: int | None) -> Iterator:
    workers = workers or available_cpus()
    tasks = _tasks(part, size, resize_filter)
    start = time.perf_counter()
    for first in itertools.islice(tasks, 1):
        yield function(*first)
    seconds = (time.perf_counter() - start) * len(part.labels) / CHUNK
    if workers == 1 or seconds < POOL_PAYS_AFTER_SECONDS:
        yield from itertools.starmap(function, tasks)
    else:
        yield from _in_pool(function, tasks, workers)


Task = tuple[list[RawImage], list[str], int, str]


def _tasks(part: Part, size: int, resize_filter: str) -> Iterator[Task]:
    images = part.read(np.arange(len(part.labels)))
    for start in range(0, len(part.labels), CHUNK):
        raw = list(itertools.islice(images, CHUNK))
        yield raw, [part.where(row) for row in range(start, start + len(raw))], size, resize_filter


def _convert_chunk(raw: list[RawImage], where: list[str], size: int, resize_filter: str) -> np.ndarray:
    if all(isinstance(image, np.ndarray) and image.shape == (size, size, 3) for image in raw):
        return np.stack(raw)
    return np.stack([convert(image, size, resize_filter, place) for image, place in zip(raw, where, strict=True)])


def _convert_each(
    raw: list[RawImage], where: list[str], size: int, resize_filter: str
) -> list[np.ndarray | InputError]:
    found: list[np.ndarray | InputError] = []
    for image, place in zip(raw, where, strict=True):
        try:
            found.append(convert(image, size, resize_filter, place))
        except InputError as error:
            found.append(error)
    return found


def _in_pool(function: Callable, tasks: Iterator[Task], workers: int) -> Iterator[np.ndarray]:
    """Map in order with a bounded number of chunks under way, so that memory does not grow with the dataset."""
    # Spawned, because the caller may run threads (torch, Ray), which a forked child cannot use safely.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    pending: deque = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(function, *task))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
