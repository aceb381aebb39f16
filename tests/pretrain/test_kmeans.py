"""K-Means: a GPU's Lloyd, which runs on a CPU too, against scikit-learn's; and data that have no K clusters."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from mdssl.pretrain.kmeans import _lloyd, _scikit_learn, _seeded, kmeans

RUNS = {"scikit-learn": _scikit_learn, "lloyd": _lloyd}


def seeded(x, k, *, seed=0, starts=1):
    return torch.stack(_seeded(x, k, np.random.default_rng(seed), starts))


def blobs(count=3000, k=5, spread=1.0, seed=0):
    x, labels = make_blobs(count, n_features=8, centers=k, cluster_std=spread, random_state=seed)
    return torch.from_numpy(x).float(), labels


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_blobs_are_found(run):
    x, labels = blobs()
    found = run(x, seeded(x, 5, starts=5))
    assert adjusted_rand_score(labels, found.labels) > 0.99
    inertia = (x - found.centroids[found.labels]).square().sum()
    assert found.inertia == pytest.approx(float(inertia), rel=1e-3)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_all_go_where_lloyds_algorithm_goes_from_the_same_start(run):
    # Overlapping, so that where it ends depends on every step: in float64, lest rounding take another one.
    x = blobs(spread=6.0)[0].double()
    init = x[:5].clone()
    expected = KMeans(5, init=init.numpy(), n_init=1, algorithm="lloyd").fit(x.numpy())
    found = run(x, init[None])
    assert found.inertia == pytest.approx(expected.inertia_, rel=1e-5)
    assert (found.labels.numpy() == expected.labels_).mean() > 0.999
    expected_centroids = torch.from_numpy(expected.cluster_centers_)
    torch.testing.assert_close(found.centroids.double(), expected_centroids, rtol=1e-2, atol=1e-2)


def test_it_goes_on_from_the_centroids_that_it_is_given():
    # Rows without clusters, of which each start finds another division.
    x = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0))
    best = KMeans(30, n_init=50, random_state=0).fit(x.numpy())
    assert all(kmeans(x, 30, seed=seed, starts=1).inertia > 1.003 * best.inertia_ for seed in range(3))
    found = kmeans(x, 30, seed=0, starts=1, init=torch.from_numpy(best.cluster_centers_))
    assert found.inertia == pytest.approx(best.inertia_, rel=1e-4)
    torch.testing.assert_close(found.centroids, torch.from_numpy(best.cluster_centers_), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_best_start_is_kept(run):
    x, labels = blobs(k=8)
    good = torch.stack([x[labels == number].mean(0) for number in range(8)])
    bad = torch.cat([good[:1] + 0.01 * torch.arange(7)[:, None], good[-1:]])
    inertia = [run(x, first[None]).inertia for first in (good, bad)]
    assert inertia[0] < 0.9 * inertia[1], "the starts differ in where they lead"
    for order in ([0, 1], [1, 0]):
        assert run(x, torch.stack([good, bad])[order]).inertia == pytest.approx(inertia[0])


def test_lloyd_keeps_the_best_of_its_starts():
    x, _ = blobs(spread=6.0, k=8)
    alone = [_lloyd(x, x[None, first : first + 8]).inertia for first in (0, 8)]
    both = _lloyd(x, torch.cat([seeded(x, 8, starts=3), x[None, :8]])).inertia
    assert both <= alone[0] + 1e-3
    assert both <= KMeans(8, n_init=3, random_state=0).fit(x.numpy()).inertia_ * 1.02


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_fewer_different_rows_than_clusters_leave_some_empty(run):
    x = torch.eye(8)[torch.arange(30) % 3]
    found = run(x, seeded(x, 5, starts=2))
    assert found.inertia == pytest.approx(0, abs=1e-5)
    assert len(found.labels.unique()) == 3
    assert all(len(found.labels[row::3].unique()) == 1 for row in range(3))


def test_trying_starts_on_a_sample_finds_what_runs_on_all_rows_find():
    x, _ = blobs(count=60_000, k=12, spread=3.0)
    for seed in range(3):
        expected = KMeans(12, n_init=3, random_state=seed).fit(x.numpy()).inertia_
        assert kmeans(x, 12, seed=seed).inertia <= 1.02 * expected


def test_more_clusters_than_rows_leave_some_empty():
    found = kmeans(torch.eye(3), 5, seed=0, starts=1)
    assert found.centroids.shape == (5, 3)
    assert sorted(found.labels.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_one_cluster_is_the_mean(run):
    x, _ = blobs()
    found = run(x, seeded(x, 1))
    torch.testing.assert_close(found.centroids[0], x.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_seed_decides_and_the_same_seed_gives_the_same_bits(run):
    x, _ = blobs(spread=6.0, k=8)
    first, second = (run(x, seeded(x, 8, seed=3)) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centroids, second.centroids)


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds():
    if not torch.cuda.is_available():
        pytest.skip("no GPU; the same code runs on the CPU in the tests above")
    x, labels = blobs(count=100_000)
    found = kmeans(x.cuda(), 5, seed=0)
    assert adjusted_rand_score(labels, found.labels.cpu()) > 0.99
    assert found.inertia == pytest.approx(kmeans(x, 5, seed=0).inertia, rel=1e-3)
