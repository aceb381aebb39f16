"""One training step: two views of the batch of each group, and the gradients of the loss over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig, check_precision
from mdssl.data.mixture import Group, Mixture, domain_key
from mdssl.device import multiplies_bf16, send
from mdssl.pretrain.augment import Views, augment, draw, draw_jitter_order
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.loss import LossTerms, mdssl_loss, weighted_nt_xent
from mdssl.pretrain.stopping import Agreement, rank_and_workers


def two_views(
    config: TrialConfig,
    mixture: Mixture,
    groups: Sequence[Group],
    step: int,
    shares: Sequence[slice],
    *,
    compiled: bool = False,
) -> torch.Tensor:
    """(2 · b, 3, S, S): this worker's first views of all groups, then the second views in the same order."""

    def rows(step: int) -> np.ndarray:
        batches = [group.drawn(config.seed, step) for group in groups]
        if METHODS[config.method].shuffles_domains:
            order = np.random.default_rng([4, config.seed, step]).permutation(np.concatenate(batches))
            batches = np.split(order, np.cumsum([group.batch for group in groups])[:-1])
        return np.concatenate([batch[share] for batch, share in zip(batches, shares, strict=True)])

    images = mixture.gather(rows(step), then=lambda: rows(step + 1))
    uniform = [
        draw(group.batch, seed=config.seed, step=step, domain=domain_key(group.name))[:, share]
        for group, share in zip(groups, shares, strict=True)
    ]
    orders = draw_jitter_order(seed=config.seed, step=step)
    views = []
    for view, order in enumerate(orders):
        numbers = np.concatenate([group[view] for group in uniform])
        parameters = Views.of(send(numbers, images.device), mixture.image_size, config)
        views.append(augment(images, parameters, order, compiled=compiled))
    return torch.cat(views)


def backward_at_once(config: TrialConfig, model: nn.Module, views: torch.Tensor, counts: list[list[int]]) -> LossTerms:
    """Backward pass of one step; returns the loss of the global batch.

    Args:
        views: this worker's views.
        counts: the number of images of each group, for each worker in rank order.
    """
    own = counts[rank_and_workers()[0]]
    with autocast(config, views):
        if config.batching == "joint":
            z = model(views)
        else:
            z = by_view(model(by_domain(views, own), [2 * count for count in own]), own)
    loss = loss_of(config, z, counts)
    loss.total.backward()
    return loss


def backward_by_domain(
    config: TrialConfig, model: nn.Module, views: torch.Tensor, counts: list[list[int]]
) -> LossTerms:
    """`backward_at_once` by gradient caching: the same gradients in the memory of one domain's pass.

    Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup": embeddings without a
    graph, the gradient of the loss for each of them, then the pass of each domain again, with a graph.
    """
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    own = counts[rank_and_workers()[0]]
    parts = by_domain(views, own).split([2 * count for count in own])
    with torch.no_grad(), statistics_untouched(inner), autocast(config, views):
        z = torch.cat([inner(part) for part in parts])
    z.requires_grad_()
    loss = loss_of(config, by_view(z, own), counts)
    loss.total.backward()
    assert z.grad is not None
    gradients = z.grad.split([2 * count for count in own])
    for place, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        is_last = place == len(parts) - 1
        # Gradients are averaged over workers once, in the last pass.
        waits = model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()
        with waits, autocast(config, views):
            model(part).backward(gradient)
    return loss


def loss_of(config: TrialConfig, z: torch.Tensor, counts: list[list[int]]) -> LossTerms:
    """Return the loss of (2 · b, r) representations: first views of all groups, then second views."""
    method = METHODS[config.method]
    # To a loss that does not tell domains apart, all images are of one.
    groups = np.arange(len(counts[0])) * method.tells_domains_apart
    of_ranks = torch.from_numpy(np.repeat(np.tile(groups, len(counts)), np.concatenate(counts)))
    labels = of_ranks.split([sum(of_rank) for of_rank in counts])
    z_a, z_b = z.chunk(2)
    rank, _ = rank_and_workers()
    shared: dict[str, Any] = {"temperature": config.temperature, "of_ranks": labels}
    if method.weighs_negatives:
        return weighted_nt_xent(z_a, z_b, labels[rank], negative_weight=config.negative_weight, **shared)
    return mdssl_loss(z_a, z_b, labels[rank], lambda1=config.lambda1, lambda2=config.lambda2, **shared)


def by_domain(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Reorder all first views, then all second views, to both views of the first group, of the next, and so on.

    A pass over one group then gives both views the same batch-norm statistics."""
    first, second = (half.split(counts) for half in rows.chunk(2))
    return torch.cat([part for pair in zip(first, second, strict=True) for part in pair])


def by_view(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the inverse of `by_domain`."""
    parts = rows.split([count for count in counts for _ in range(2)])
    return torch.cat([*parts[::2], *parts[1::2]])


def with_precision(config: TrialConfig, state: LoopState, device: str, agreement: Agreement) -> TrialConfig:
    """Return the config with the precision of earlier steps, the requested one, or bf16 if all workers support it.

    Raises:
        ValueError: earlier steps have another precision than the requested one.
    """
    precision: Any = config.precision
    if state.step:
        precision = state.precision or ("fp32" if precision == "auto" else precision)
        check_precision(config, precision)
    elif precision == "auto":
        precision = "bf16" if agreement.least(multiplies_bf16(device)) else "fp32"
    return replace(config, precision=precision)


def autocast(config: TrialConfig, views: torch.Tensor) -> torch.autocast:
    return torch.autocast(views.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16")


@contextmanager
def statistics_untouched(model: nn.Module) -> Iterator[None]:
    """Batch-norm as in training, but without an update of the running statistics, which the second pass makes."""
    tracking = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
