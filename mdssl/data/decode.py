"""Decode images: convert each image of a part, in order, to RGB uint8 of the requested size.

How special images are converted:

- alpha, palettes and color keys with transparency: composited on white;
- grey of more than 8 bits: scaled by its bit depth, see `grey_bits`; of color, Pillow reads the high byte;
- CMYK, YCbCr, 1-bit, palette: as Pillow converts them; grey is repeated three times;
- EXIF orientation: applied; several frames: the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import multiprocessing
import os
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from mdssl.data.sources.base import Part, RawImage
from mdssl.errors import InputError

SMALLEST_SIZE, LARGEST_SIZE = 8, 1024
"""Limits of the size of prepared images, in pixels."""
RECIPE = 1
"""Version of the conversion. Increase it whenever an image becomes other pixels than before."""
SEVERAL_FRAMES = "images with several frames or pages; the first is used"
FILTERS = {name: Image.Resampling[name.upper()] for name in ("nearest", "box", "bilinear", "bicubic", "lanczos")}

# By default, Pillow rejects large images, as of microscopes and satellites, and PNG files with long texts as attacks.
LARGEST_PIXELS = 2**30
Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS // 2  # Pillow warns from this number on, and refuses twice as many.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28

CHUNK = 64
"""Images per task: few enough for smooth progress, many enough to amortize the transfer to a process."""
POOL_PAYS_AFTER_SECONDS = 2.0
"""Less work than this is done in this process, because starting processes takes half a second or more."""
_GREY_BITS = (8, 10, 12, 14, 16)
"""Bit depths of cameras and scanners, which store their values in files of 16 bits."""
_SAMPLE = 256


def convert(
    raw: RawImage, size: int, resize_filter: str, where: str, notes: Counter[str] | None = None, bits: int = 0
) -> np.ndarray:
    """Decode ``raw`` to uint8 (size, size, 3).

    Both sides are resized to ``size`` directly, without keeping the aspect ratio, as in the paper. Pillow's filters are
    antialiased. An RGB image that has the size already is returned bit for bit.

    Args:
        notes: receives the number of images of which only a part is used, by reason.
        bits: bit depth to scale a grey image of more than 8 bits by, unless its values need more.

    Raises:
        InputError: it cannot be decoded; the message names ``where``.
    """
    try:
        image = _open(raw)
        if notes is not None and getattr(image, "is_animated", False):
            notes[SEVERAL_FRAMES] += 1
        # Neither this nor _to_rgb copies an upright RGB image: two copies were a quarter of the time.
        ImageOps.exif_transpose(image, in_place=True)
        image = _to_rgb(image, bits)
        if image.size != (size, size):
            image = image.resize((size, size), FILTERS[resize_filter])
        return np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(
            f"image {where} is missing: there is no file {error.filename}. Restore it, or leave it out."
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {where} has more than {LARGEST_PIXELS:,} pixels, which would take gigabytes of memory. Make it "
            "smaller, or cut it into tiles."
        ) from error
    # Pillow's decoders raise nearly anything on broken bytes, SyntaxError and struct.error among them.
    except Exception as error:
        raise InputError(f"image {where} cannot be decoded: {error}. Replace or remove it.") from error


def _open(raw: RawImage) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw)
    # A file is read to bytes first, because Pillow would keep it open until the image is garbage-collected.
    data = raw if isinstance(raw, bytes) else raw.read_bytes()
    if not data:
        raise InputError("it is empty")
    if data.startswith(b"version https://git-lfs.github.com"):
        raise InputError("it is a Git LFS pointer; run `git lfs pull` in its repository")
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Pillow's message has the address of the object in memory, which changes each time.
        raise InputError("Pillow does not support its format") from None
    image.load()
    return image


def _to_rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255, which turns most such images white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"its values are {values.min()} to {values.max()}; allowed: 0 to 65535")
        largest = 2 ** max(bits, _bits_of(values)) - 1
        return Image.fromarray(((values * 255 + largest // 2) // largest).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise InputError("its pixels are floats without a known range; save it as 8 or 16 bit integers")
    if image.has_transparency_data:
        # White, the page that logos, drawings and cut-out objects are made for; black would hide dark lines.
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _bits_of(values: np.ndarray) -> int:
    return next(bits for bits in _GREY_BITS if values.max() < 2**bits)


def grey_bits(part: Part) -> int:
    """Estimate the bit depth of grey images of more than 8 bits in ``part`` from a sample of up to 256 images.

    One depth for all images preserves their relative brightness. Returns 0 if no image of the sample is of this kind.
    """
    found = 0
    rows = np.unique(np.linspace(0, len(part) - 1, min(_SAMPLE, len(part))).astype(int))
    for raw in part.read(rows):
        # Images that cannot be decoded are reported later. Of those of other kinds, only the header is read.
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            if not isinstance(raw, np.ndarray):
                with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw) as image:
                    if image.mode.startswith("I"):
                        found = max(found, _bits_of(np.asarray(image)))
    return found


class Converted(NamedTuple):
    """A chunk of images.

    Attributes:
        images: uint8 (n, size, size, 3).
        errors: by place in the chunk, the error of each image that is not in ``images``.
        notes: see `convert`.
        key: digest of all that decides the rest: the settings and the raw images, those in files by path, size and time
            of writing.
        is_new: whether it has been decoded now, see `convert_part`.
    """

    images: np.ndarray
    errors: dict[int, InputError]
    notes: Counter[str]
    key: str
    is_new: bool = True


def convert_part(
    part: Part,
    size: int,
    resize_filter: str,
    workers: int | None = None,
    bits: int = 0,
    kept: Callable[[str], Converted | None] = lambda key: None,
) -> Iterator[Converted]:
    """Yield the images of ``part`` in order, in chunks of up to 64; see `convert`.

    Args:
        workers: number of processes; None for one per CPU. They are started only if the duration of the first chunk
            shows that this saves time.
        kept: returns the next chunk if it has been decoded before with this `Converted.key`, or None. After the first
            None it is not asked again.
    """
    workers = workers or available_cpus()
    tasks = _tasks(part, size, resize_filter, bits)
    for task in tasks:
        if (chunk := kept(_key(*task))) is None:
            tasks = itertools.chain([task], tasks)
            break
        yield chunk
    start = time.perf_counter()
    for first in itertools.islice(tasks, 1):
        yield _convert_chunk(*first)
    seconds = (time.perf_counter() - start) * len(part) / CHUNK
    if workers == 1 or seconds < POOL_PAYS_AFTER_SECONDS:
        yield from itertools.starmap(_convert_chunk, tasks)
    else:
        yield from _in_pool(tasks, workers)


def available_cpus() -> int:
    """Return the number of CPUs that this process may use, which a scheduler or container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Task = tuple[list[RawImage], list[str], int, str, int]


def _tasks(part: Part, size: int, resize_filter: str, bits: int) -> Iterator[Task]:
    images = part.read(np.arange(len(part)))
    for start in range(0, len(part), CHUNK):
        raw = list(itertools.islice(images, CHUNK))
        yield raw, [part.where(row) for row in range(start, start + len(raw))], size, resize_filter, bits


def _key(raw: list[RawImage], where: list[str], size: int, resize_filter: str, bits: int) -> str:
    settings = ascii((RECIPE, PIL.__version__, where, size, resize_filter, bits))
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for image in raw:
        if isinstance(image, Path):
            state = None
            with contextlib.suppress(OSError):
                stat = image.stat()
                state = (stat.st_size, stat.st_mtime_ns)
            digest.update(ascii((str(image), state)).encode())
        else:
            content = np.ascontiguousarray(image).data if isinstance(image, np.ndarray) else memoryview(image)
            digest.update(ascii(content.shape).encode())
            digest.update(content)
    return digest.hexdigest()


def _convert_chunk(raw: list[RawImage], where: list[str], size: int, resize_filter: str, bits: int) -> Converted:
    key = _key(raw, where, size, resize_filter, bits)
    ready = [image for image in raw if isinstance(image, np.ndarray) and image.shape == (size, size, 3)]
    if len(ready) == len(raw):
        return Converted(np.stack(ready), {}, Counter(), key)
    images, errors = [], {}
    notes: Counter[str] = Counter()
    for place, image in enumerate(raw):
        try:
            images.append(convert(image, size, resize_filter, where[place], notes, bits))
        except InputError as error:
            errors[place] = error
    return Converted(np.stack(images) if images else np.empty((0, size, size, 3), np.uint8), errors, notes, key)


def _end_with_parent() -> None:
    """End this process when its parent ends. After a SIGKILL to the parent it would wait for tasks forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _in_pool(tasks: Iterator[Task], workers: int) -> Iterator[Converted]:
    """Map in order with a bounded number of chunks in progress, so that memory does not grow with the dataset."""
    # Spawned: the caller may run threads (torch, Ray), which a forked child cannot use safely.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    pending: deque = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(_convert_chunk, *task))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise InputError(
            f"one of the {workers} processes that decode images ended, often because memory ran out. Use fewer, such "
            "as --workers 1, and run the same command again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
