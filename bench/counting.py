"""What a training step asks of a device, counted, and what the device can do at most.

Launches, bytes and operations are those of the code as it runs: every operation that PyTorch dispatches counts as one
launch that reads its inputs and writes its outputs. `floor_of` is less than any such step can need.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import take_turns
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_FREE = ("empty", "detach", "_unsafe_view", "alias", "_reshape_alias", "set_", "record_stream")
"""Beginnings of names of operations that compute nothing."""


class Counter(TorchDispatchMode):
    """Within the context: launches, and bytes that they read and write, of all operations but views.

    Operations of compiled code are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view and not function._opname.startswith(_FREE):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.launches += 1
            # What is written in place is among inputs and outputs: read and written.
            self.bytes += sum(_size(each) for each in tensors)
        return result


def _size(x: torch.Tensor) -> int:
    """Bytes of memory behind a tensor, which are fewer than its numbers where it is expanded."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@dataclass(frozen=True)
class Counts:
    """Of one step: dispatched operations, bytes that they read and write, multiplications and additions."""

    launches: int
    bytes: int
    operations: int


def count(step: Callable[[], object]) -> Counts:
    """Count one call of ``step``, which must not be compiled; the operations are those of matrices and convolutions."""
    with FlopCounterMode(display=False) as operations, Counter() as counter:
        step()
    return Counts(counter.launches, counter.bytes, operations.get_total_flops())


def kernels(step: Callable[[], object]) -> int:
    """Kernels and copies that one call of ``step`` starts on a CUDA device, compiled or not."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


@dataclass(frozen=True)
class Limits:
    """What a device does at most, measured by PyTorch's own kernels.

    Attributes:
        bandwidth: bytes/s, read and written, of a large copy.
        speed: operations/s of the largest square product of matrices.
        cache: bytes of its last cache.
    """

    bandwidth: float
    speed: float
    cache: int


def limits_of(device: str, dtype: torch.dtype, *, tiny: bool = False) -> Limits:
    """Measure them; ``dtype`` is that of the products."""
    on_gpu = device.startswith("cuda")
    size = 2**12 if tiny else 2**28
    block, other = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    side = 64 if tiny else 8192 if on_gpu else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    work = {"copy": lambda: other.copy_(block), "product": lambda: a @ b}
    seconds = take_turns(work, rounds=1 if tiny else 9, device="cuda" if on_gpu else "cpu")
    cache = torch.cuda.get_device_properties(device).L2_cache_size if on_gpu else _cpu_cache()
    fastest = {name: min(values) for name, values in seconds.items()}
    return Limits(2 * size / fastest["copy"], 2 * side**3 / fastest["product"], cache)


def _cpu_cache() -> int:
    """Linux tells it in KiB, such as 32768K."""
    file = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(file.read_text().strip().removesuffix("K")) * 2**10 if file.exists() else 0


def floor_of(model: nn.Module, views: torch.Tensor, count: int, *, item: int, cache: int) -> int:
    """Bytes that any step of ``count`` views moves to and from memory, unless it computes activations again.

    Forward, a convolution or linear layer reads its input and writes its output; backward it reads the gradient of its
    output and its input, and writes the gradient of its input. All else (batch-norm, ReLU, sums, loss) counts as free,
    as if fused into these, and so does every tensor that fits into the cache. Parameters, gradients and momenta are
    read once in float32, and parameters and momenta written, unless all parameters fit into the cache.

    Args:
        views: a few views, whose shapes tell those of ``count``.
        item: bytes of a number of the activations.
        cache: bytes that cost nothing.
    """
    moved, scale = 0, count / len(views)

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal moved
        read, written = (size if (size := x.numel() * item * scale) > cache else 0 for x in (inputs[0], output))
        is_first = inputs[0].shape[1] == 3
        moved += round((2 if is_first else 3) * read + 2 * written)

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = model.training
    with torch.no_grad():
        model.eval()(views)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    weights = 4 * sum(p.numel() for p in model.parameters())
    return moved + (5 * weights if weights > cache else 0)


def floor_seconds(counts: Counts, floor: int, limits: Limits) -> float:
    """Seconds below which no step with these operations and bytes can take, at the device's limits."""
    return max(counts.operations / limits.speed, floor / limits.bandwidth)


def median_seconds(step: Callable[[], object], *, rounds: int, device: str) -> float:
    """After a first call that is not counted."""
    return statistics.median(take_turns({"": step}, rounds=rounds, device=device)[""])
