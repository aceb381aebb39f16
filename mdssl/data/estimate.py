"""What it will take to prepare a dataset: room on the disk, which must be there, and time."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mdssl.data.decode import available_cpus, convert
from mdssl.data.sources.base import Part
from mdssl.errors import InputError

_SAMPLE = 16
_SAID_FROM_SECONDS, _SAID_FROM_BYTES = 10, 2**30
"""Less than both is done before anybody asks."""


def estimate(
    name: str,
    parts: Mapping[str, Part],
    size: int,
    resize_filter: str,
    *,
    unfinished: Path,
    workers: int | None,
) -> str:
    """Return a sentence on the size of the arrays and the time to decode them; empty for a small dataset.

    The time is that of the first images of the largest part, which are decoded twice.

    Args:
        unfinished: the folder for the arrays. It may have images of an interrupted run, which are kept or overwritten.

    Raises:
        InputError: the arrays do not fit on the disk of ``unfinished``.
    """
    count = sum(map(len, parts.values()))
    needed, free = count * size * size * 3, shutil.disk_usage(unfinished).free
    free += sum(file.stat().st_size for file in unfinished.glob("*/images.npy"))
    if needed > free:
        raise InputError(
            f"{name!r} has {count:,} images, which take {needed / 1e9:,.1f} GB at {size} x {size} pixels, but "
            f"{unfinished.parent} has {free / 1e9:,.1f} GB for them. Use a smaller --size, or another disk with --data "
            "or MDSSL_DATA, or for copies from a bucket with MDSSL_DATA_CACHE."
        )
    largest = max(parts.values(), key=len)
    rows = np.arange(min(_SAMPLE, len(largest)))
    # To read the first images of a Parquet file takes as long as to read a whole row group of it.
    first = list(largest.read(rows))
    start = time.perf_counter()
    for raw in first:
        # Images that cannot be decoded are reported later.
        with contextlib.suppress(InputError):
            convert(raw, size, resize_filter, "")
    workers = workers or available_cpus()
    seconds = (time.perf_counter() - start) / max(1, len(rows)) * count / workers
    if seconds < _SAID_FROM_SECONDS and needed < _SAID_FROM_BYTES:
        return ""
    processes = "1 process" if workers == 1 else f"{workers} processes"
    return (
        f"{name}: {count:,} images at {size} x {size} pixels take {needed / 1e9:,.1f} GB, and about "
        f"{f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:,.0f} min'} to decode with {processes}"
    )
