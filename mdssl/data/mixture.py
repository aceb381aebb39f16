"""Domain batches: the images of each domain for a training step.

A batch depends only on (seed, step, domain). It is drawn for all workers together, and each worker takes a slice of it.
Therefore the number of workers and interruptions do not change the batches, and all trials of a λ grid use the same
images.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.data.host_images import HostImages
from mdssl.device import fits, send
from mdssl.errors import InputError


def domain_key(name: str) -> int:
    """Return the number of a domain in random draws, the same in every process and mixture."""
    return zlib.crc32(name.encode())


def fingerprint(data: str | Path, domains: tuple[str, ...]) -> str:
    """16 hex digits over all images for pretraining on ``domains``, in order; empty without domains."""
    return fingerprint_of([open_dataset(data, name) for name in domains])


def fingerprint_of(datasets: Sequence[Dataset]) -> str:
    """`fingerprint` of datasets. Only their ``meta.json`` is needed."""
    parts = [dataset.pretraining_fingerprint for dataset in datasets]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else ""


@dataclass(frozen=True)
class Group:
    """Images that a step treats as one domain: a domain, a cluster of a mixture, or the union of its domains.

    Attributes:
        name: identifies the group in random draws.
        rows: (n,) the images of the mixture that belong to it.
        batch: number of images in a step, over all workers; at most n.
    """

    name: str
    rows: np.ndarray
    batch: int

    def drawn(self, seed: int, step: int) -> np.ndarray:
        """(batch,) the images of step ``step``.

        A group goes through its own epochs, each in a new order and without its incomplete last batch.
        """
        count = len(self.rows)
        epoch, position = divmod(step, count // self.batch)
        order = _epoch_order(seed, domain_key(self.name), epoch, count)
        return self.rows[order[position * self.batch : (position + 1) * self.batch]]

    def share(self, rank: int, workers: int) -> slice:
        """Return the part of the batch that worker ``rank`` of ``workers`` encodes."""
        return slice(rank * self.batch // workers, (rank + 1) * self.batch // workers)


@dataclass(frozen=True)
class Mixture:
    """Training images of several domains. Image i is the i-th of the concatenated domains.

    Attributes:
        names: the D domains.
        images: per domain, uint8 (n, S, S, 3): a memory map that all trials of a node share, or a tensor on the GPU.
        batch_per_domain: images of each domain in a step, over all workers.
        on_host: gathers the batches if the images stay on the host, otherwise None.
    """

    names: tuple[str, ...]
    images: tuple[torch.Tensor, ...]
    batch_per_domain: int
    on_host: HostImages | None = None

    @classmethod
    def load(
        cls,
        data: str | Path,
        names: tuple[str, ...],
        *,
        batch_per_domain: int,
        device: str,
        images_on: Literal["auto", "device", "host"] = "device",
    ) -> Mixture:
        """Open the train split of every domain, with its unlabelled images.

        Args:
            device: the device of the batches.
            images_on: where to keep the images: device, host, or auto for the device if they fit. It does not change
                the batches.

        Raises:
            InputError: a domain is not prepared, has fewer images than a batch, or another image size than the first.
        """
        datasets = [open_dataset(data, name) for name in names]
        check_batch(datasets, batch_per_domain)
        arrays = [dataset.pretraining_images() for dataset in datasets]
        shared = tuple(map(_shared_tensor, arrays))
        if images_on == "host" or (images_on == "auto" and not fits(sum(each.nbytes for each in shared), device)):
            return cls(names, shared, batch_per_domain, HostImages(arrays, device))
        return cls(names, tuple(each.to(device) for each in shared), batch_per_domain)

    @property
    def image_size(self) -> int:
        return self.images[0].shape[1]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(D + 1,) the first image of each domain, and the end of the last one."""
        return np.cumsum([0, *(len(images) for images in self.images)])

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64, the true domain of each image."""
        return np.repeat(np.arange(len(self.names)), np.diff(self.offsets))

    @cached_property
    def domains(self) -> tuple[Group, ...]:
        """A group per domain, each with a separate batch."""
        borders = zip(self.names, self.offsets[:-1], self.offsets[1:], strict=True)
        return tuple(Group(name, np.arange(first, end), self.batch_per_domain) for name, first, end in borders)

    @property
    def batch(self) -> int:
        """Images of all domains in a step, over all workers."""
        return len(self.names) * self.batch_per_domain

    def in_proportion(self) -> tuple[Group, ...]:
        """A group per domain, whose batches are `batch` images in all, in proportion to the images of the domains.

        At least two of each domain, as a contrastive loss needs other images; what rounding leaves goes to the domains
        with the largest remainders.
        """
        wanted = np.diff(self.offsets) * self.batch / self.offsets[-1]
        sizes = np.maximum(np.floor(wanted), 2).astype(int)
        for domain in np.argsort(sizes - wanted)[: max(self.batch - sizes.sum(), 0)]:
            sizes[domain] += 1
        for _ in range(sizes.sum() - self.batch):
            sizes[sizes.argmax()] -= 1
        return tuple(replace(group, batch=int(size)) for group, size in zip(self.domains, sizes, strict=True))

    def union(self, batch: int) -> Group:
        """Return all images as one group."""
        count = int(self.offsets[-1])
        return Group("+".join(self.names), np.arange(count), min(batch, count))

    def gather(self, rows: np.ndarray, then: Callable[[], np.ndarray] | None = None) -> torch.Tensor:
        """Return the images ``rows`` in this order, uint8 (len(rows), S, S, 3) on the device.

        For ``then`` see `mdssl.data.host_images.HostImages.take`.
        """
        if self.on_host:
            return self.on_host.take(rows, then)
        first = self.images[0]
        found = torch.empty((len(rows), *first.shape[1:]), dtype=torch.uint8, device=first.device)
        domain_of_row = np.searchsorted(self.offsets, rows, side="right") - 1
        for domain, images in enumerate(self.images):
            places = np.flatnonzero(domain_of_row == domain)
            local = send(rows[places] - self.offsets[domain], first.device)
            found[send(places, first.device)] = images[local]
        return found


def check_batch(datasets: Sequence[Dataset], batch_per_domain: int) -> None:
    """Raise ``InputError`` unless every dataset has enough images for a batch and all have images of one size."""
    for dataset in datasets:
        count = dataset.pretraining_count
        if count < batch_per_domain:
            raise InputError(
                f"batch_per_domain is {batch_per_domain}, but domain {dataset.name!r} has {count} training images; "
                f"use at most {count} (--batch-per-domain), or prepare the domain with more images."
            )
        if dataset.image_size != datasets[0].image_size:
            raise InputError(
                f"domain {dataset.name!r} has images of {dataset.image_size} pixels, {datasets[0].name!r} of "
                f"{datasets[0].image_size}; a mixture needs one size: prepare one of them again with --size."
            )


def image_size_of(data: str | Path, domains: Sequence[str]) -> int | None:
    """Pixels of a side of the images of a mixture, whose domains all have the same; None without domains."""
    return open_dataset(data, domains[0]).image_size if domains else None


@lru_cache(maxsize=64)
def _epoch_order(seed: int, domain: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([0, seed, domain, epoch]).permutation(count)


def _shared_tensor(array: np.ndarray) -> torch.Tensor:
    """Wrap a read-only memory map in a tensor. Nothing writes to it, so torch's warning does not apply."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def with_fingerprint(config: TrialConfig, data: str | Path) -> TrialConfig:
    """Return the config with the fingerprint of its training data.

    Raises:
        ValueError: the config has the fingerprint of other data.
    """
    actual = fingerprint(data, config.domains)
    if config.data_fingerprint not in ("", actual):
        raise InputError(
            f"the training images of {config.train_mixture!r} have fingerprint {actual}, but trial {config.trial_id} "
            f"was created for {config.data_fingerprint}; restore the original data, or start a new trial on these."
        )
    return replace(config, data_fingerprint=actual)
