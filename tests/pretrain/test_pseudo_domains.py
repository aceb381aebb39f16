"""Training on pseudo-domains: warm-up, records of clusterings, degenerate data, resumption."""

import logging
import time

import numpy as np
import pandas as pd
import pytest
import torch
from factories import Killed, clustered_trial, kill_at
from sklearn.metrics import normalized_mutual_info_score
from torchvision.transforms.v2 import functional as TF

from mdssl.config.run import RunSettings
from mdssl.data.mixture import Mixture
from mdssl.pretrain import pseudo_domains
from mdssl.pretrain.kmeans import Clusters, kmeans
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.pseudo_domains import (
    PseudoDomains,
    certainty,
    groups_of,
    keep,
    objective_of,
)
from mdssl.pretrain.stopping import StoppedError


def load(data, trial):
    return Mixture.load(data, trial.domains, batch_per_domain=trial.batch_per_domain, device="cpu")


def test_warmup_trains_simclr_on_the_union_before_clusters_are_used(tiny_data):
    trial = clustered_trial(num_clusters=2)
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
    trial = clustered_trial(method="mdssl-clustered", cluster_space="encoder")
    mixture, model = load(tiny_data, trial), build_model(trial)
    began = time.perf_counter()
    with caplog.at_level(logging.INFO):
        found, record = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    assert 0 < record["seconds"] <= time.perf_counter() - began
    assert record["purity"] > 0.5, "each of the three domains has its own tint, and 1/3 is chance level"
    counts = np.zeros((3, 3))
    np.add.at(counts, (found.labels, mixture.labels), 1)
    assert record["purity"] == pytest.approx(counts.max(axis=1).sum() / 192)
    assert record["nmi"] == pytest.approx(normalized_mutual_info_score(mixture.labels, found.labels))
    assert record["sizes"] == record["kept_sizes"] == counts.sum(axis=1).tolist()
    assert (record["kept_share"], record["churn"], record["epsilon"], record["topped_up"]) == (1, None, None, 0)
    assert "clustering 0 at step 2: sizes" in caplog.text and "empty" not in caplog.text
    assert model.training
    with caplog.at_level(logging.INFO):
        again, record = pseudo_domains.find(trial, model, mixture, found, number=1, step=5)
    assert f"churn {record['churn']:.1%}" in caplog.text
    assert record["churn"] == pytest.approx(float((again.labels != found.labels).float().mean()))
    assert record["churn"] < 0.1, "the same encoder gives the same cluster numbers"


@pytest.fixture
def two_rounds(tiny_data, monkeypatch):
    """Embeddings, a clustering, the next clustering, in which K-Means permutes the cluster numbers, and the settings of
    K-Means."""
    trial = clustered_trial(method="mdssl-clustered", cluster_space="encoder")
    mixture, model = load(tiny_data, trial), build_model(trial)
    other = torch.tensor([2, 0, 1])
    given = []

    def spied(*arguments, **settings):
        given.append(settings)
        found = kmeans(*arguments, **settings)
        if settings["init"] is None:
            return found
        return found._replace(labels=other[found.labels], centroids=found.centroids[other.argsort()])

    monkeypatch.setattr(pseudo_domains, "kmeans", spied)
    before, _ = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    after, _ = pseudo_domains.find(trial, model, mixture, before, number=1, step=5)
    return pseudo_domains.embed(trial, model, mixture), before, after, given


def test_clustering_starts_from_the_current_means_of_the_previous_clusters(two_rounds):
    z, before, _, (first, given) = two_rounds
    means = torch.stack([z[before.labels == number].mean(0) for number in range(3)])
    torch.testing.assert_close(given["init"], means)
    assert (first["starts"], given["starts"]) == (3, 1)
    # Every version draws these seeds. Otherwise a trial would not resume to the same encoder.
    assert (first["seed"], given["seed"]) == (1742692732, 597063951)


def test_centroids_have_the_numbers_of_their_clusters(two_rounds):
    z, before, after, _ = two_rounds
    assert (after.labels == before.labels).float().mean() > 0.9
    assert torch.equal(torch.cdist(z, after.centroids).argmin(1), after.labels)


def test_cyclic_permutation_of_cluster_numbers_is_undone(tiny_data, monkeypatch):
    trial = clustered_trial()
    mixture, labels = load(tiny_data, trial), torch.arange(192) % 3
    centroids = torch.eye(3, 128)
    before = PseudoDomains(0, labels, torch.ones(192, dtype=torch.bool), centroids)
    turned = Clusters((labels + 1) % 3, centroids.roll(1, dims=0), 1.0)
    monkeypatch.setattr(pseudo_domains, "kmeans", lambda *_, **__: turned)
    found, record = pseudo_domains.find(trial, build_model(trial), mixture, before, number=1, step=4)
    assert torch.equal(found.labels, labels) and torch.equal(found.centroids, centroids)
    assert record["churn"] == 0


def test_empty_clusters_do_not_change_the_certainty_of_images(tiny_data, monkeypatch, caplog):
    trial = clustered_trial(outlier_rule="farthest", epsilon=0.5, num_clusters=5)
    mixture, model = load(tiny_data, trial), build_model(trial)
    z = pseudo_domains.embed(trial, model, mixture)
    labels = (torch.arange(192) % 2).long()
    labels[100] = 2
    centroids = torch.stack([z[0], z[1], z[100], z[0] + 1e6, z[0] + 1e6])
    monkeypatch.setattr(pseudo_domains, "kmeans", lambda *_, **__: Clusters(labels, centroids, 1.0))
    found, record = pseudo_domains.find(trial, model, mixture, None, number=0, step=2)
    expected, _ = keep(certainty(z, centroids[:3], "farthest"), labels, 0.5, trial.batch_per_domain)
    assert torch.equal(found.kept, expected)
    assert 0 < record["kept_share"] < 1
    assert (len(record["kept_sizes"]), record["kept_sizes"][2:]) == (5, [1, 0, 0])
    assert "2 of 5 clusters are empty" in caplog.text


def test_embeddings_are_normalized_unless_the_settings_disable_it(tiny_data):
    trial = clustered_trial()
    mixture, model = load(tiny_data, trial), build_model(trial)
    z = pseudo_domains.embed(trial, model, mixture)
    assert z.shape == (192, 128)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(192))
    raw = pseudo_domains.embed(clustered_trial(cluster_space="encoder", cluster_normalized=False), model, mixture)
    assert raw.shape == (192, 512)
    assert raw.norm(dim=1).std() > 0


def test_embeddings_are_those_of_normalized_images_in_evaluation_mode(tiny_data, monkeypatch):
    trial = clustered_trial()
    mixture, model, gather = load(tiny_data, trial), build_model(trial), Mixture.gather
    images = torch.cat(mixture.images).permute(0, 3, 1, 2).float() / 255
    x = TF.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        z = model.eval()(x)
    expected = z / z.norm(dim=1, keepdim=True)
    gathered, told = [], []

    def watched(self, rows, then):
        gathered.append(rows.tolist())
        told.append(then().tolist())
        return gather(self, rows, then)

    monkeypatch.setattr(Mixture, "gather", watched)
    monkeypatch.setattr(pseudo_domains, "_EMBED_ROWS", 50)
    torch.testing.assert_close(pseudo_domains.embed(trial, model, mixture), expected, rtol=1e-4, atol=1e-5)
    rows = list(range(192))
    assert gathered == [rows[:50], rows[50:100], rows[100:150], rows[150:]]
    assert told == [*gathered[1:], []]


def test_request_to_stop_ends_a_clustering_before_its_first_images(tiny_data, monkeypatch):
    trial = clustered_trial()
    mixture, model = load(tiny_data, trial), build_model(trial)
    monkeypatch.setattr(Mixture, "gather", None)
    with pytest.raises(StoppedError):
        pseudo_domains.find(trial, model, mixture, None, number=0, step=2, stop_requested=lambda: True)
    assert model.training


@pytest.mark.parametrize(
    "changes",
    [{"num_clusters": 1}, {"num_clusters": 60}, {"epsilon": 1e6, "epsilon_final": 1e6}],
    ids=["one cluster", "most clusters empty or tiny", "everything an outlier"],
)
def test_training_continues_after_degenerate_clusterings(tiny_data, tmp_path, changes):
    trial = clustered_trial(iterations=6, batch_per_domain=4, **changes)
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
    trial, arguments = clustered_trial(iterations=7), {"data": tiny_data, "device": "cpu"}
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
