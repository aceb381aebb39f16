"""A step never makes the host wait for a GPU: shown without one, on torch's device that holds no numbers.

What would wait is what needs a number back, or copies one over other than by `mdssl.device.send`, whose own copies are
made from pinned memory. On CUDA itself ``bench/step.py`` runs steps with torch.cuda.set_sync_debug_mode("error").
"""

from contextlib import nullcontext

import pytest
import torch
from factories import tiny_trial
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mdssl.data import mixture as mixture_module
from mdssl.data.mixture import Mixture
from mdssl.pretrain import loss as loss_module
from mdssl.pretrain import step as step_module
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.step import backward_at_once, backward_by_domain, two_views

META = torch.device("meta")
NEEDS_A_NUMBER = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}


class Waiting(AssertionError):
    pass


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        devices = [arg.device for arg in args if isinstance(arg, torch.Tensor)]
        if name in NEEDS_A_NUMBER and META in devices:
            raise Waiting(name)
        if name in ("_to_copy", "copy_") and {*devices, kwargs.get("device", META)} == {torch.device("cpu"), META}:
            raise Waiting(f"{name} between host and device")
        return function(*args, **kwargs)


class NoNumbersFromPython(TorchFunctionMode):
    """`torch.tensor` fills host memory, and then waits for the copy to its device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.tensor, torch.as_tensor) and (kwargs or {}).get("device") == META:
            raise Waiting(function.__name__)
        return function(*args, **kwargs or {})


@pytest.fixture
def on_meta(monkeypatch):
    """A trial's model, optimiser and images there."""

    def send(numbers, device):
        return torch.empty(numbers.shape, dtype=torch.from_numpy(numbers).dtype, device=device)

    for module in (mixture_module, step_module, loss_module):
        monkeypatch.setattr(module, "send", send)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())

    def made(**changes):
        config = tiny_trial(**changes)
        images = tuple(torch.empty(50, 32, 32, 3, dtype=torch.uint8, device=META) for _ in config.domains)
        model = build_model(config).to(META)
        mixture = Mixture(config.domains, images, config.batch_per_domain)
        return config, mixture, model, build_optimizer(config, model)

    return made


@pytest.mark.parametrize(
    ("backward", "method", "optimizer"),
    [
        (backward_at_once, "mdssl", "lars"),
        (backward_at_once, "simclr", "sgd"),
        (backward_by_domain, "mdssl", "adamw"),
        (backward_by_domain, "simclr", "lars"),
    ],
)
def test_a_step_waits_for_nothing(on_meta, method, optimizer, backward):
    weights = {} if method == "mdssl" else {"lambda1": 1.0, "lambda2": 0.0}
    config, mixture, model, optimizer = on_meta(method=method, optimizer=optimizer, batching="per-domain", **weights)
    with NoWaiting(), NoNumbersFromPython():
        for step in range(2):
            views = two_views(config, mixture, mixture.domains, step, [slice(0, 8)] * 2)
            optimizer.zero_grad(set_to_none=True)
            backward(config, model, views, [8, 8])
            optimizer.step()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: x.cpu(),
    ],
)
def test_what_would_wait_is_noticed(wait):
    x = torch.empty(3, device=META)
    # torch itself refuses what has no shape without numbers.
    with NoWaiting(), NoNumbersFromPython(), pytest.raises((Waiting, NotImplementedError)):
        wait(x)
