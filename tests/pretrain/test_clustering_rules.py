"""Rules of clustering: eq. 5 against loops, numbers of clusters, the schedule, and settings."""

import itertools

import numpy as np
import pytest
import torch
from factories import clustered_trial

from mdssl.pretrain.pseudo_domains import (
    certainty,
    epsilon_of,
    keep,
    means_of_clusters,
    renumber,
    round_due,
)


def points(k=4, count=50):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator), torch.randn(k, 3, generator=generator)


def test_the_farthest_rule_is_the_maximum_over_pairs_of_eq_5():
    z, centroids = points()
    expected = []
    for row in z:
        distances = [float((row - centroid).norm()) for centroid in centroids]
        expected.append(max(m / n for m, n in itertools.permutations(distances, 2)))
    np.testing.assert_allclose(certainty(z, centroids, "farthest"), expected, rtol=1e-5)


def test_the_runner_up_rule_divides_the_second_nearest_by_the_nearest():
    z, centroids = points()
    expected = []
    for row in z:
        nearest, second = sorted(float((row - centroid).norm()) for centroid in centroids)[:2]
        expected.append(second / nearest)
    np.testing.assert_allclose(certainty(z, centroids, "runner-up"), expected, rtol=1e-5)


def test_outlier_rules_agree_for_two_centroids_and_differ_for_more():
    z, centroids = points()
    assert torch.equal(certainty(z, centroids[:2], "farthest"), certainty(z, centroids[:2], "runner-up"))
    assert (certainty(z, centroids, "farthest") > certainty(z, centroids, "runner-up")).any()


def test_certainty_is_maximal_on_a_centroid_and_for_a_single_cluster():
    _, centroids = points()
    # For more than 25 rows, PyTorch's default would multiply matrices, with rounding errors near zero.
    assert (certainty(centroids.repeat(10, 1), centroids, "farthest") > 1e6).all()
    assert certainty(centroids, centroids[:1], "farthest").isinf().all()


def test_outliers_are_removed_but_each_cluster_keeps_its_most_certain_batch():
    sure = torch.tensor([3.0, 1.5, 2.5, 1.1, 1.4, 1.2, 1.3])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    kept, topped_up = keep(sure, labels, epsilon=1.0, batch_per_domain=2)
    assert kept.tolist() == [True, False, True, False, True, False, True]
    assert topped_up == 1


def test_image_at_the_threshold_of_eq_5_is_an_outlier():
    kept, _ = keep(torch.tensor([2.0, 3.0, 2.0]), torch.zeros(3, dtype=torch.int64), epsilon=1.0, batch_per_domain=1)
    assert kept.tolist() == [False, True, False]


def test_cluster_of_outliers_keeps_a_batch_or_all_its_images():
    sure = torch.tensor([1.3, 1.1, 1.2, 1.4])
    kept, topped_up = keep(sure, torch.tensor([0, 0, 0, 7]), epsilon=9.0, batch_per_domain=2)
    assert kept.tolist() == [True, False, True, True]
    assert topped_up == 2


def test_first_of_equally_certain_images_are_kept():
    kept, _ = keep(torch.ones(1000), torch.zeros(1000, dtype=torch.int64), epsilon=1.0, batch_per_domain=10)
    assert torch.equal(kept, torch.arange(1000) < 10)


def test_mean_of_an_empty_cluster_is_the_first_row():
    z, labels = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 0, 2])
    assert means_of_clusters(z, labels, 3).tolist() == [[2, 3], [1, 2], [5, 6]]


def test_epsilon_zero_keeps_images_with_certainty_above_one():
    kept, _ = keep(torch.tensor([1.0001, 2.0, 5.0]), torch.zeros(3, dtype=torch.int64), epsilon=0.0, batch_per_domain=1)
    assert kept.all()


def test_renumbering_maximizes_the_images_that_keep_their_number():
    rng = np.random.default_rng(0)
    for _ in range(20):
        before, labels = rng.integers(4, size=60), rng.integers(4, size=60)
        stays = [sum(np.array(p)[labels] == before) for p in itertools.permutations(range(4))]
        numbers = renumber(labels, before, 4)
        assert sorted(numbers) == [0, 1, 2, 3]
        assert sum(numbers[labels] == before) == max(stays)


def test_clusterings_follow_the_schedule():
    trial = clustered_trial(warmup_iterations=480, recluster_every=2400, iterations=48_000)
    due = {step: round_due(trial, step) for step in range(48_000)}
    assert [step for step, number in due.items() if number is not None] == list(range(480, 48_000, 2400))
    assert (due[480], due[2880], due[46_080]) == (0, 1, 19)
    assert all(round_due(clustered_trial(method="mdssl"), step) is None for step in range(12))
    assert round_due(clustered_trial(warmup_iterations=0), 0) == 0


def test_epsilon_decays_exponentially_to_its_final_value_at_the_last_clustering():
    trial = clustered_trial(warmup_iterations=480, recluster_every=2400, iterations=48_000)
    values = [epsilon_of(trial, number) for number in range(20)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0.01)
    ratios = np.divide(values[1:], values[:-1])
    np.testing.assert_allclose(ratios, ratios[0])
    assert epsilon_of(clustered_trial(recluster_every=100), 0) == 1
    assert epsilon_of(clustered_trial(recluster_every=5), 1) == pytest.approx(0.01), "the second round of two"
    assert epsilon_of(clustered_trial(epsilon=0.0, epsilon_final=0.0), 3) == 0


def test_trial_id_ignores_clustering_settings_that_the_method_does_not_use():
    assert (
        clustered_trial(method="mdssl").trial_id
        == clustered_trial(method="mdssl", recluster_every=7, epsilon=0.5).trial_id
    )
    clustered = clustered_trial(method="mdssl-clustered")
    assert clustered.trial_id == clustered_trial(method="mdssl-clustered", epsilon=0.5).trial_id
    assert clustered.trial_id != clustered_trial(method="mdssl-clustered", recluster_every=7).trial_id
    assert clustered_trial().trial_id != clustered_trial(epsilon=0.5).trial_id
    assert clustered_trial().trial_id != clustered_trial(outlier_rule="runner-up").trial_id
    assert (
        clustered_trial(num_clusters=2).trial_id == clustered_trial(num_clusters=2, outlier_rule="runner-up").trial_id
    )
    assert clustered_trial().num_clusters == 3
    assert clustered_trial(num_clusters=3).trial_id == clustered_trial().trial_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 0}, "num_clusters is 0; it must be at least 1"),
        ({"recluster_every": 0}, "recluster_every is 0"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon_final": 2.0}, "epsilon_final is 2.0; it must be from 0 to 1.0. It decays"),
        ({"outlier_rule": "farest"}, "Did you mean 'farthest'"),
        ({"cluster_space": "head"}, "allowed: projection, encoder"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        clustered_trial(**changes)
