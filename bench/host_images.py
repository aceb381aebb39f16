"""Images that stay on the host cost a training step next to nothing, in memory that does not grow with the dataset.

Two domains of random images, 4 GB as prepared, in files. The peer holds them in memory, where each step gathers its
batch; ours maps the files, and a thread gathers the next batch while the step trains. First both must give the same
views. Memory is that of a fresh process which takes 500 batches.

    python bench/host_images.py                                # 32×32, ResNet-18, 2 × 128 images
    python bench/host_images.py --size 224 --batch 8
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import Report, arguments, assert_close, extra_memory, take_turns
from training_steps import Ours, config_of

from mdssl.data.host_images import HostImages
from mdssl.data.mixture import Mixture

BLOCK, BATCHES = 2**24, 500


def write(file: Path, size: int, gigabytes: float) -> None:
    """A file of random images as `mdssl data prepare` writes it, block after block."""
    count = int(gigabytes * 1e9 / (3 * size**2))
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    flat, rng = array.reshape(-1), np.random.default_rng(0)
    noise = rng.integers(256, size=BLOCK, dtype=np.uint8)
    for first in range(0, len(flat), BLOCK):
        # Each block begins elsewhere in the noise, so that no two images are the same.
        part = flat[first : first + BLOCK]
        part[:] = np.roll(noise, int(rng.integers(BLOCK)))[: len(part)]
    array.flush()


def batches(files: list[Path], batch: int, on_host: bool) -> Callable[[], None]:
    """Some of one epoch, in random order."""

    def run() -> None:
        maps = [np.load(file, mmap_mode="r") for file in files]
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
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=128, help="images of each domain in a step")
    parser.add_argument("--gb", type=float, default=4.0, help="of all images")
    flags = parser.parse_args()
    report = Report("steps/s", peer="all images in the device's memory")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        files = [Path(folder) / f"{name}.npy" for name in "ab"]
        for file in files:
            write(file, flags.size, flags.gb / 2)
        memory = {
            name: extra_memory(batches, files, 2 * flags.batch, name == "on the host")
            for name in ("on the host", "in memory")
        }
        config = config_of("quick", batch=flags.batch)
        maps = [np.load(file, mmap_mode="r") for file in files]
        steps = {name: Ours(config, flags.device) for name in memory}
        for name, step in steps.items():
            on_host = name == "on the host"
            host = HostImages(maps, flags.device) if on_host else None
            images = maps if on_host else [torch.from_numpy(np.array(each)).to(flags.device) for each in maps]
            images = tuple(torch.as_tensor(each) for each in images)
            step.mixture = Mixture(config.domains, images, flags.batch, host)
        assert_close("views", steps["on the host"].views(), steps["in memory"].views(), 0.0)
        seconds = take_turns(steps, rounds=flags.rounds, device=flags.device)
        cells = {name: f"{mib:,.0f} MiB" for name, mib in memory.items()}
        title = f"A step of {4 * flags.batch} views at {flags.size}×{flags.size}, {flags.gb:g} GB of images"
        report.timings(title, seconds, work=1, extra={f"memory for {BATCHES} batches": cells})
        report.claim_from(f"training step, images on the host, {flags.size}×{flags.size}", seconds, *steps, 1)


if __name__ == "__main__":
    main()
