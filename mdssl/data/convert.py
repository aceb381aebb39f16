"""All images of a split, in order, through ``images.convert``: in this process, or in a pool where that pays."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from mdssl.data.images import convert
from mdssl.data.sources.base import Part, RawImage
from mdssl.errors import InputError

# Small enough that progress moves and that a worker holds few raw images, large enough to hide the cost of sending.
CHUNK = 64

# Starting workers takes half a second on a free machine and more on a busy one; less work is done sooner right here.
POOL_PAYS_AFTER_SECONDS = 2.0


def available_cpus() -> int:
    """The CPUs that this process may use, which under a scheduler or in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Converted(NamedTuple):
    """A chunk of images.

    Attributes:
        images: uint8 (n, size, size, 3).
        errors: by place in the chunk, what is wrong with those that are not among them.
        notes: what `mdssl.data.images.convert` counts.
    """

    images: np.ndarray
    errors: dict[int, InputError]
    notes: Counter[str]


def convert_part(part: Part, size: int, resize_filter: str, workers: int | None = None) -> Iterator[Converted]:
    """Yield the images of ``part`` in order, in chunks of up to 64.

    Args:
        part: where they come from.
        size: height and width to bring them to.
        resize_filter: a key of ``images.FILTERS``.
        workers: processes to decode with; None takes as many as there are CPUs. A pool is started only if the first
            chunk shows that it pays.
    """
    workers = workers or available_cpus()
    tasks = _tasks(part, size, resize_filter)
    start = time.perf_counter()
    for first in itertools.islice(tasks, 1):
        yield _convert_chunk(*first)
    seconds = (time.perf_counter() - start) * len(part.labels) / CHUNK
    if workers == 1 or seconds < POOL_PAYS_AFTER_SECONDS:
        yield from itertools.starmap(_convert_chunk, tasks)
    else:
        yield from _in_pool(tasks, workers)


def convert_each(
    part: Part, size: int, resize_filter: str, workers: int | None = None
) -> Iterator[list[np.ndarray | InputError]]:
    """`convert_part` with errors in the places of the images that cannot be decoded."""
    for images, errors, _ in convert_part(part, size, resize_filter, workers):
        good = iter(images)
        yield [errors[place] if place in errors else next(good) for place in range(len(images) + len(errors))]


Task = tuple[list[RawImage], list[str], int, str]


def _tasks(part: Part, size: int, resize_filter: str) -> Iterator[Task]:
    images = part.read(np.arange(len(part.labels)))
    for start in range(0, len(part.labels), CHUNK):
        raw = list(itertools.islice(images, CHUNK))
        yield raw, [part.where(row) for row in range(start, start + len(raw))], size, resize_filter


def _convert_chunk(raw: list[RawImage], where: list[str], size: int, resize_filter: str) -> Converted:
    if all(isinstance(image, np.ndarray) and image.shape == (size, size, 3) for image in raw):
        return Converted(np.stack(raw), {}, Counter())
    images, errors, notes = [], {}, Counter()
    for place, image in enumerate(raw):
        try:
            images.append(convert(image, size, resize_filter, where[place], notes))
        except InputError as error:
            errors[place] = error
    return Converted(np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), errors, notes)


def _in_pool(tasks: Iterator[Task], workers: int) -> Iterator[Converted]:
    """Map in order with a bounded number of chunks under way, so that memory does not grow with the dataset."""
    # Spawned, because the caller may run threads (torch, Ray), which a forked child cannot use safely.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    pending: deque = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_convert_chunk, *task))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
