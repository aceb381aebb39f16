"""Functions for all benches: alternating timings, memory from a fresh process, tables and a claim as JSON.

A bench checks that its contenders compute the same thing, then gives them to `take_turns`. One contender is timed twice
to show the noise of ratios. Neither the harness nor a bench asserts a time.
"""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

AGAIN = " again"
"""Suffix of the second row of the contender that is timed twice."""


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every bench takes."""
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(description), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; one more comes first and is not counted")
    return parser


def take_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each round, by contender. The second contender runs twice per round to show the noise.

    Contenders alternate within a round, so that other load on the machine slows all of them down. A first round, in
    which kernels are chosen and memory is allocated, is not counted.
    """
    names = list(contenders)
    again = names[min(1, len(names) - 1)]
    turns = {**contenders, again + AGAIN: contenders[again]}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, run in turns.items():
            elapsed = timed(run, device)
            if number:
                seconds[name].append(elapsed)
    return seconds


def timed(run: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, with the GPU synchronized before and after it."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def paired_ratio(seconds: Mapping[str, list[float]], name: str, to: str) -> float:
    """Median over rounds of the ratio of the times of ``name`` and ``to`` in the same round."""
    return statistics.median(theirs / own for theirs, own in zip(seconds[name], seconds[to], strict=True))


def extra_memory(prepare: Callable[..., Callable[[], object]], *args: Any, device: str = "cpu") -> float:
    """Peak memory in MiB of one call of the function that ``prepare(*args)`` returns, minus the memory before it.

    The memory is measured in a fresh process; on CUDA it is memory of the GPU. ``prepare`` is a function of the bench's
    module. It should make a small call itself, so that memory that a library allocates once is not counted.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_growth, prepare, args, device).result()


def _growth(prepare: Callable[..., Callable[[], object]], args: tuple, device: str) -> float:
    run = prepare(*args)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Linux: reset the peak, which the import of torch has raised.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mib()
    run()
    return _peak_mib() - before


def _peak_mib() -> float:
    """Peak memory of this process, which Linux gives as VmHWM."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


class Report:
    """Prints markdown tables while a bench runs, and its claim as the last line."""

    def __init__(self, unit: str, *, peer: str):
        self.unit, self.peer = unit, peer

    def timings(
        self,
        title: str,
        seconds: Mapping[str, list[float]],
        *,
        work: float,
        extra: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """A row per contender: its median time, ``work`` per second, and its paired ratio to the first contender.

        Args:
            work: amount of work of one call, such as a number of views.
            extra: additional cells, by column and contender.
        """
        first, extra = next(iter(seconds)), extra or {}
        rows = []
        for name, values in seconds.items():
            median = statistics.median(values)
            cells = [name, duration(median), amount(work / median), f"{paired_ratio(seconds, name, first):.2f}"]
            rows.append(cells + [column.get(name, "") for column in extra.values()])
        self.table(title, ["", "median", self.unit, f"× {first}'s time", *extra], rows)

    def table(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        lines = [header, ["---"] * len(header), *rows]
        print(f"\n{title}\n")
        print("\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)

    def note(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def claim_from(self, claim: str, seconds: Mapping[str, list[float]], ours: str, peer: str, work: float) -> None:
        """Print a claim from timings: ``work`` per second of both, and their paired ratio."""
        speed = {name: work / statistics.median(seconds[name]) for name in (ours, peer)}
        self.claim(claim, ours=speed[ours], peer=speed[peer], ratio=paired_ratio(seconds, peer, to=ours))

    def claim(self, claim: str, *, ours: float, peer: float, ratio: float) -> None:
        """Print the claim as one JSON object, the last line. ``ours`` and ``peer`` are in ``unit``; ``ratio`` is above
        1 if ours is better."""
        line = {"claim": claim, "ours": ours, "peer": peer, "peer_name": self.peer, "ratio": ratio, "unit": self.unit}
        print("\n" + json.dumps(line, ensure_ascii=False), flush=True)


def amount(value: float) -> str:
    """Format a number with a comma at thousands, or with three digits if it is below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def assert_close(what: str, got: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """Assert that contenders compute the same thing, without which their times are not comparable."""
    got, expected = got.detach().double(), expected.detach().double()
    error = float((got - expected).norm() / expected.norm())
    assert error <= relative, f"{what}: contenders disagree by {error:.1e}, more than {relative:g}"
