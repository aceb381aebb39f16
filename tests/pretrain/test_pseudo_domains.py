"""Pseudo-domains: eq. 5 against loops, the schedule and records of clusterings, degenerate data, resumption."""

import itertools
import logging

import numpy as np
import pandas as pd
import pytest
import torch
from factories import Killed, kill_at, tiny_trial
from sklearn.metrics import normalized_mutual_info_score

from mdssl.config.run import RunSettings
from mdssl.data.mixture import Mixture
from mdssl.pretrain import pseudo_domains
from mdssl.pretrain.kmeans import Clusters, kmeans
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.pseudo_domains import (
    PseudoDomains,
    certainty,
    epsilon_of,
    groups_of,
    keep,
    objective_of,
    renumber,
    round_due,
)


def config(**changes):
    clustered = {"method": "mdssl-robust", "domains": ("tiny-a", "tiny-b", "tiny-c"), "iterations": 12}
    return tiny_trial(**clustered | {"warmup_iterations": 2, "recluster_every": 3} | changes)


def load(data, trial):
    return Mixture.load(data, trial.domains, batch_per_domain=trial.batch_per_domain, device="cpu")


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
    assert (certainty(centroids, centroids, "farthest") > 1e6).all()
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
    trial = config(warmup_iterations=480, recluster_every=2400, iterations=48_000)
    due = {step: round_due(trial, step) for step in range(48_000)}
    assert [step for step, number in due.items() if number is not None] == list(range(480, 48_000, 2400))
    assert (due[480], due[2880], due[46_080]) == (0, 1, 19)
    assert all(round_due(config(method="mdssl"), step) is None for step in range(12))
    assert round_due(config(warmup_iterations=0), 0) == 0


def test_epsilon_decays_exponentially_to_its_final_value_at_the_last_clustering():
    trial = config(warmup_iterations=480, recluster_every=2400, iterations=48_000)
    values = [epsilon_of(trial, number) for number in range(20)]
    assert values[0] == 1
    assert values[-1] == pytest.approx(0.01)
    ratios = np.divide(values[1:], values[:-1])
    np.testing.assert_allclose(ratios, ratios[0])
    assert epsilon_of(config(recluster_every=100), 0) == 1
    assert epsilon_of(config(epsilon=0.0, epsilon_final=0.0), 3) == 0


def test_warmup_trains_simclr_on_the_union_before_clusters_are_used(tiny_data):
    trial = config(num_clusters=2)
    mixture = load(tiny_data, trial)
    (union,) = groups_of(trial, mixture, None)
    assert (len(union.rows), union.batch) == (3 * 64, 2 * 8)
    warm = objective_of(trial, None)
    assert (warm.method, warm.lambda1, warm.lambda2) == ("simclr", 1, 0)
    labels = torch.tensor([0] * 5 + [1] * 187)
    kept = torch.arange(192) != 0
    clusters = PseudoDomains(0, labels, kept, torch.zeros(2, 4))
    small, large = groups_of(trial, mixture, clusters)
    assert (small.rows.tolist(), small.batch) == ([1, 2, 3, 4], 4)
    assert (len(large.rows), large.batch) == (187, 8)
    assert objective_of(trial, clusters) is trial


def test_clustering_finds_distinct_domains_and_records_its_statistics(tiny_data, caplog):
    trial = config(method="mdssl-clustered", cluster_space="encoder")
    mixture, model = load(tiny_data, trial), build_model(trial)
    with caplog.at_level(logging.INFO):
        found, record = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    assert record["purity"] > 0.5, "each of the three domains has its own tint, and 1/3 is chance level"
    counts = np.zeros((3, 3))
    np.add.at(counts, (found.labels, mixture.labels), 1)
    assert record["purity"] == pytest.approx(counts.max(axis=1).sum() / 192)
    assert record["nmi"] == pytest.approx(normalized_mutual_info_score(mixture.labels, found.labels))
    assert record["sizes"] == record["kept_sizes"] == counts.sum(axis=1).tolist()
    assert (record["kept_share"], record["churn"], record["epsilon"], record["topped_up"]) == (1, None, None, 0)
    assert "clustering 0 at step 2: sizes" in caplog.text
    assert model.training
    again, record = pseudo_domains.find(trial, model, mixture, found, number=1, step=5)
    assert record["churn"] == pytest.approx(float((again.labels != found.labels).float().mean()))
    assert record["churn"] < 0.1, "the same encoder gives the same cluster numbers"


@pytest.fixture
def two_rounds(tiny_data, monkeypatch):
    """Embeddings, a clustering, the next clustering, in which K-Means permutes the cluster numbers, and the settings of
    K-Means."""
    trial = config(method="mdssl-clustered", cluster_space="encoder")
    mixture, model = load(tiny_data, trial), build_model(trial)
    before, _ = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    other = torch.tensor([2, 0, 1])
    given = []

    def spied(*arguments, **settings):
        given.append(settings)
        found = kmeans(*arguments, **settings)
        return found._replace(labels=other[found.labels], centroids=found.centroids[other.argsort()])

    monkeypatch.setattr(pseudo_domains, "kmeans", spied)
    after, _ = pseudo_domains.find(trial, model, mixture, before, number=1, step=5)
    return pseudo_domains.embed(trial, model, mixture), before, after, given


def test_clustering_starts_from_the_current_means_of_the_previous_clusters(two_rounds):
    z, before, _, (given,) = two_rounds
    means = torch.stack([z[before.labels == number].mean(0) for number in range(3)])
    torch.testing.assert_close(given["init"], means)
    assert given["starts"] == 1


def test_centroids_have_the_numbers_of_their_clusters(two_rounds):
    z, before, after, _ = two_rounds
    assert (after.labels == before.labels).float().mean() > 0.9
    assert torch.equal(torch.cdist(z, after.centroids).argmin(1), after.labels)


def test_cyclic_permutation_of_cluster_numbers_is_undone(tiny_data, monkeypatch):
    trial = config()
    mixture, labels = load(tiny_data, trial), torch.arange(192) % 3
    centroids = torch.eye(3, 128)
    before = PseudoDomains(0, labels, torch.ones(192, dtype=torch.bool), centroids)
    turned = Clusters((labels + 1) % 3, centroids.roll(1, dims=0), 1.0)
    monkeypatch.setattr(pseudo_domains, "kmeans", lambda *_, **__: turned)
    found, record = pseudo_domains.find(trial, build_model(trial), mixture, before, number=1, step=4)
    assert torch.equal(found.labels, labels) and torch.equal(found.centroids, centroids)
    assert record["churn"] == 0


def test_empty_cluster_does_not_change_the_certainty_of_images(tiny_data, monkeypatch):
    trial = config(outlier_rule="farthest", epsilon=0.5)
    mixture, model = load(tiny_data, trial), build_model(trial)
    z = pseudo_domains.embed(trial, model, mixture)
    labels = (torch.arange(192) % 2).long()
    centroids = torch.stack([z[0], z[1], z[0] + 1e6])
    monkeypatch.setattr(pseudo_domains, "kmeans", lambda *_, **__: Clusters(labels, centroids, 1.0))
    found, record = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    expected, _ = keep(certainty(z, centroids[:2], "farthest"), labels, 0.5, trial.batch_per_domain)
    assert torch.equal(found.kept, expected)
    assert 0 < record["kept_share"] < 1


def test_embeddings_are_normalized_unless_the_settings_disable_it(tiny_data):
    trial = config()
    mixture, model = load(tiny_data, trial), build_model(trial)
    z = pseudo_domains.embed(trial, model, mixture)
    assert z.shape == (192, 128)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(192))
    raw = pseudo_domains.embed(config(cluster_space="encoder", cluster_normalized=False), model, mixture)
    assert raw.shape == (192, 512)
    assert raw.norm(dim=1).std() > 0


@pytest.mark.parametrize(
    "changes",
    [{"num_clusters": 1}, {"num_clusters": 60}, {"epsilon": 1e6, "epsilon_final": 1e6}],
    ids=["one cluster", "most clusters empty or tiny", "everything an outlier"],
)
def test_training_continues_after_degenerate_clusterings(tiny_data, tmp_path, changes):
    trial = config(iterations=6, batch_per_domain=4, **changes)
    ended = train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")
    rounds = pd.read_parquet(tmp_path / "clusters.parquet")
    assert ended["status"] == "finished"
    assert list(rounds["step"]) == [2, 5]
    if trial.num_clusters == 1:
        assert (rounds["kept_share"] == 1).all()
        np.testing.assert_allclose(rounds["purity"], 1 / 3)
    if trial.num_clusters == 60:
        assert ended["views_seen"] < 2 * 4 * 60 * 6
    if trial.epsilon == 1e6:
        assert [list(sizes) for sizes in rounds["kept_sizes"]] == [[4, 4, 4]] * 2
        assert list(rounds["topped_up"]) == [3, 3]


def test_empty_cluster_forms_no_group(tiny_data, tmp_path, caplog):
    identical = PseudoDomains(0, torch.tensor([0, 0, 2]), torch.ones(3, dtype=torch.bool), torch.zeros(3, 2))
    assert [group.name for group in identical.groups(2)] == ["cluster 0", "cluster 2"]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, id="right before a round"),
        pytest.param(4, id="between two rounds", marks=pytest.mark.long),
        pytest.param(1, id="before the first", marks=pytest.mark.long),
    ],
)
def test_killed_run_resumes_to_the_same_result(tiny_data, tmp_path, step):
    # Images are clustered after steps 2 and 5.
    trial, arguments = config(iterations=7), {"data": tiny_data, "device": "cpu"}
    every_step = RunSettings(report_every=1, checkpoint_seconds=0)
    train(trial, trial_dir=tmp_path / "straight", settings=RunSettings(report_every=1), **arguments)
    with pytest.raises(Killed):
        train(trial, trial_dir=tmp_path / "killed", settings=every_step, report=kill_at(step + 1), **arguments)
    train(trial, trial_dir=tmp_path / "killed", settings=RunSettings(report_every=1), **arguments)
    for name, changing in (("metrics", "views_per_second"), ("clusters", "seconds")):
        first, second = (
            pd.read_parquet(tmp_path / folder / f"{name}.parquet").drop(columns=changing)
            for folder in ("straight", "killed")
        )
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    encoders = [(tmp_path / folder / "encoder.safetensors").read_bytes() for folder in ("straight", "killed")]
    assert encoders[0] == encoders[1]


def test_trial_id_ignores_clustering_settings_that_the_method_does_not_use():
    assert config(method="mdssl").trial_id == config(method="mdssl", recluster_every=7, epsilon=0.5).trial_id
    clustered = config(method="mdssl-clustered")
    assert clustered.trial_id == config(method="mdssl-clustered", epsilon=0.5).trial_id
    assert clustered.trial_id != config(method="mdssl-clustered", recluster_every=7).trial_id
    assert config().trial_id != config(epsilon=0.5).trial_id
    assert config().trial_id != config(outlier_rule="runner-up").trial_id
    assert config(num_clusters=2).trial_id == config(num_clusters=2, outlier_rule="runner-up").trial_id
    assert config().num_clusters == 3
    assert config(num_clusters=3).trial_id == config().trial_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 0}, "num_clusters is 0; it must be at least 1"),
        ({"recluster_every": 0}, "recluster_every is 0"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon_final": 2.0}, "epsilon_final is 2.0; it must be from 0 to 1.0"),
        ({"outlier_rule": "farest"}, "Did you mean 'farthest'"),
        ({"cluster_space": "head"}, "allowed: projection, encoder"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)
