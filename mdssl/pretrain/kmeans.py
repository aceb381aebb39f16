"""K-Means by scikit-learn, with all starts compared on a sample of the rows."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

_SAMPLE_ROWS = 20_000
"""Enough rows to find the best start, from which few iterations over all rows remain."""


class Clusters(NamedTuple):
    """K clusters of (N, r) rows. A cluster may be empty if there are fewer different rows than K.

    Attributes:
        labels: (N,) int64.
        centroids: (K, r) float32; NaN for clusters beyond the number of rows.
        inertia: sum of squared distances of the rows to their centroids.
    """

    labels: torch.Tensor
    centroids: torch.Tensor
    inertia: float


def kmeans(x: torch.Tensor, k: int, *, seed: int, starts: int = 3, init: torch.Tensor | None = None) -> Clusters:
    """K-Means from the best of ``starts`` k-means++ starts and, if given, from ``init``.

    Args:
        x: (N, r) float32 rows on the CPU.
        k: clusters, at least 1.
        seed: of the k-means++ starts.
        init: (K, r) centroids to start from as well.
    """
    # Imported here because every trial imports this module, and few of them cluster.
    from sklearn.cluster import kmeans_plusplus

    rows, k_possible = x.numpy(), min(k, len(x))
    rng = np.random.default_rng(seed)
    sample = rows[rng.permutation(len(rows))[:_SAMPLE_ROWS]]
    # Elkan's algorithm adds the partial sums of threads in the order in which they finish. The sum of two is the same
    # in either order; that of three or more changes from run to run.
    threads = torch.get_num_threads()
    with threadpool_limits({"openmp": min(2, threads), "blas": threads}):
        seeds = [int(rng.integers(2**31)) for _ in range(starts)]
        firsts = [kmeans_plusplus(sample, k_possible, random_state=start)[0] for start in seeds]
        firsts += [] if init is None else [init[:k_possible].numpy()]
        found = fit_from(rows, [fit_from(sample, firsts).centroids.numpy()])
    missing = found.centroids.new_full((k - k_possible, x.shape[1]), float("nan"))
    return found._replace(centroids=torch.cat([found.centroids, missing]))


def fit_from(rows: np.ndarray, firsts: list[np.ndarray]) -> Clusters:
    """Return the best of the clusterings that start from each of the (K, r) centroids ``firsts``."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    k = len(firsts[0])
    # Elkan's algorithm finds the same clusters as Lloyd's in half the time; it needs two clusters.
    algorithm = "elkan" if k > 1 else "lloyd"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        fits = [KMeans(k, init=first, algorithm=algorithm).fit(rows) for first in firsts]
    best = min(fits, key=lambda fit: fit.inertia_)
    centroids = torch.from_numpy(best.cluster_centers_.astype(np.float32))
    return Clusters(torch.from_numpy(best.labels_.astype(np.int64)), centroids, float(best.inertia_))
