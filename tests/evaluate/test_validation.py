"""Validation scores use held-out training images, the same for all models, and do not depend on test images."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import VALIDATION_FIT, VALIDATION_SCORED
from mdssl.data.dataset import open_dataset
from mdssl.errors import InputError
from mdssl.evaluate import validation
from mdssl.evaluate.classifier import Parts
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.validation import Validation, check_validatable, held_out, validation_knn

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6


def labelled(labels, fingerprint="x", classes=None):
    """A dataset with only the labels and the fingerprint of a train split."""
    train = SimpleNamespace(labels=np.asarray(labels), fingerprint=fingerprint)
    names = tuple(map(str, range(int(np.max(labels)) + 1))) if classes is None else classes
    return SimpleNamespace(name="mine", classes=names, split={"train": train}.__getitem__)


def test_held_out_images_are_a_stratified_fifth_of_the_training_images():
    # Classes of 2,000, 500, 60, three, two and one images.
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [2000, 500, 60, 3, 2, 1]))
    fit, held = held_out(labelled(labels))
    assert sorted([*fit, *held]) == list(range(len(labels)))
    assert len(held) == len(labels) // 5
    shares = np.bincount(labels[held], minlength=6) / np.bincount(labels)
    assert np.allclose(shares[:3], 0.2, atol=0.02)
    assert np.bincount(labels[held], minlength=6)[3:].tolist() == [1, 1, 0]
    # The first images of the fit, which vote in kNN, are stratified too: each class is among them.
    voting = np.bincount(labels[fit[:200]], minlength=6)
    assert voting.min() >= 1
    assert np.allclose(voting[:3] / 200, np.bincount(labels)[:3] / len(labels), atol=0.03)


def test_held_out_images_are_capped_and_depend_only_on_the_dataset():
    labels = np.arange(20_000) % 10
    fit, held = held_out(labelled(labels))
    assert (len(held), len(fit)) == (1000, 19_000)
    assert np.bincount(labels[held]).tolist() == [100] * 10
    torch.manual_seed(1)
    np.random.seed(1)
    again = held_out(labelled(labels))
    assert np.array_equal(fit, again[0])
    assert np.array_equal(held, again[1])
    assert not np.array_equal(held, held_out(labelled(labels, "other images"))[1])


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [
        (np.arange(49) % 2, None, "49 labelled training images"),
        (np.zeros(100, int), None, "1 classes with two or more"),
        (np.append(np.zeros(100, int), 1), None, "1 classes with two or more"),
        (np.arange(100) % 2, (), "0 labelled training images"),
    ],
)
def test_a_dataset_with_too_few_labels_for_validation_is_refused(labels, classes, says):
    with pytest.raises(
        InputError, match=f"'mine' has .*{says}.*--evaluate; a search, a scheduler and --score-every need"
    ):
        check_validatable(labelled(labels, classes=classes))


def test_fifty_images_of_two_classes_are_enough():
    check_validatable(labelled(np.repeat([0, 1], [48, 2])))


def test_the_score_matches_the_ridge_classifier_of_scikit_learn(tiny_data, tiny_model, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_FIT", 40)
    score = Validation(tiny_data, ["tiny-a", "tiny-b"], device="cpu")(tiny_model)
    assert list(score) == ["tiny-a", "tiny-b"]
    dataset = open_dataset(tiny_data, "tiny-b")
    train, (fit, held) = dataset.split("train"), held_out(dataset)
    x = extract_features(tiny_model, train.images)["encoder"].double().numpy()
    # The penalty of RidgeClassifier applies to the sum over the images.
    peer = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.1 * 40))
    peer.fit(x[fit[:40]], train.labels[fit[:40]])
    assert score["tiny-b"] == pytest.approx(100 * peer.score(x[held], train.labels[held]))
    assert 0 < score["tiny-b"] < 100
    assert len(held) == 12


def test_scoring_changes_neither_the_model_nor_its_modes_nor_random_states(tiny_data, tiny_model, passes):
    tiny_model.input_size = 12
    tiny_model.train()
    tiny_model.projection.eval()
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    Validation(tiny_data, ["tiny-a"], device="cpu:0")(tiny_model)
    assert passes == {("cpu:0", 12)}
    assert (tiny_model.encoder.training, tiny_model.projection.training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


@pytest.mark.parametrize("k", [3, 50])
def test_only_the_first_images_to_fit_on_vote_in_knn(digits, monkeypatch, k):
    monkeypatch.setattr(validation, "VALIDATION_FIT", 40)
    few = Parts(*(part[:40] for part in digits[:2]), *digits[2:], 10)
    assert validation_knn(Parts(*digits, 10), k) == knn_top1(few, k=min(k, 40))


def test_validation_fingerprints_match_those_of_leaderboard_rows(tiny_data):
    from mdssl.sweep.grid import evaluation_fingerprint

    found = Validation(tiny_data, ["tiny-a"], device="cpu").fingerprints
    assert found == {"tiny-a": evaluation_fingerprint(tiny_data, "tiny-a")}


@pytest.mark.parametrize("probe", ["lbfgs", "sgd", "sgd-raw"])
def test_test_images_and_labels_do_not_change_validation_scores(tiny_model, make_dataset, probe):
    config = ProbeConfig(probe=probe, probe_epochs=None if probe == "lbfgs" else 5)
    scores = []
    for test in (TEST, TEST[::-1], (TEST + 1) % 6):
        dataset = make_dataset(TRAIN, test, 6, test_tint=TEST)
        scores += evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=config)
    assert len({score["top1"] for score in scores}) > 1
    assert len({(score["val_top1"], score["val_knn_top1"]) for score in scores}) == 1
    # Six noisy colors: scores are far above chance.
    assert min(scores[0]["val_top1"], scores[0]["val_knn_top1"]) > 40


def test_held_out_labels_do_not_affect_the_fit_of_a_validation_score(tiny_model, make_dataset):
    """If only the held-out labels are wrong, almost no held-out prediction is right: the fit is unchanged."""
    _, held = held_out(make_dataset(TRAIN, TEST, 6))
    wrong = TRAIN.copy()
    wrong[held] = (wrong[held] + 1) % 6
    for labels, low, high in ((TRAIN, 60, 100), (wrong, 0, 30)):
        dataset = make_dataset(TRAIN, TEST, 6)
        dataset.split("train").labels = labels
        (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=ProbeConfig())
        assert low <= row["val_top1"] <= high
        assert low <= row["val_knn_top1"] <= high


def test_a_small_dataset_has_a_test_score_and_no_validation_score(tiny_model, make_dataset):
    (row,) = evaluate_dataset(tiny_model, make_dataset(TRAIN[:40], TEST, 6), layers=("encoder",), probe=ProbeConfig())
    assert (row["val_top1"], row["val_knn_top1"]) == (None, None)
    assert row["top1"] > 40


def test_the_number_of_images_of_a_score_is_documented():
    text = Path(__file__).parents[2].joinpath("docs/search.md").read_text()
    assert f"encodes at most {VALIDATION_FIT:,} images to fit on and {VALIDATION_SCORED:,} that are scored" in text
