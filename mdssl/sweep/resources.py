"""The resources of a trial, and how many trials fit a cluster at once.

A worker is on one node, and a fraction of a GPU is of one GPU: with 0.4 GPU each, four GPUs hold eight workers, not
ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdssl.errors import InputError
from mdssl.sweep.settings import SweepSettings

_MEMORY_OF_TRIALS, _MEMORY_OF_PROBE = 0.8, 0.15
"""Of a GPU that trials share. The rest is memory that PyTorch does not count, some 0.4 GB of each process."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """The resources of each of a trial's ``workers``: ``cpus`` cores and torch threads, and ``gpus`` or a fraction."""

    workers: int
    cpus: int
    gpus: float

    def __str__(self) -> str:
        words = f"{_count(self.workers, 'worker')} with {_count(self.cpus, 'CPU')} ({_count(self.cpus, 'thread')})"
        if self.gpus >= 1:
            words += f" and {_count(self.gpus, 'GPU')}"
        elif self.gpus:
            words += f" and {self.gpus:g} of a GPU ({self.memory:.0%} of its memory)"
        return words + (" each" if self.workers > 1 else "")

    @property
    def memory(self) -> float:
        """The share of its GPU's memory that a worker may use, from 0 to 1."""
        return self.gpus * _MEMORY_OF_TRIALS if 0 < self.gpus < 1 else 1.0

    @property
    def probe_memory(self) -> float:
        """The share of a GPU's memory that the probe beside such workers may use."""
        return _MEMORY_OF_PROBE if 0 < self.gpus < 1 else 1.0

    def on(self, node: dict[str, float]) -> int:
        """Number of workers that the node holds."""
        held = int(node.get("CPU", 0) / self.cpus)
        if self.gpus:
            of_one = int(1 / self.gpus + 1e-6) if self.gpus < 1 else 1 / self.gpus
            held = min(held, int(int(node.get("GPU", 0)) * of_one))
        return held


def share_of(settings: SweepSettings, nodes: Sequence[dict[str, float]]) -> Share:
    """What each worker of a sweep gets; by default a GPU, if ``nodes`` have any."""
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    return Share(workers=settings.workers, cpus=settings.cpus_per_worker, gpus=gpus)


def slots(share: Share, nodes: Sequence[dict[str, float]]) -> int:
    """Number of trials that fit ``nodes`` at once."""
    return sum(share.on(node) for node in nodes) // share.workers


def check_resources(
    share: Share,
    nodes: Sequence[dict[str, float]],
    *,
    growing_to: int | None = None,
    where: str = "the cluster",
) -> int:
    """Number of trials that fit a cluster at once.

    Args:
        nodes: the resources of each node.
        growing_to: how many will fit a cluster that starts nodes where they are missing. Ray does not tell a driver
            whether a cluster is one, or how far it may grow, so what the user says is taken.
        where: name of the cluster or machine in messages.

    Raises:
        ValueError: not one fits.
    """
    if growing_to is not None:
        return growing_to
    if fitting := slots(share, nodes):
        return fitting
    hint = (
        "lower --workers, --cpus-per-worker or --gpus-per-worker, or give a larger cluster with --address, and with "
        "--max-concurrent if it starts its nodes as they are needed."
    )
    for what, each in (("CPU", share.cpus), ("GPU", share.gpus)):
        need, have = share.workers * each, sum(node.get(what, 0) for node in nodes)
        if need > have:
            of = f" ({share.workers} workers with {each:g} each)" if share.workers > 1 else ""
            raise InputError(f"a trial needs {_count(need, what)}{of}, but {where} has {have:g}; {hint}")
    held = sum(share.on(node) for node in nodes)
    raise InputError(
        f"a trial needs {share}, each worker on one node, but {where}'s nodes have room for {held}: "
        f"{described(nodes)}; {hint}"
    )


def described(nodes: Sequence[dict[str, float]]) -> str:
    """``2 nodes with 4 CPUs and 1 GPU, 1 node with 8 CPUs``."""
    kinds: dict[str, int] = {}
    for node in nodes:
        gpus = f" and {_count(node['GPU'], 'GPU')}" if node.get("GPU") else ""
        kind = _count(node.get("CPU", 0), "CPU") + gpus
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{_count(number, 'node')} with {kind}" for kind, number in kinds.items()) or "no nodes"


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}"
