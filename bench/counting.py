"""Count launches, bytes and operations of a training step, and measure the limits of the device.

The counts are those of the code as it runs: every operation that PyTorch dispatches counts as one launch that reads its
inputs and writes its outputs. `floor_of` is a lower bound of the bytes that any such step needs.
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
"""Prefixes of names of operations that compute nothing."""


class Counter(TorchDispatchMode):
    """Count launches, and bytes that they read and write, of all operations within the context except views.

    Operations of compiled code are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view and not function._opname.startswith(_FREE):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.launches += 1
            # A tensor changed in place is an input and an output: it is read and written.
            self.bytes += sum(_size(each) for each in tensors)
        return result


def _size(x: torch.Tensor) -> int:
    """Bytes of memory of a tensor; an expanded tensor has fewer than its shape says."""
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())


@dataclass(frozen=True)
class Counts:
    """Counts of one step: dispatched operations, bytes that they read and write, multiplications and additions."""

    launches: int
    bytes: int
    operations: int


def count(step: Callable[[], object]) -> Counts:
    """Count one call of ``step``, which must not be compiled; operations are of matrix products and convolutions."""
    with FlopCounterMode(display=False) as operations, Counter() as counter:
        step()
    return Counts(counter.launches, counter.bytes, operations.get_total_flops())


def kernels(step: Callable[[], object]) -> int:
    """Number of kernels and copies that one call of ``step`` starts on a CUDA device, compiled or not."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


@dataclass(frozen=True)
class Limits:
    """Limits of a device, measured with PyTorch's own kernels.

    Attributes:
        bandwidth: bytes/s, read and written, of a large copy.
        speed: operations/s of a large square matrix product.
        cache: bytes of the last-level cache.
    """

    bandwidth: float
    speed: float
    cache: int


def limits_of(device: str, dtype: torch.dtype, *, tiny: bool = False) -> Limits:
    """Measure the limits of ``device``, with matrix products in ``dtype``."""
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
    """Bytes of the last-level cache, which Linux gives in KiB, such as 32768K."""
    file = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return int(file.read_text().strip().removesuffix("K")) * 2**10 if file.exists() else 0


def floor_of(model: nn.Module, views: torch.Tensor, count: int, *, item: int, cache: int) -> int:
    """Bytes that any step of ``count`` views moves to and from memory, unless it recomputes activations.

    In the forward pass a convolution or linear layer reads its input and writes its output. In the backward pass it
    reads the gradient of its output and its input, and writes the gradient of its input. Other operations (batch-norm,
    ReLU, sums, loss) count as free, as if fused into these layers, as does every tensor that fits into the cache.
    Parameters, gradients and momenta are read once in float32, and parameters and momenta are written, unless all
    parameters fit into the cache.

    Args:
        views: a few views, from whose activations those of ``count`` views are computed.
        item: bytes of one value of the activations.
        cache: size of the cache in bytes; tensors that fit into it cost nothing.
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
    """The shortest time in seconds of a step with these operations and bytes at the limits of the device."""
    return max(counts.operations / limits.speed, floor / limits.bandwidth)


def median_seconds(step: Callable[[], object], *, rounds: int, device: str) -> float:
    """Median seconds of ``rounds`` calls, after a first call that is not counted."""
    return statistics.median(take_turns({"": step}, rounds=rounds, device=device)[""])
