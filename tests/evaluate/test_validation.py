"""Validation scores: of held-out training images, the same for all models, and blind to the test part."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mdssl.config.probe import ProbeConfig
from mdssl.data.dataset import open_dataset
from mdssl.errors import InputError
from mdssl.evaluate import validation
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.validation import Validation, check_validatable, held_out

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6


def labelled(labels, fingerprint="x", classes=None):
    """A dataset of which only the labels of the train split are looked at."""
    train = SimpleNamespace(labels=np.asarray(labels), fingerprint=fingerprint)
    names = tuple(map(str, range(int(np.max(labels)) + 1))) if classes is None else classes
    return SimpleNamespace(name="mine", classes=names, split={"train": train}.__getitem__)


def test_each_image_is_in_one_part_and_each_class_in_both_in_proportion():
    # 2,000, 500 and 60 images, one of three, one of two, and one of a single image.
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [2000, 500, 60, 3, 2, 1]))
    fit, held = held_out(labelled(labels))
    assert sorted([*fit, *held]) == list(range(len(labels)))
    assert len(held) == len(labels) // 5
    shares = np.bincount(labels[held], minlength=6) / np.bincount(labels)
    assert np.allclose(shares[:3], 0.2, atol=0.02)
    assert np.bincount(labels[held], minlength=6)[3:].tolist() == [1, 1, 0]
    # The images that vote are a sample of the same kind: each class is in it.
    voting = np.bincount(labels[fit[:200]], minlength=6)
    assert voting.min() >= 1
    assert np.allclose(voting[:3] / 200, np.bincount(labels)[:3] / len(labels), atol=0.03)


def test_parts_are_capped_and_depend_on_the_images_alone():
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
def test_a_dataset_that_cannot_give_a_score_is_refused(labels, classes, says):
    with pytest.raises(InputError, match=f"'mine' has .*{says}.*--evaluate"):
        check_validatable(labelled(labels, classes=classes))


def test_fifty_images_of_two_classes_are_enough():
    check_validatable(labelled(np.arange(50) % 2))


def test_the_score_is_that_of_scikit_learns_ridge_classifier(tiny_data, tiny_model, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_FIT", 40)
    score = Validation(tiny_data, ["tiny-a", "tiny-b"], device="cpu")(tiny_model)
    assert list(score) == ["tiny-a", "tiny-b"]
    dataset = open_dataset(tiny_data, "tiny-b")
    train, (fit, held) = dataset.split("train"), held_out(dataset)
    x = extract_features(tiny_model, train.images)["encoder"].double().numpy()
    # Its penalty is on the sum over the images.
    peer = make_pipeline(StandardScaler(), RidgeClassifier(alpha=validation.RIDGE * 40))
    peer.fit(x[fit[:40]], train.labels[fit[:40]])
    assert score["tiny-b"] == pytest.approx(100 * peer.score(x[held], train.labels[held]))
    assert 0 < score["tiny-b"] < 100
    assert len(held) == 12


def test_a_score_leaves_the_model_its_modes_and_random_states_as_they_are(tiny_data, tiny_model):
    tiny_model.train()
    tiny_model.projection.eval()
    torch.manual_seed(3)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    Validation(tiny_data, ["tiny-a"], device="cpu")(tiny_model)
    assert (tiny_model.encoder.training, tiny_model.projection.training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


def test_its_fingerprints_are_those_of_rows(tiny_data):
    from mdssl.sweep.grid import evaluation_fingerprint

    found = Validation(tiny_data, ["tiny-a"], device="cpu").fingerprints
    assert found == {"tiny-a": evaluation_fingerprint(tiny_data, "tiny-a")}


@pytest.mark.parametrize("probe", ["lbfgs", "sgd", "sgd-raw"])
def test_test_images_and_labels_cannot_change_validation_scores(tiny_model, make_dataset, probe):
    config = ProbeConfig(probe=probe, probe_epochs=5)
    scores = []
    for test in (TEST, TEST[::-1], (TEST + 1) % 6):
        dataset = make_dataset(TRAIN, test, 6, test_tint=TEST)
        scores += evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=config)
    assert len({score["top1"] for score in scores}) > 1
    assert len({(score["val_top1"], score["val_knn_top1"]) for score in scores}) == 1
    # Six colors under noise: far above chance.
    assert min(scores[0]["val_top1"], scores[0]["val_knn_top1"]) > 40


def test_the_fit_of_a_validation_score_has_not_seen_the_held_out_labels(tiny_model, make_dataset):
    """With wrong labels in the held-out part alone, almost nothing there is right, while the fit is what it was."""
    _, held = held_out(make_dataset(TRAIN, TEST, 6))
    wrong = TRAIN.copy()
    wrong[held] = (wrong[held] + 1) % 6
    for labels, low, high in ((TRAIN, 60, 100), (wrong, 0, 30)):
        dataset = make_dataset(TRAIN, TEST, 6)
        dataset.split("train").labels = labels
        (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=ProbeConfig())
        assert low <= row["val_top1"] <= high
        assert low <= row["val_knn_top1"] <= high


def test_a_dataset_that_is_too_small_has_a_test_score_and_no_validation_score(tiny_model, make_dataset):
    (row,) = evaluate_dataset(tiny_model, make_dataset(TRAIN[:40], TEST, 6), layers=("encoder",), probe=ProbeConfig())
    assert (row["val_top1"], row["val_knn_top1"]) == (None, None)
    assert row["top1"] > 40
