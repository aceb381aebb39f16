"""Domain batches: which images of which domain a training step sees.

A batch is a function of (seed, step, domain) and nothing else. It is drawn for all workers together and each takes its
slice, so one worker and eight train on the same batches, a resumed run goes on as if it had never stopped, and all
trials of a λ grid see the same images.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from mdssl.data.dataset import Dataset, open_dataset
from mdssl.device import send
from mdssl.errors import InputError


def domain_key(name: str) -> int:
    """The number that stands for a domain in random draws; the same in every process and mixture."""
    return zlib.crc32(name.encode())


def fingerprint(data: str | Path, domains: tuple[str, ...]) -> str:
    """16 hex digits over all images that pretraining on ``domains`` sees, in order; empty where there are none."""
    return fingerprint_of([open_dataset(data, name) for name in domains])


def fingerprint_of(datasets: Sequence[Dataset]) -> str:
    """`fingerprint`, of datasets of which nothing but ``meta.json`` needs to be there."""
    parts = [dataset.pretraining_fingerprint for dataset in datasets]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else ""


@dataclass(frozen=True)
class Group:
    """Images that a step takes as one domain: a domain, a cluster of a mixture, or its union.

    Attributes:
        name: stands for the group in random draws.
        rows: (n,) which images of the mixture belong to it.
        batch: how many of them a step takes, over all workers; at most n.
    """

    name: str
    rows: np.ndarray
    batch: int

    def drawn(self, seed: int, step: int) -> np.ndarray:
        """(batch,) the images of step ``step``.

        A group cycles through its own epochs, every epoch in a new order, its incomplete last batch left out.
        """
        count = len(self.rows)
        epoch, position = divmod(step, count // self.batch)
        order = _epoch_order(seed, domain_key(self.name), epoch, count)
        return self.rows[order[position * self.batch : (position + 1) * self.batch]]

    def share(self, rank: int, workers: int) -> slice:
        """The part of the batch that worker ``rank`` of ``workers`` encodes."""
        return slice(rank * self.batch // workers, (rank + 1) * self.batch // workers)


@dataclass(frozen=True)
class Mixture:
    """Training images of several domains, ready to be indexed; image i is the i-th of all domains one after another.

    Attributes:
        names: the D domains.
        images: per domain, uint8 (n, S, S, 3); on the CPU a memory map that all trials of a node share, else on the
            GPU.
        batch_per_domain: images of each domain in a step, over all workers.
    """

    names: tuple[str, ...]
    images: tuple[torch.Tensor, ...]
    batch_per_domain: int

    @classmethod
    def load(cls, data: str | Path, names: tuple[str, ...], *, batch_per_domain: int, device: str) -> Mixture:
        """Open the train split of every domain, with the unlabelled images that belong to it.

        Raises:
            ValueError: a domain is not prepared, has fewer images than a batch, or another image size than the first.
        """
        datasets = [open_dataset(data, name) for name in names]
        check_batch(datasets, batch_per_domain)
        arrays = [dataset.pretraining_images() for dataset in datasets]
        return cls(names, tuple(_shared_tensor(array).to(device) for array in arrays), batch_per_domain)

    @property
    def image_size(self) -> int:
        return self.images[0].shape[1]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(D + 1,) where each domain begins, and where the last one ends."""
        return np.cumsum([0, *(len(images) for images in self.images)])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64, the domain that each image really is of."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.offsets))

    @cached_property
    def domains(self) -> tuple[Group, ...]:
        """A group per domain, each with a batch of its own."""
        borders = zip(self.names, self.offsets[:-1], self.offsets[1:], strict=True)
        return tuple(Group(name, np.arange(first, end), self.batch_per_domain) for name, first, end in borders)

    def union(self, batch: int) -> Group:
        """All images as one group."""
        count = int(self.offsets[-1])
        return Group("+".join(self.names), np.arange(count), min(batch, count))

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """(len(rows), S, S, 3) uint8: these images, in this order, on the device that holds them."""
        first = self.images[0]
        found = torch.empty((len(rows), *first.shape[1:]), dtype=torch.uint8, device=first.device)
        domain_of_row = np.searchsorted(self.offsets, rows, side="right") - 1
        for domain, images in enumerate(self.images):
            places = np.flatnonzero(domain_of_row == domain)
            local = send(rows[places] - self.offsets[domain], first.device)
            found[send(places, first.device)] = images[local]
        return found


def check_batch(datasets: list, batch_per_domain: int) -> None:
    """Raise ``ValueError`` unless every dataset fills a batch and all have images of one size."""
    for dataset in datasets:
        count = dataset.pretraining_count
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
