"""Preparing JPEG images to disk takes as long as an ImageFolder loop over them, ±5 %; training then starts in a second.

Class folders of synthetic images, as JPEG (500×375, quality 90, as ImageNet) and as PNG (64×64, as EuroSAT), are
resized to arrays of 32×32×3, bicubic. Ours is the whole of `prepare`, from the listing of folders to arrays on disk
with their SHA-256, and decoding alone. The peers only collect arrays in memory: a loop over torchvision's ImageFolder,
and a DataLoader with two workers. First all must give the same pixels, bit for bit.

Pillow limits both on one core: ours is equal within noise for JPEG, and takes up to a third more time for small PNGs,
which it also lists, hashes and writes. With two workers and two seconds of work the DataLoader takes half to nine
tenths of the time, because its workers are forked, and ours are spawned once.

Then the start of training on four prepared domains of 50,000 images is timed in a fresh process after its imports: from
the check of the fingerprint to the first two views of the batch of every domain. Most of it is augmentation.

    python bench/prepare.py                     # three minutes on two cores, 1 GB in the temporary folder
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mdssl.data.decode import convert_part
from mdssl.data.prepare import prepare
from mdssl.data.sources.folder import folder_source

if TYPE_CHECKING:
    from harness import Report

# torch and the harness, which imports torch, are imported by the functions that need them: the workers that `prepare`
# starts import this file, and torch would take seconds in each. `mdssl data prepare` does not import torch either.

SIZE, WORKERS, CLASSES = 32, 2, 4
# By format: width, height, images per split and settings. The train split is large enough for `prepare` to use workers.
FORMATS = {
    "jpeg": (500, 375, {"train": 1_200, "test": 40}, {"quality": 90}),
    "png": (64, 64, {"train": 12_000, "test": 40}, {}),
}
OURS, DECODING, OURS_WITH_WORKERS = "prepare, 1 worker", "decoding alone, 1 worker", f"prepare, {WORKERS} workers"
LOOP, LOADER = "ImageFolder loop", f"DataLoader, {WORKERS} workers"

DOMAINS, IMAGES_PER_DOMAIN = ("first", "second", "third", "fourth"), 50_000
BATCHES = (64, 1_024)
"""Images per domain and step: of the preset quick, and the default of TrialConfig."""


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth fields of three scales with grain, which compress about as well as photographs."""
    grain = 5 * rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.repeat(128 + grain, 3, axis=2)
    for cells, strength in ((4, 70), (16, 30), (64, 12)):
        for channel, field in enumerate(rng.normal(0, strength, (3, cells, cells)).astype(np.float32)):
            pixels[..., channel] += Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_folder(root: Path) -> float:
    """Write ``root/<split>/<class>/<number>.<format>``; root's name is the format. Return the mean file size in KB."""
    width, height, counts, settings = FORMATS[root.name]
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            folder = root / split / f"class{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            photograph(rng, width, height).save(folder / f"{number:05d}.{root.name}", **settings)
    return statistics.mean(path.stat().st_size for path in root.rglob("*.*")) / 1e3


def image_folders(root: Path) -> dict:
    """The peer's datasets by split, from a new listing; an item is uint8 (32, 32, 3) and its label."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, InterpolationMode, Resize

    to_array = Compose([Resize((SIZE, SIZE), InterpolationMode.BICUBIC, antialias=True), np.array])
    return {split: ImageFolder(root / split, to_array) for split in ("train", "test")}


def loop(root: Path) -> dict[str, np.ndarray]:
    return {split: np.stack([image for image, _ in images]) for split, images in image_folders(root).items()}


def loader(root: Path) -> dict[str, np.ndarray]:
    import torch
    from torch.utils.data import DataLoader

    batches = {split: DataLoader(images, 64, num_workers=WORKERS) for split, images in image_folders(root).items()}
    return {split: torch.cat([images for images, _ in loaded]).numpy() for split, loaded in batches.items()}


def ours(root: Path, data: Path, workers: int) -> dict[str, np.ndarray]:
    prepared = prepare(root.name, data=data, source=root, workers=workers, overwrite=True, progress=False)
    return {split: prepared.split(split).images for split in ("train", "test")}


def decode(root: Path) -> None:
    for part in folder_source(root).parts.values():
        deque(convert_part(part, SIZE, "bicubic", 1), maxlen=0)


def check_agreement(root: Path, data: Path) -> None:
    expected = loop(root)
    for name, got in (("ours", ours(root, data, WORKERS)), ("DataLoader", loader(root))):
        for split, images in expected.items():
            assert np.array_equal(got[split], images), f"{name} has other pixels than ImageFolder in {split}"


def make_domains(data: Path) -> None:
    rng = np.random.default_rng(0)
    for name in DOMAINS:
        arrays = {}
        for split, count in {"train": IMAGES_PER_DOMAIN, "test": 100}.items():
            arrays[f"{split}_images"] = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count) % 10
        source = data / f"{name}.npz"
        np.savez(source, **arrays)
        prepare(name, data=data, source=source, workers=1, progress=False)
        source.unlink()


def forget(data: Path) -> None:
    """Remove the arrays from the page cache, as after a restart of the machine."""
    for path in data.rglob("*.npy"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def training_start(data: Path, batch: int, device: str) -> list[float]:
    """Seconds of the imports with the start of a GPU, the fingerprint, opening the mixture, and the first views."""
    times = [time.perf_counter()]
    import torch

    from mdssl.config.trial import TrialConfig
    from mdssl.data.mixture import Mixture
    from mdssl.pretrain.loop import with_fingerprint
    from mdssl.pretrain.step import two_views

    torch.zeros(1, device=device)
    times.append(time.perf_counter())
    config = with_fingerprint(TrialConfig(domains=DOMAINS, batch_per_domain=batch), data)
    times.append(time.perf_counter())
    mixture = Mixture.load(data, DOMAINS, batch_per_domain=batch, device=device)
    times.append(time.perf_counter())
    views = two_views(config, mixture, mixture.domains, 0, [slice(0, batch)] * len(DOMAINS))
    # This also waits for a GPU.
    assert bool(views[-1].isfinite().all())
    times.append(time.perf_counter())
    return np.diff(times).tolist()


def compare(report: Report, root: Path, data: Path, rounds: int) -> dict[str, list[float]]:
    """Make images of the format that ``root`` is named after, and print a table of timings."""
    from harness import paired_ratio, take_turns

    kilobytes = make_folder(root)
    check_agreement(root, data)
    contenders = {
        OURS: partial(ours, root, data, 1),
        LOOP: partial(loop, root),
        DECODING: partial(decode, root),
        OURS_WITH_WORKERS: partial(ours, root, data, WORKERS),
        LOADER: partial(loader, root),
    }
    seconds = take_turns(contenders, rounds=rounds)
    width, height, counts, _ = FORMATS[root.name]
    count = sum(counts.values())
    title = f"{count:,} {root.name.upper()} images, {width}×{height}, {kilobytes:.0f} KB each, to {SIZE}×{SIZE}"
    report.timings(title, seconds, work=count)
    ratio = paired_ratio(seconds, LOADER, OURS_WITH_WORKERS)
    report.note(f"With {WORKERS} workers each, prepare is {ratio:.2f} times as fast as the DataLoader.")
    return seconds


def time_starts(report: Report, data: Path, device: str, rounds: int) -> None:
    """Print a table of `training_start` with medians over fresh processes."""
    from harness import duration

    make_domains(data)
    rows = []
    for batch in BATCHES:
        for cached in (True, False):
            parts = []
            for _ in range(rounds):
                if not cached:
                    forget(data)
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    parts.append(pool.submit(training_start, data, batch, device).result())
            imports, *steps = np.median(parts, axis=0).tolist()
            cells = [duration(seconds) for seconds in (*steps, sum(steps), imports)]
            rows.append([f"{batch:,} per domain, {'in' if cached else 'not in'} the page cache", *cells])
    title = f"Start of a training on {len(DOMAINS)} prepared domains of {IMAGES_PER_DOMAIN:,} images, {device}"
    report.table(title, ["", "fingerprint", "open", "first two views", "together", "imports before"], rows)


def main() -> None:
    from harness import Report, arguments, paired_ratio

    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    flags = parser.parse_args()
    report = Report("images/s", peer="torchvision ImageFolder loop")
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        data = temporary / "data"
        seconds = {each: compare(report, temporary / each, data, flags.rounds) for each in FORMATS}["jpeg"]
        time_starts(report, data, flags.device, flags.rounds)
    count = sum(FORMATS["jpeg"][2].values())
    report.claim(
        "preparing JPEG images on one core, decoding to writing",
        ours=count / statistics.median(seconds[OURS]),
        peer=count / statistics.median(seconds[LOOP]),
        ratio=paired_ratio(seconds, LOOP, OURS),
    )


if __name__ == "__main__":
    main()
