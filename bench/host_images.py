"""Images that stay on the host cost a training step next to nothing, in memory that does not grow with the dataset.

Two domains of random images, 4 GB as prepared, in files. The peer loads them into memory, and each step gathers its
batch there; ours maps the files, and a thread gathers the next batch during a step. First both must give the same
views. Memory is that of a fresh process that takes 500 batches.

    python bench/host_images.py                     # ResNet-18; 2 × 128 images of 32×32, then 2 × 4 of 224×224
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import Report, arguments, assert_close, extra_memory, take_turns
from training_steps import Ours, config_of

from mdssl.data.host_images import HostImages
from mdssl.data.mixture import Mixture

BLOCK, BATCHES = 2**24, 500
NAMES = ("on the host", "in memory")
CASES = ((32, 128), (224, 4))
"""Image size in pixels, images of each domain in a step."""


def write(file: Path, size: int, gigabytes: float) -> None:
    """Write a file of random images, as `mdssl data prepare` does, block by block."""
    count = int(gigabytes * 1e9 / (3 * size**2))
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    flat, rng = array.reshape(-1), np.random.default_rng(0)
    noise = rng.integers(256, size=BLOCK, dtype=np.uint8)
    for first in range(0, len(flat), BLOCK):
        # Each block has another offset in the noise, so that no two images are equal.
        part = flat[first : first + BLOCK]
        part[:] = np.roll(noise, int(rng.integers(BLOCK)))[: len(part)]
    array.flush()


def batches(files: list[Path], batch: int, on_host: bool) -> Callable[[], None]:
    """A function that gathers `BATCHES` batches of one epoch in random order."""

    def run() -> None:
        # Copy-on-write, because PyTorch warns about arrays that are not writable.
        maps = [np.load(file, mmap_mode="c") for file in files]
        arrays = maps if on_host else [np.array(each) for each in maps]
        images = tuple(map(torch.as_tensor, arrays))
        mixture = Mixture(("a", "b"), images, batch, HostImages(arrays, "cpu") if on_host else None)
        order = np.random.default_rng(0).permutation(int(mixture.offsets[-1]))
        parts = np.array_split(order, -(-len(order) // batch))[:BATCHES]
        for rows, later in zip(parts, [*parts[1:], None], strict=True):
            mixture.gather(rows, then=None if later is None else lambda later=later: later)

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=5)
    parser.add_argument("--gb", type=float, default=4.0, help="of all images")
    flags = parser.parse_args()
    report = Report("steps/s", peer="all images in the device's memory")
    seconds = [compared(report, size, batch, flags) for size, batch in CASES]
    report.claim_from(f"training step, images on the host, {CASES[0][0]}×{CASES[0][0]}", seconds[0], *NAMES, 1)


def compared(report: Report, size: int, batch: int, flags: Namespace) -> dict[str, list[float]]:
    """Seconds of each round of steps with images of ``size`` pixels, on the host and in memory."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        files = [Path(folder) / f"{name}.npy" for name in "ab"]
        for file in files:
            write(file, size, flags.gb / 2)
        memory = {name: extra_memory(batches, files, 2 * batch, name == NAMES[0]) for name in NAMES}
        config = config_of("quick", batch=batch)
        maps = [np.load(file, mmap_mode="c") for file in files]
        steps = {name: Ours(config, flags.device) for name in NAMES}
        for name, step in steps.items():
            host = HostImages(maps, flags.device) if name == NAMES[0] else None
            images = maps if host else [np.array(each) for each in maps]
            tensors = (torch.from_numpy(each) for each in images)
            step.mixture = Mixture(
                config.domains, tuple(each if host else each.to(flags.device) for each in tensors), batch, host
            )
        assert_close("views", *(step.views() for step in steps.values()), 0.0)
        seconds = take_turns(steps, rounds=flags.rounds, device=flags.device)
    cells = {name: f"{mib:,.0f} MiB" for name, mib in memory.items()}
    title = f"A step of {4 * batch} views at {size}×{size}, {flags.gb:g} GB of images"
    report.timings(title, seconds, work=1, extra={f"memory for {BATCHES} batches": cells})
    return seconds


if __name__ == "__main__":
    main()
