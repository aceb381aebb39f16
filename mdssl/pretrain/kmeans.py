"""K-Means from k-means++: scikit-learn's on the CPU, Lloyd's algorithm with all starts in one batch on a GPU."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

MAX_ITERATIONS = 300
TOLERANCE = 1e-4
"""Of the squared shift of the centroids, relative to the mean variance of the columns: scikit-learn's."""
_SAMPLE_ROWS = 20_000
"""Rows on which starts are tried: enough to tell which is best, and to leave little to do on all of them."""
_CHUNK_ROWS = 65_536


class Clusters(NamedTuple):
    """A clustering of (N, r) rows into K: ``labels`` (N,) int64, ``centroids`` (K, r), ``inertia`` the sum of squared
    distances to them. A cluster may be empty where there are fewer different rows than K."""

    labels: torch.Tensor
    centroids: torch.Tensor
    inertia: float


def kmeans(x: torch.Tensor, k: int, *, seed: int, starts: int = 3, init: torch.Tensor | None = None) -> Clusters:
    """K-Means from the best of ``starts`` k-means++ starts and, where given, ``init``.

    Which start is best, and where it leads, is found on a sample of the rows; from there it goes on over all of them.

    Args:
        x: (N, r) float32 rows; where they are decides who computes.
        k: clusters, at least 1.
        seed: of the k-means++ starts.
        init: (K, r) centroids to start from as well, such as those of the rows' clusters before.
    """
    k_possible = min(k, len(x))
    run = _lloyd if x.device.type == "cuda" else _scikit_learn
    rng = np.random.default_rng(seed)
    sample = x[torch.from_numpy(rng.permutation(len(x))[:_SAMPLE_ROWS]).to(x.device)]
    # As many threads as the trial has cores: with more, sums would run in an order that changes from run to run.
    with threadpool_limits(torch.get_num_threads()):
        firsts = _seeded(sample, k_possible, rng, starts) + ([] if init is None else [init[:k_possible].to(x)])
        found = run(x, run(sample, torch.stack(firsts)).centroids[None])
    if k_possible < k:
        nowhere = found.centroids.new_full((k - k_possible, x.shape[1]), float("nan"))
        found = found._replace(centroids=torch.cat([found.centroids, nowhere]))
    return found


def _seeded(x: torch.Tensor, k: int, rng: np.random.Generator, starts: int) -> list[torch.Tensor]:
    """(K, r) centroids of each start, by k-means++."""
    # Here, not above: every process of every trial imports this module, and few of them cluster.
    from sklearn.cluster import kmeans_plusplus

    rows, seeds = x.cpu().numpy(), [int(rng.integers(2**31)) for _ in range(starts)]
    return [torch.from_numpy(kmeans_plusplus(rows, k, random_state=seed)[0]).to(x) for seed in seeds]


def _scikit_learn(x: torch.Tensor, firsts: torch.Tensor) -> Clusters:
    """The best of scikit-learn's runs from each of the (S, K, r) centroids."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows, k = x.numpy(), firsts.shape[1]
    # Elkan's is Lloyd's without the distances that the triangle inequality tells: the same clusters in half the time.
    settings = {"n_init": 1, "max_iter": MAX_ITERATIONS, "tol": TOLERANCE, "algorithm": "elkan" if k > 1 else "lloyd"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters: some stay empty
        fits = [KMeans(k, init=first.numpy(), **settings).fit(rows) for first in firsts]
    best = min(fits, key=lambda fit: fit.inertia_)
    centroids = torch.from_numpy(best.cluster_centers_.astype(np.float32))
    return Clusters(torch.from_numpy(best.labels_.astype(np.int64)), centroids, float(best.inertia_))


def _lloyd(x: torch.Tensor, firsts: torch.Tensor) -> Clusters:
    """All starts at once: (S, K, r) centroids, and one pass over the rows for all of them."""
    centroids = firsts
    tolerance = TOLERANCE * x.var(0, correction=0).mean()
    for _ in range(MAX_ITERATIONS):
        sums, counts, _, farthest = _assign(x, centroids)
        moved = sums / counts.clamp(min=1)[..., None]
        # As scikit-learn: an empty cluster moves to the row that is worst off.
        moved = torch.where(counts[..., None] > 0, moved, x[farthest][:, None])
        shift = (moved - centroids).square().sum((1, 2))
        centroids = moved
        if bool((shift <= tolerance).all()):
            break
    _, _, inertia, _ = _assign(x, centroids)
    best = centroids[inertia.argmin()]
    labels = torch.cat([_squared_distances(rows, best[None])[0].argmin(-1) for rows in x.split(_CHUNK_ROWS)])
    return Clusters(labels, best, float(inertia.min()))


def _assign(x: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each start's sums (S, K, r) and counts (S, K) of the rows nearest to each centroid, the inertia (S,), and the row
    that is farthest from its own centroid (S,)."""
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(centroids.shape[:2])
    inertia, worst = centroids.new_zeros(len(centroids)), centroids.new_full((len(centroids),), -1.0)
    farthest = torch.zeros(len(centroids), dtype=torch.int64, device=x.device)
    for first, rows in zip(range(0, len(x), _CHUNK_ROWS), x.split(_CHUNK_ROWS), strict=True):
        nearest, labels = _squared_distances(rows, centroids).min(-1)
        # A matrix product, not index_add: on a GPU that adds in an order that changes from run to run.
        members = torch.nn.functional.one_hot(labels, centroids.shape[1]).to(x.dtype)
        sums += members.transpose(1, 2) @ rows
        counts += members.sum(1)
        inertia += nearest.sum(-1)
        distance, row = nearest.max(-1)
        farthest = torch.where(distance > worst, row + first, farthest)
        worst = torch.maximum(distance, worst)
    return sums, counts, inertia, farthest


def _squared_distances(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(S, n, K) from n rows to the K centroids of S starts."""
    products = rows @ centroids.transpose(1, 2)
    squares = rows.square().sum(-1)[:, None] + centroids.square().sum(-1)[:, None]
    return (squares - 2 * products).clamp_(min=0)
