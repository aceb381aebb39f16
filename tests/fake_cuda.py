"""Fake CUDA tensors without a GPU and without values: an operation that would synchronize with a GPU raises `Waiting`.

Such operations read values of a tensor, or copy values to the GPU other than by `mdssl.device.send`, which copies from
pinned memory. Operations without CUDA tensors run as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as Mode
from torch.autograd.function import BackwardCFunction
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import arg_tree_leaves

CUDA = torch.device("cuda:0")


class Waiting(AssertionError):
    pass


class FakeCuda(Mode):
    """Within the context, tensors made on `CUDA` are fake."""

    def dispatch(self, function, types, args=(), kwargs=None):
        leaves = arg_tree_leaves(*args, **(kwargs or {}))
        fakes = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        devices = {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        if not fakes and "cuda" not in devices:
            return function(*args, **(kwargs or {}))
        if "cpu" in devices or any(type(leaf) in (torch.Tensor, nn.Parameter) for leaf in leaves):
            raise Waiting(f"{function} has tensors of host and device")
        try:
            return super().dispatch(function, types, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Waiting(f"{function} needs a number") from error


def send(numbers: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Replaces `mdssl.device.send`."""
    return torch.empty(numbers.shape, dtype=torch.as_tensor(numbers).dtype, device=device)


def to_cuda(model: nn.Module) -> nn.Module:
    """Replace the parameters and buffers of ``model`` by fake CUDA tensors of the same shapes and strides."""
    for module in model.modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    new = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=CUDA)
                    values[name] = nn.Parameter(new) if isinstance(value, nn.Parameter) else new
    return model


@torch.no_grad()
def backward(root: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    """Replaces `torch.Tensor.backward`, whose engine needs a driver: calls the nodes in reverse topological order."""
    order: list = []
    stack, seen = [(root.grad_fn, False)], set()
    while stack:
        node, is_left = stack.pop()
        if is_left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack += [(node, True), *((child, False) for child, _ in node.next_functions if child is not None)]
    found = {root.grad_fn: {0: torch.ones_like(root) if gradient is None else gradient}}
    for node in reversed(order):
        own = found.pop(node, {})
        if hasattr(node, "variable"):
            before = node.variable.grad
            node.variable.grad = own[0] if before is None else before + own[0]
            continue
        call = node.apply if isinstance(node, BackwardCFunction) else node
        gradients = call(*[own.get(place) for place in range(len(node._input_metadata))])
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        for (child, place), each in zip(node.next_functions, gradients, strict=False):
            if child is not None and each is not None:
                wanted, sums = child._input_metadata[place], found.setdefault(child, {})
                each = each.sum_to_size(wanted.shape).to(wanted.dtype)
                sums[place] = sums[place] + each if place in sums else each


@contextmanager
def fake_cuda(workers: int = 1) -> Iterator[None]:
    """Within the context there is a fake GPU. This process is the first of ``workers``; the others do not run."""
    if workers > 1:
        dist.init_process_group("fake", rank=0, world_size=workers, store=FakeStore())
    try:
        with pytest.MonkeyPatch.context() as patch:
            # Autocast needs a driver.
            patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
            patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
            patch.setattr(torch.Tensor, "backward", backward)
            with FakeCuda():
                yield
    finally:
        if workers > 1:
            dist.destroy_process_group()
