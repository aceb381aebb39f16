"""The MDSSL objective (eqs. 1-4) and weighted NT-Xent, exact, in O(B·d) memory, over the global batch of all workers.

With S_ij = exp(z_i·z_j / τ), d(i) the domain of row i and p(i) its other view, over B images and their 2B views:

    total     = alignment + λ1·within + λ2·across
    alignment = −1/B  Σ_pairs log S_i,p(i)                          (eq. 2)
    within    = 1/2B  Σ_rows  log Σ_{j≠i, d(j)=d(i)} S_ij           (eq. 3)
    across    = 1/2B  Σ_rows  log Σ_{d(j)≠d(i)} S_ij                (eq. 4)

The sum of eq. 3 contains the positive; with one domain and λ1 = 1, λ2 = 0 the total is SimCLR's NT-Xent.

With rows sorted by domain, every tile of S lies within one pair of domains, so only the diagonal needs a mask. S is
symmetric, so a tile above the diagonal serves its rows and its columns. The backward pass recomputes tiles instead of
storing them. Several workers share the tiles evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn import functional as F

from mdssl.config.trial import check_lambda1
from mdssl.device import send
from mdssl.errors import InputError, check_number

_TILE_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of a tile: a square tile should fit in a CPU's cache, and fill a GPU."""


class LossTerms(NamedTuple):
    """Scalars. ``total`` carries the gradient; the other three are detached and not weighted by λ1 and λ2."""

    total: torch.Tensor
    alignment: torch.Tensor
    within: torch.Tensor
    across: torch.Tensor


def mdssl_loss(
    z_a: torch.Tensor,
    z_b: torch.Tensor,
    domains: torch.Tensor,
    *,
    lambda1: float,
    lambda2: float,
    temperature: float,
    of_ranks: Sequence[torch.Tensor] | None = None,
) -> LossTerms:
    """Return the MDSSL loss of two views of a batch (eqs. 1-4), computed in float32, or in float64 for float64 inputs.

    Under an initialized process group with more than one rank the loss is that of the *global* batch, the same on all
    ranks, and gradients are scaled so that their *mean* over ranks, which DistributedDataParallel takes, is the
    gradient of that loss. Ranks may hold different numbers of images, and different domains.

    Args:
        z_a: (B, r) representations of the first views, not normalized.
        z_b: (B, r) representations of the second views, in the same order.
        domains: (B,) integer domain labels, in any order; best on the CPU, because the host waits for labels on a GPU.
        lambda1: weight of the within-domain term, in (0, 1].
        lambda2: weight of the across-domain term, at least 0. A batch of one domain has an across term of 0.
        temperature: τ, at least 0.02, so that exp(cos/τ) stays inside float32 without subtracting a maximum.
        of_ranks: the ``domains`` of each rank, in rank order, if known. Otherwise ranks exchange them, for which the
            host waits for the GPU.

    Raises:
        ValueError: a weight or temperature out of range, a batch without images, or shapes that do not match.
    """
    check_lambda1(lambda1)
    check_number("lambda2", lambda2, low=0)
    alignment, log_within, log_across, _ = _compared(z_a, z_b, domains, temperature, of_ranks)
    within, across = log_within.mean(), log_across.mean()
    total = alignment + lambda1 * within
    if lambda2 > 0:
        total = total + lambda2 * across
    return LossTerms(total, alignment.detach(), within.detach(), across.detach())


def weighted_nt_xent(
    z_a: torch.Tensor,
    z_b: torch.Tensor,
    domains: torch.Tensor,
    *,
    negative_weight: float,
    temperature: float,
    of_ranks: Sequence[torch.Tensor] | None = None,
) -> LossTerms:
    """Return NT-Xent in which negatives of other domains than the anchor's weigh w = ``negative_weight``.

        total = alignment + 1/2B Σ_rows log( Σ_{j≠i, d(j)=d(i)} S_ij + w Σ_{d(j)≠d(i)} S_ij )

    w = 1 is SimCLR's loss. w = 0 is the domain-wise loss of Lee et al., "DomCLP" (AAAI 2025), and MDSSL with λ1 = 1,
    λ2 = 0. Between them a negative counts the more, the more similar its domain is, as in Zhang et al., "Towards
    Unsupervised Domain Generalization" (CVPR 2022), which learns that similarity; here the labels of the domains tell.
    The code of DomCLP has S_ii in the first sum, too. It is left out here, as in SimCLR.

    Args:
        negative_weight: w, in [0, 1].
        z_a, z_b, domains, temperature, of_ranks: as for `mdssl_loss`, with the same precision and scale of gradients.

    Raises:
        ValueError: as `mdssl_loss`.
    """
    check_number("negative_weight", negative_weight, low=0, high=1)
    alignment, log_within, log_across, is_mixed = _compared(z_a, z_b, domains, temperature, of_ranks)
    log_all = log_within
    if is_mixed and negative_weight > 0:
        log_all = torch.logaddexp(log_within, log_across + math.log(negative_weight))
    total = alignment + log_all.mean()
    return LossTerms(total, alignment.detach(), log_within.detach().mean(), log_across.detach().mean())


def _compared(
    z_a: torch.Tensor,
    z_b: torch.Tensor,
    domains: torch.Tensor,
    temperature: float,
    of_ranks: Sequence[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """The alignment (eq. 2), the logarithms of the sums of eqs. 3 and 4 for each row of the global batch, sorted by
    domain, and whether it has several domains; with one, the logarithms of eq. 4 are 0."""
    check_number("temperature", temperature, low=0.02)
    given = {"z_a": z_a, "z_b": z_b, "domains": domains}
    if not all(isinstance(each, torch.Tensor) for each in given.values()):
        raise _unusable(given)
    if z_a.ndim != 2 or z_a.shape != z_b.shape or domains.shape != z_a.shape[:1] or domains.is_floating_point():
        raise _unusable(given)
    with torch.autocast(z_a.device.type, enabled=False):
        z = torch.stack((z_a, z_b), dim=1)
        z = F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1)
        if _world_size() > 1:
            of_ranks = _exchanged(domains, z.device) if of_ranks is None else of_ranks
            z, domains = _GatherRows.apply(z, [len(labels) for labels in of_ranks]), torch.cat(list(of_ranks))
        # Of the global batch: a rank may have no image.
        if not len(z):
            raise _unusable(given)
        alignment = -(z[:, 0] * z[:, 1]).sum(-1).mean() / temperature

        domains = domains.cpu()
        order = torch.argsort(domains, stable=True)
        sizes = tuple(2 * n for n in torch.unique(domains, return_counts=True)[1].tolist())
        rows = z[send(order.numpy(), z.device)].flatten(0, 1)
        log_within, log_across = _LogSums.apply(rows, sizes, temperature)
    return alignment, log_within, log_across, len(sizes) > 1


def _unusable(given: dict[str, Any]) -> InputError:
    listed = (
        f"{name} {each.dtype} {tuple(each.shape)}"
        if isinstance(each, torch.Tensor)
        else f"{name} {type(each).__name__}"
        for name, each in given.items()
    )
    return InputError(
        f"the loss got {', '.join(listed)}; it takes tensors (B, r), (B, r) and (B,) integers, with B at least 1."
    )


class _LogSums(torch.autograd.Function):
    """(rows,) log-sums of S over each row's own domain without itself, and over all other domains."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, sizes: tuple[int, ...], temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        within, across = z.new_zeros(len(z)), z.new_zeros(len(z))
        for rows, columns, same_domain in _tiles(sizes, _TILE_ROWS.get(z.device.type, 512)):
            similarity = _exp_similarity(z, rows, columns, temperature)
            sums = within if same_domain else across
            sums[rows] += similarity.sum(1)
            if rows != columns:
                sums[columns] += similarity.sum(0)
        if _world_size() > 1:
            dist.all_reduce(within)
            dist.all_reduce(across)
        ctx.save_for_backward(z, within, across)
        ctx.sizes, ctx.temperature = sizes, temperature
        # With λ2 = 0 the across sums have no gradient, and the backward pass skips their tiles.
        ctx.set_materialize_grads(False)
        return within.log(), across.log() if len(sizes) > 1 else torch.zeros_like(across)

    @staticmethod
    def backward(
        ctx: Any, grad_within: torch.Tensor | None, grad_across: torch.Tensor | None
    ) -> tuple[torch.Tensor, None, None]:
        z, within, across = ctx.saved_tensors
        weight_within = None if grad_within is None else grad_within / (within * ctx.temperature)
        weight_across = None if grad_across is None else grad_across / (across * ctx.temperature)
        grad = torch.zeros_like(z)
        for rows, columns, same_domain in _tiles(ctx.sizes, _TILE_ROWS.get(z.device.type, 512)):
            weight = weight_within if same_domain else weight_across
            if weight is None:
                continue
            similarity = _exp_similarity(z, rows, columns, ctx.temperature)
            similarity *= weight[rows, None] + weight[columns]
            grad[rows] += similarity @ z[columns]
            if rows != columns:
                grad[columns] += similarity.T @ z[rows]
        # The gather's backward sums over workers. That multiplies the alignment, which every worker computes whole, by
        # the number of workers, so the tiles, each computed by one worker, are multiplied here.
        return grad * _world_size(), None, None


def _exp_similarity(z: torch.Tensor, rows: slice, columns: slice, temperature: float) -> torch.Tensor:
    similarity = (z[rows] @ z[columns].T).div_(temperature).exp_()
    # Zeroed here, because subtracting exp(1/τ) from the sum afterwards would cancel the other terms.
    return similarity.fill_diagonal_(0) if rows == columns else similarity


def _tiles(sizes: tuple[int, ...], tile_rows: int) -> Iterator[tuple[slice, slice, bool]]:
    """Yield this worker's tiles on and above the diagonal: rows, columns, and whether both are of one domain."""
    chunks, start = [], 0
    for domain, size in enumerate(sizes):
        for first in range(start, start + size, tile_rows):
            chunks.append((slice(first, min(first + tile_rows, start + size)), domain))
        start += size
    pairs = [(i, j) for i in range(len(chunks)) for j in range(i, len(chunks))]
    for i, j in pairs[_rank() :: _world_size()]:
        (rows, row_domain), (columns, column_domain) = chunks[i], chunks[j]
        yield rows, columns, row_domain == column_domain


def _exchanged(domains: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    """Exchange labels on ``device``, and return the (b,) labels of each rank, in rank order, on the CPU."""
    counts = torch.zeros(_world_size(), dtype=torch.long, device=device)
    counts[_rank()] = len(domains)
    dist.all_reduce(counts)
    sizes: list[int] = counts.tolist()
    return list(_all_gather(domains.to(device), sizes).cpu().split(sizes))


class _GatherRows(torch.autograd.Function):
    """All-gather with a backward pass that sums over ranks, so that each row gets the gradient of all ranks' losses.

    Without the sum, rows would get no gradient as the negatives of other ranks' anchors.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.counts = counts
        return _all_gather(z, counts)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.split(ctx.counts)[_rank()], None


def _all_gather(x: torch.Tensor, counts: list[int]) -> torch.Tensor:
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: len(x)] = x
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _world_size() > 1 else 0
