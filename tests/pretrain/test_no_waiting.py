"""A training step never makes the host wait for the GPU, with one worker or several. The GPU is that of `fake_cuda`.

``bench/step.py`` runs steps on a real GPU with torch.cuda.set_sync_debug_mode("error").
"""

import pytest
import torch
from factories import tiny_trial
from fake_cuda import CUDA, Waiting, fake_cuda, send, to_cuda

from mdssl.data import host_images as host_images_module
from mdssl.data import mixture as mixture_module
from mdssl.data.host_images import HostImages
from mdssl.data.mixture import Mixture
from mdssl.pretrain import loss as loss_module
from mdssl.pretrain import optim as optim_module
from mdssl.pretrain import step as step_module
from mdssl.pretrain.batch_norm import make_global
from mdssl.pretrain.loss import mdssl_loss
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.step import backward_at_once, backward_by_domain, two_views

ONE, TWO = (8,), (3, 5)
"""Images per domain on each worker, for one worker and for two."""


@pytest.fixture(
    params=[pytest.param(ONE, id="one worker", marks=pytest.mark.long), pytest.param(TWO, id="two workers")]
)
def two_steps(request, monkeypatch):
    """A function that runs two training steps and returns the model."""
    for module in (mixture_module, host_images_module, step_module, loss_module, optim_module):
        monkeypatch.setattr(module, "send", send)

    # Pinned memory needs a CUDA driver.
    monkeypatch.setattr(HostImages, "_on_gpu", False)

    def run(backward=backward_at_once, compiled=False, on_host=False, **changes):
        config = tiny_trial(precision="bf16", **changes)
        counts = [[share] * 2 for share in request.param]
        with fake_cuda(workers=len(counts)):
            model = build_model(config)
            if len(counts) > 1:
                make_global(model)
            model = to_cuda(model)
            optimizer = build_optimizer(config, model)
            place = torch.device("cpu") if on_host else CUDA
            images = tuple(torch.empty(50, 32, 32, 3, dtype=torch.uint8, device=place) for _ in config.domains)
            host = HostImages([each.numpy() for each in images], CUDA) if on_host else None
            mixture = Mixture(config.domains, images, config.batch_per_domain, host)
            if compiled:
                torch._dynamo.reset()
                model.compile(backend="eager", fullgraph=True)
            for step in range(2):
                views = two_views(config, mixture, mixture.domains, step, [slice(0, counts[0][0])] * 2)
                assert views.is_contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad(set_to_none=True)
                terms = backward(config, model, views, counts)
                assert all(each.device == CUDA and each.shape == () for each in terms)
                assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
                optimizer.step()
        return model

    return run


SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}


@pytest.mark.parametrize(
    ("backward", "changes"),
    [
        (backward_at_once, {"optimizer": "lars"}),
        (backward_at_once, {"optimizer": "sgd", **SIMCLR}),
        (backward_at_once, {"optimizer": "sgd", "on_host": True}),
        (backward_at_once, {"optimizer": "adamw", "batching": "per-domain"}),
        pytest.param(backward_by_domain, {"optimizer": "lars", "batching": "per-domain"}, marks=pytest.mark.long),
        (backward_at_once, {"optimizer": "lars", "norm": "group", "stem": "cifar"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "-".join(map(str, value.values())),
)
def test_training_step_does_not_synchronize_with_the_gpu(two_steps, backward, changes):
    two_steps(backward, **changes)


@pytest.mark.slow
def test_compiled_encoder_is_one_graph_without_gpu_synchronization(two_steps):
    two_steps(compiled=True)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: torch.tensor([1.0, 2.0]).to(x.device),
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=True),
        # Without ``of_ranks`` the workers exchange their labels.
        lambda x: mdssl_loss(*torch.ones(2, 3, 4, device=CUDA), torch.zeros(3).long(), **LOSS),
    ],
)
def test_fake_gpu_detects_synchronizing_operations(wait):
    with fake_cuda(workers=2):
        x = torch.empty(3, device=CUDA)
        with pytest.raises(Waiting):
            wait(x)


LOSS = {"lambda1": 0.9, "lambda2": 0.1, "temperature": 0.1}
