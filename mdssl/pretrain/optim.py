"""Optimizers with their exclusions, and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from mdssl.config.trial import Recipe
from mdssl.device import send

_MOMENTUM = 0.9
_TRUST_COEFFICIENT = 0.001


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017) with momentum, as in Lightning Bolts and lightly.

    For a parameter w with gradient g in a group with ``adapt``:

        g ← (g + weight_decay·w) · trust·‖w‖ / (‖g‖ + weight_decay·‖w‖)        scale 1 where either norm is 0
        v ← momentum·v + g
        w ← w − lr·v

    Groups without ``adapt`` get neither the scale nor weight decay.
    """

    def __init__(self, params: ParamsT, *, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient, without waiting for a GPU."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            on_cpu = all(p.device.type == "cpu" for p in params)
            # On a GPU one launch updates all of them; on a CPU they are faster one by one, in the cache.
            for some in [[p] for p in params] if on_cpu else [params]:
                self._update(some, group)

    def _update(self, params: list[torch.Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(buffers, _MOMENTUM)
        if group["adapt"]:
            # buffers += scales * (grads + weight_decay * params), without a copy.
            scales = _scales(params, grads, group["weight_decay"])
            torch._foreach_addcmul_(buffers, grads, _spread(scales, params))
            torch._foreach_addcmul_(buffers, params, _spread(scales * group["weight_decay"], params))
        else:
            torch._foreach_add_(buffers, grads)
        torch._foreach_add_(params, buffers, alpha=-group["lr"])


def _scales(params: list[torch.Tensor], grads: list[torch.Tensor], weight_decay: float) -> torch.Tensor:
    weight_norms = torch.stack(torch._foreach_norm(params))
    grad_norms = torch.stack(torch._foreach_norm(grads))
    scales = _TRUST_COEFFICIENT * weight_norms / (grad_norms + weight_decay * weight_norms)
    # torch.where, because an `if` would wait for the GPU.
    return torch.where((weight_norms > 0) & (grad_norms > 0), scales, torch.ones_like(scales))


def _spread(scales: torch.Tensor, params: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the (n,) scales as n tensors; several with the shapes and memory orders of ``params``.

    With factors of another shape, PyTorch launches a kernel for each parameter in place of one for all.
    """
    if len(params) == 1:
        return list(scales.unbind())
    counts = [p.numel() for p in params]
    # With their sum given, the host does not wait for the counts to be added up.
    spread = torch.repeat_interleave(scales, send(np.array(counts), scales.device), output_size=sum(counts))
    return [part.as_strided(p.shape, p.stride()) for part, p in zip(spread.split(counts), params, strict=True)]


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of ``model``, without weight decay and LARS scale on biases, normalization parameters, and
    what a network of timm excludes: position embeddings and tokens.

    With an ``encoder_lr_scale``, the groups of the encoder have it as ``lr_scale``.
    """
    excluded = {f"encoder.{name}" for name in getattr(getattr(model, "encoder", None), "no_weight_decay", set)()}
    named = dict(model.named_parameters())
    parts: list[tuple[dict[str, nn.Parameter], dict[str, float]]] = [(named, {})]
    if recipe.encoder_lr_scale != 1:
        head = {name: p for name, p in named.items() if name.startswith("projection.")}
        encoder = {name: p for name, p in named.items() if name not in head}
        parts = [(encoder, {"lr_scale": recipe.encoder_lr_scale}), (head, {})]
    groups: list[dict[str, Any]] = []
    for own, scale in parts:
        kernels = [p for name, p in own.items() if p.ndim > 1 and name not in excluded]
        vectors = [p for name, p in own.items() if p.ndim <= 1 or name in excluded]
        groups.append({"params": kernels, "adapt": True, **scale})
        groups.append({"params": vectors, "adapt": False, "weight_decay": 0.0, **scale})
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "lars":
        return LARS(groups, **options)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=_MOMENTUM, **options)
    return torch.optim.AdamW(groups, **options)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step from 0: linear warm-up to the peak, then a half cosine towards zero.

    The first step has peak / warm-up steps, the last warm-up step the peak; zero would be that of step ``iterations``.
    Schedule wsd stays at the peak instead, and decays by one minus the square root of the share of the decay that is
    done, as in Hägele et al. 2024 (arXiv:2405.18392).
    """
    warmup = min(recipe.lr_warmup_iterations, recipe.iterations)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "wsd":
        done = max(0, step - recipe.stable_steps)
        return recipe.learning_rate * (1 - math.sqrt(done / max(1, recipe.iterations - recipe.stable_steps)))
    progress = (step - warmup) / max(1, recipe.iterations - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
