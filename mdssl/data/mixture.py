"""Domain batches: which images of which domain a training step sees.

A batch is a function of (seed, step, domain) and nothing else. It is drawn for all workers together and each takes its
slice, so one worker and eight train on the same batches, a resumed run goes on as if it had never stopped, and all
trials of a λ grid see the same images.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mdssl.data.prepared import open_dataset
from mdssl.errors import InputError


def domain_key(name: str) -> int:
    """The number that stands for a domain in random draws; the same in every process and mixture."""
    return zlib.crc32(name.encode())


def fingerprint(data: str | Path, domains: tuple[str, ...]) -> str:
    """16 hex digits over the training images and labels of ``domains``, in order; empty where there are none."""
    if not domains:
        return ""
    parts = [open_dataset(data, name).fingerprints["train"] for name in domains]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Mixture:
    """Training images of several domains, ready to be indexed.

    Attributes:
        names: the D domains.
        images: per domain, uint8 (n, S, S, 3); on the CPU a memory map that all trials of a node share, else on the
            GPU.
        batch_per_domain: images of each domain in a step, over all workers.
        seed: of the draws.
    """

    names: tuple[str, ...]
    images: tuple[torch.Tensor, ...]
    batch_per_domain: int
    seed: int

    @classmethod
    def load(
        cls, data: str | Path, names: tuple[str, ...], *, batch_per_domain: int, seed: int, device: str
    ) -> Mixture:
        """Open the train split of every domain.

        Raises:
            ValueError: a domain is not prepared, has fewer images than a batch, or another image size than the first.
        """
        datasets = [open_dataset(data, name) for name in names]
        check_batch(datasets, batch_per_domain)
        arrays = [dataset.split("train").images for dataset in datasets]
        images = tuple(_shared_tensor(array).to(device) for array in arrays)
        return cls(names, images, batch_per_domain, seed)

    @property
    def image_size(self) -> int:
        return self.images[0].shape[1]

    def rows(self, step: int, domain: int) -> np.ndarray:
        """(batch_per_domain,) indices into the images of the domain at position ``domain`` in step ``step``.

        Each domain cycles through its own epochs, every epoch in a new order, its incomplete last batch left out.
        """
        count = len(self.images[domain])
        epoch, position = divmod(step, count // self.batch_per_domain)
        order = _epoch_order(self.seed, domain_key(self.names[domain]), epoch, count)
        return order[position * self.batch_per_domain : (position + 1) * self.batch_per_domain]

    def share(self, rank: int, workers: int) -> slice:
        """The part of each domain's batch that worker ``rank`` of ``workers`` encodes."""
        return slice(rank * self.batch_per_domain // workers, (rank + 1) * self.batch_per_domain // workers)

    def batch(self, step: int, share: slice) -> torch.Tensor:
        """(D · share, S, S, 3) uint8: this worker's images of step ``step``, domain after domain."""
        parts = []
        for domain, images in enumerate(self.images):
            rows = torch.from_numpy(self.rows(step, domain)[share])
            parts.append(images[rows.to(images.device, non_blocking=True)])
        return torch.cat(parts)


def check_batch(datasets: list, batch_per_domain: int) -> None:
    """Raise ``ValueError`` unless every dataset fills a batch and all have images of one size."""
    for dataset in datasets:
        count = dataset.counts["train"]
        if count < batch_per_domain:
            raise InputError(
                f"batch_per_domain is {batch_per_domain}, but domain {dataset.name!r} has {count} training images; "
                f"use at most {count}, or leave the domain out."
            )
        if dataset.image_size != datasets[0].image_size:
            raise InputError(
                f"domain {dataset.name!r} has images of {dataset.image_size} pixels, {datasets[0].name!r} of "
                f"{datasets[0].image_size}; a mixture needs one size: prepare one of them again with --size."
            )


@lru_cache(maxsize=64)
def _epoch_order(seed: int, domain: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([0, seed, domain, epoch]).permutation(count)


def _shared_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over a read-only memory map; a mixture only gathers from it, which copies, so torch need not warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
