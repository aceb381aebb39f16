"""Pseudo-domains: clusters of the representations, for training without domain labels (section 4 of the paper).

After a warm-up by SimCLR on the union, K-Means clusters the embeddings of the whole training set on a schedule. The
robust variant leaves out ambiguous images until the next clustering (eq. 5).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import Group, Mixture
from mdssl.pretrain.augment import normalize
from mdssl.pretrain.kmeans import kmeans
from mdssl.pretrain.model import Model
from mdssl.pretrain.stopping import Agreement, StoppedError, rank_and_workers

log = logging.getLogger(__name__)

_EMBED_ROWS = 1024


@dataclass(frozen=True)
class PseudoDomains:
    """The result of one clustering.

    Attributes:
        round: number of the clustering, from 0.
        labels: (N,) int64, the cluster of each image of the mixture.
        kept: (N,) bool, False for outliers.
        centroids: (K, r) float32; meaningless for an empty cluster.
    """

    round: int
    labels: torch.Tensor
    kept: torch.Tensor
    centroids: torch.Tensor

    def groups(self, batch_per_domain: int) -> tuple[Group, ...]:
        """Return the clusters that have images, with their batch sizes: a small cluster gives all its images."""
        members = [torch.nonzero((self.labels == k) & self.kept)[:, 0].numpy() for k in range(len(self.centroids))]
        return tuple(
            Group(f"cluster {k}", rows, min(batch_per_domain, len(rows))) for k, rows in enumerate(members) if len(rows)
        )


def round_due(config: TrialConfig, step: int) -> int | None:
    """Return the number of the clustering that is due before step ``step``, or None."""
    if not METHODS[config.method].finds_domains or step < config.warmup_iterations:
        return None
    number, rest = divmod(step - config.warmup_iterations, config.recluster_every)
    return number if rest == 0 else None


def epsilon_of(config: TrialConfig, number: int) -> float:
    """ε of eq. 5 at clustering ``number``: decays exponentially from ``epsilon`` at the first to ``epsilon_final`` at
    the last clustering."""
    rounds = -(-(config.iterations - config.warmup_iterations) // config.recluster_every)
    share = number / (rounds - 1) if rounds > 1 else 0.0
    return config.epsilon * (config.epsilon_final / config.epsilon) ** share if config.epsilon > 0 else 0.0


def find(
    config: TrialConfig,
    model: Model,
    mixture: Mixture,
    before: PseudoDomains | None,
    *,
    number: int,
    step: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[PseudoDomains, dict[str, Any]]:
    """Cluster the training set. Every rank calls this and gets the same result.

    Args:
        model: not wrapped.
        before: the last clustering; the new clusters keep its numbers where they match.
        number: of this clustering.
        step: steps done, for the record.
        stop_requested: whether this worker has been asked to stop.

    Returns:
        The pseudo-domains, and the row of ``clusters.parquet``: ``round``, ``step``, ``epsilon`` (null without
        outliers), ``sizes`` and ``kept_sizes`` by cluster, ``kept_share`` of all images, ``churn`` (share of images
        that changed their cluster; null in the first round), ``topped_up`` (clusters that eq. 5 would have left with
        less than a batch), ``purity`` and ``nmi`` (normalized mutual information) against the true domains,
        ``inertia``, and ``seconds``.

    Raises:
        StoppedError: on all ranks, soon after ``stop_requested`` returned true on one; the model is as before.
    """
    began = time.perf_counter()
    rank, workers = rank_and_workers()
    agreement = Agreement(stop_requested, next(model.parameters()).device)
    z = embed(config, model, mixture, agreement).cpu()
    cluster = partial(_cluster, config, z, before, mixture.labels, number, step) if rank == 0 else None
    found: list[Any] = list(agreement.unless_stopped(cluster) or (None, None))
    if workers > 1:
        dist.broadcast_object_list(found, src=0)
    pseudo_domains, record = found
    record["seconds"] = time.perf_counter() - began
    if rank == 0:
        _log(record)
    return pseudo_domains, record


@torch.no_grad()
def embed(config: TrialConfig, model: Model, mixture: Mixture, agreement: Agreement | None = None) -> torch.Tensor:
    """(N, r) float32 embeddings of all training images, unaugmented, in evaluation mode.

    Each worker encodes a share, and all workers get all embeddings.
    """
    rank, workers = rank_and_workers()
    count = int(mixture.offsets[-1])
    per_worker = -(-count // workers)
    # Padded by wrapping around, because all_gather needs shares of equal size.
    share = np.arange(rank * per_worker, (rank + 1) * per_worker) % count
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for number, first in enumerate(range(0, per_worker, _EMBED_ROWS)):
        if agreement and agreement.stop_after(number):
            model.train()
            raise StoppedError("stopped on request")
        rows, later = (slice(start, start + _EMBED_ROWS) for start in (first, first + _EMBED_ROWS))
        images = mixture.gather(share[rows], then=partial(share.__getitem__, later)).to(device)
        views = normalize(images.permute(0, 3, 1, 2).float() / 255)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            z = model.encoder(views)
            z = model.projection(z) if config.cluster_space == "projection" else z
        parts.append(F.normalize(z.float(), dim=1) if config.cluster_normalized else z.float())
    model.train()
    z = torch.cat(parts)
    if workers > 1:
        shares = [torch.empty_like(z) for _ in range(workers)]
        dist.all_gather(shares, z)
        z = torch.cat(shares)
    return z[:count]


def certainty(z: torch.Tensor, centroids: torch.Tensor, rule: str) -> torch.Tensor:
    """(N,) the ratio of eq. 5 for each row of ``z``, at least 1; infinite with one centroid.

    By the printed formula, the maximum over pairs of centroids, it is the ``farthest`` distance over the nearest; by
    the paper's prose ("almost equidistant from at least two centroids") the ``runner-up`` over the nearest.
    """
    if len(centroids) == 1:
        return z.new_full((len(z),), float("inf"))
    # A matrix product would be inexact for rows near a centroid, which are the most certain ones.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(z, centroids, compute_mode=exact).sort(dim=1).values
    other = distances[:, -1] if rule == "farthest" else distances[:, 1]
    return other / distances[:, 0].clamp(min=torch.finfo(z.dtype).tiny)


def keep(sure: torch.Tensor, labels: torch.Tensor, epsilon: float, batch_per_domain: int) -> tuple[torch.Tensor, int]:
    """(N,) bool: the images that eq. 5 keeps, ``sure > 1 + ε``; and how many clusters were topped up.

    A cluster that would be left with less than a batch keeps its most certain images up to a batch, so that no domain
    is empty.
    """
    kept = sure > 1 + epsilon
    topped_up = 0
    for cluster in labels.unique():
        members = torch.nonzero(labels == cluster)[:, 0]
        floor = min(batch_per_domain, len(members))
        if int(kept[members].sum()) < floor:
            most_certain = sure[members].argsort(descending=True, stable=True)[:floor]
            kept[members[most_certain]] = True
            topped_up += 1
    return kept, topped_up


def renumber(labels: np.ndarray, before: np.ndarray, k: int) -> np.ndarray:
    """(K,) a new number for each cluster of ``labels``, so that most images keep theirs (Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment

    overlap = np.zeros((k, k))
    np.add.at(overlap, (labels, before), 1)
    _, numbers = linear_sum_assignment(overlap, maximize=True)
    return numbers


def _cluster(
    config: TrialConfig, z: torch.Tensor, before: PseudoDomains | None, domains: np.ndarray, number: int, step: int
) -> tuple[PseudoDomains, dict[str, Any]]:
    from sklearn.metrics import normalized_mutual_info_score

    k = config.num_clusters
    assert k is not None
    # Start from the means of the last clusters under the present encoder.
    init = None if before is None else means_of_clusters(z, before.labels, k)
    seed = int(np.random.default_rng([3, config.seed, number]).integers(2**31))
    labels, centroids, inertia = kmeans(z, k, seed=seed, starts=3 if before is None else 1, init=init)
    churn = None
    if before is not None:
        numbers = torch.from_numpy(renumber(labels.numpy(), before.labels.numpy(), k))
        labels, centroids = numbers[labels], centroids[numbers.argsort()]
        churn = float((labels != before.labels).float().mean())
    sizes = torch.bincount(labels, minlength=k)
    kept, epsilon, topped_up = torch.ones(len(labels), dtype=torch.bool), None, 0
    if METHODS[config.method].rejects_outliers:
        epsilon = epsilon_of(config, number)
        sure = certainty(z, centroids[sizes > 0], config.outlier_rule)
        kept, topped_up = keep(sure, labels, epsilon, config.batch_per_domain)
    overlap = np.zeros((k, domains.max() + 1))
    np.add.at(overlap, (labels.numpy(), domains), 1)
    record = {
        "round": number,
        "step": step,
        "epsilon": epsilon,
        "sizes": sizes.tolist(),
        "kept_sizes": torch.bincount(labels[kept], minlength=k).tolist(),
        "kept_share": float(kept.float().mean()),
        "churn": churn,
        "topped_up": topped_up,
        "purity": float(overlap.max(axis=1).sum() / len(domains)),
        "nmi": float(normalized_mutual_info_score(domains, labels.numpy())),
        "inertia": inertia,
    }
    return PseudoDomains(number, labels, kept, centroids), record


def means_of_clusters(z: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """(K, r) mean row of each cluster; for an empty cluster the first row, from which K-Means may move it."""
    members = F.one_hot(labels, k).to(z.dtype)
    counts = members.sum(0)[:, None]
    return torch.where(counts > 0, (members.T @ z) / counts.clamp(min=1), z[:1])


def _log(record: dict[str, Any]) -> None:
    sizes = " ".join(f"{size:,}" for size in record["sizes"])
    parts = [f"purity {record['purity']:.2f}", f"NMI {record['nmi']:.2f}"]
    if record["churn"] is not None:
        parts.append(f"churn {record['churn']:.1%}")
    if record["epsilon"] is not None:
        parts.append(f"ε {record['epsilon']:.3g}, kept {record['kept_share']:.1%}")
    log.info("clustering %d at step %d: sizes %s, %s", record["round"], record["step"], sizes, ", ".join(parts))
    if record["topped_up"]:
        message = "ε %.3g leaves less than a batch of %d cluster(s); the images with the clearest cluster are kept"
        log.warning(message, record["epsilon"], record["topped_up"])
    if empty := record["sizes"].count(0):
        log.warning("%d of %d clusters are empty until the next clustering", empty, len(record["sizes"]))


def groups_of(config: TrialConfig, mixture: Mixture, clusters: PseudoDomains | None) -> tuple[Group, ...]:
    """Return the groups of a step: the domains, the clusters, or, before the first clustering, the whole union."""
    method = METHODS[config.method]
    if not method.finds_domains and config.sampling == "balanced":
        return mixture.domains
    if not method.finds_domains:
        return mixture.in_proportion() if method.tells_domains_apart else (mixture.union(mixture.batch),)
    if clusters is None:
        assert config.num_clusters is not None
        return (mixture.union(config.num_clusters * config.batch_per_domain),)
    return clusters.groups(config.batch_per_domain)


def objective_of(config: TrialConfig, clusters: PseudoDomains | None) -> TrialConfig:
    """Return the config that defines the loss of a step: SimCLR's before the first clustering of a clustered method."""
    if METHODS[config.method].finds_domains and clusters is None:
        return replace(config, method="simclr", lambda1=1.0, lambda2=0.0)
    return config
