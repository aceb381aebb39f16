"""K-Means: its results, its starts, and data with fewer than K clusters."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_info

from mdssl.pretrain import kmeans as module
from mdssl.pretrain.kmeans import fit_from, kmeans


def blobs(count=3000, k=5, spread=1.0, seed=0):
    x, labels = make_blobs(count, n_features=8, centers=k, cluster_std=spread, random_state=seed)
    return torch.from_numpy(x).float(), labels


def test_kmeans_finds_blobs():
    x, labels = blobs()
    found = kmeans(x, 5, seed=0, starts=5)
    assert adjusted_rand_score(labels, found.labels) > 0.99
    inertia = (x - found.centroids[found.labels]).square().sum()
    assert found.inertia == pytest.approx(float(inertia), rel=1e-3)
    assert (found.labels.dtype, found.centroids.dtype) == (torch.int64, torch.float32)


def test_fit_from_matches_lloyds_algorithm_from_the_same_start():
    # The blobs overlap, so the result depends on every step. In float64 rounding does not change a step.
    x = blobs(spread=6.0)[0].double().numpy()
    expected = KMeans(5, init=x[:5], n_init=1, algorithm="lloyd").fit(x)
    found = fit_from(x, [x[:5]])
    assert found.inertia == pytest.approx(expected.inertia_, rel=1e-5)
    assert (found.labels.numpy() == expected.labels_).mean() > 0.999
    np.testing.assert_allclose(found.centroids, expected.cluster_centers_, rtol=1e-2, atol=1e-2)


def test_kmeans_starts_from_given_centroids():
    # The rows have no clusters, so each start finds a different partition.
    x = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0))
    best = KMeans(30, n_init=50, random_state=0).fit(x.numpy())
    assert all(kmeans(x, 30, seed=seed, starts=1).inertia > 1.003 * best.inertia_ for seed in range(3))
    found = kmeans(x, 30, seed=0, starts=1, init=torch.from_numpy(best.cluster_centers_))
    assert found.inertia == pytest.approx(best.inertia_, rel=1e-4)
    torch.testing.assert_close(found.centroids, torch.from_numpy(best.cluster_centers_), rtol=1e-2, atol=1e-2)


def test_the_best_start_is_kept():
    x, labels = blobs(k=8)
    good = np.stack([x[labels == number].mean(0).numpy() for number in range(8)])
    bad = np.concatenate([good[:1] + 0.01 * np.arange(7, dtype=np.float32)[:, None], good[-1:]])
    inertia = [fit_from(x.numpy(), [first]).inertia for first in (good, bad)]
    assert inertia[0] < 0.9 * inertia[1], "the two starts lead to different results"
    for firsts in ([good, bad], [bad, good]):
        assert fit_from(x.numpy(), firsts).inertia == pytest.approx(inertia[0])


def test_more_starts_lower_the_inertia_and_the_default_is_three():
    x = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0))
    one, three, many = (kmeans(x, 30, seed=0, starts=starts).inertia for starts in (1, 3, 12))
    assert many < three < one
    assert kmeans(x, 30, seed=0).inertia == three


def test_fewer_distinct_rows_than_clusters_leave_some_clusters_empty():
    x = torch.eye(8)[torch.arange(30) % 3]
    found = kmeans(x, 5, seed=0, starts=2)
    assert found.inertia == pytest.approx(0, abs=1e-5)
    assert len(found.labels.unique()) == 3
    assert all(len(found.labels[row::3].unique()) == 1 for row in range(3))


def test_starts_on_a_sample_match_the_inertia_of_runs_on_all_rows():
    x, _ = blobs(count=60_000, k=12, spread=3.0)
    for seed in range(3):
        expected = KMeans(12, n_init=3, random_state=seed).fit(x.numpy()).inertia_
        assert kmeans(x, 12, seed=seed).inertia <= 1.02 * expected


def test_more_clusters_than_rows_leave_some_clusters_empty():
    found = kmeans(torch.eye(3), 5, seed=0, starts=1)
    assert found.centroids.shape == (5, 3)
    assert found.centroids.isnan().any(1).tolist() == [False] * 3 + [True] * 2
    assert sorted(found.labels.tolist()) == [0, 1, 2]


def test_centroid_of_a_single_cluster_is_the_mean():
    x, _ = blobs()
    torch.testing.assert_close(kmeans(x, 1, seed=0).centroids[0], x.mean(0), rtol=1e-4, atol=1e-4)


def test_equal_seeds_give_bitwise_equal_results_and_other_seeds_do_not():
    x, _ = blobs(spread=6.0, k=8)
    first, second, other = (kmeans(x, 8, seed=seed, starts=1) for seed in (3, 3, 4))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)


@pytest.mark.parametrize("threads", [1, 4])
def test_at_most_two_threads_add_up(monkeypatch, threads):
    """The sum of three or more partial sums depends on the order in which threads finish."""
    found = []

    def watched(*arguments):
        found.extend((pool["user_api"], pool["num_threads"]) for pool in threadpool_info())
        return fit_from(*arguments)

    monkeypatch.setattr(module, "fit_from", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kmeans(blobs()[0], 5, seed=0, starts=1)
    assert set(found) == {("openmp", min(2, threads)), ("blas", threads)}
