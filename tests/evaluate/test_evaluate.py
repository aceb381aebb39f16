import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdssl.config.probe import ProbeConfig
from mdssl.evaluate import evaluate
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.evaluate.probe import ProbeResult, run_probes

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6
SGD = ProbeConfig(probe="sgd", probe_epochs=20, probe_batch=16, probe_learning_rate=(1.0,))
LBFGS = ProbeConfig()


def without_time(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "eval_seconds"} for row in rows]


@pytest.mark.parametrize("probe", [SGD, LBFGS], ids=lambda probe: probe.probe)
def test_each_layer_gives_one_row(tiny_model, make_dataset, probe):
    rows = evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder", "projection"), probe=probe)
    assert [row["features"] for row in rows] == ["encoder", "projection"]
    for row in rows:
        assert row.keys() == {
            *(
                "features",
                "probe",
                "probe_settings",
                "top1",
                "top1_sd",
                "top5",
                "balanced_accuracy",
                "macro_f1",
                "confusion",
                "knn_top1",
                "val_top1",
                "val_knn_top1",
                "val_linear_top1",
            ),
            *("num_classes", "num_train", "num_test", "eval_seconds"),
        }
        assert (row["num_classes"], row["num_train"], row["num_test"]) == (6, 240, 90)
        assert row["probe"] == probe.name
        # Six noisy colors: scores are far above chance with any encoder.
        assert min(row["top1"], row["knn_top1"]) > 40
        assert row["top5"] >= row["top1"]


def test_each_learning_rate_gives_one_row(tiny_model, make_dataset):
    probe = replace(SGD, probe_learning_rate=(1.0, 0.5))
    dataset = make_dataset(TRAIN, TEST, 6)
    rows = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=probe)
    assert [row["probe"] for row in rows] == [own.name for own in probe.each()]
    assert [row["probe_settings"]["probe_learning_rate"] for row in rows] == [1.0, 0.5]
    (alone,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=SGD)
    assert rows[0]["top1"] == alone["top1"]


def test_only_the_requested_layers_are_scored(tiny_model, make_dataset):
    rows = evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("projection",), probe=LBFGS)
    assert [row["features"] for row in rows] == ["projection"]


def test_the_time_of_the_encoder_pass_is_divided_among_the_layers(tiny_model, make_dataset):
    tiny_model.encoder.register_forward_hook(lambda *_: time.sleep(0.25))
    started = time.perf_counter()
    rows = evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder", "projection"), probe=LBFGS)
    elapsed = time.perf_counter() - started
    # One batch for each of two splits takes half a second; each layer gets half of that time.
    assert all(row["eval_seconds"] > 0.25 for row in rows)
    assert 0.5 < sum(row["eval_seconds"] for row in rows) <= elapsed


@pytest.fixture
def fitted(monkeypatch) -> list[ProbeResult]:
    """The results of the probes inside `evaluate_dataset`."""
    results = []

    def recorded(parts, **settings):
        found = run_probes(parts, **settings)
        if len(parts.train_y) == len(TRAIN):  # not those of validation scores
            results.extend(found)
        return found

    monkeypatch.setattr(evaluate, "run_probes", recorded)
    return results


def test_the_same_seed_gives_the_same_scores(tiny_model, make_dataset, fitted):
    dataset = make_dataset(TRAIN, TEST, 6)
    first, again, _ = (
        evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=SGD, **seed)
        for seed in ({}, {"seed": 0}, {"seed": 5})
    )
    assert without_time(first) == without_time(again)
    weights = [result.classifier.weight for result in fitted]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_knn_with_few_training_images_uses_all_and_records_their_number(tiny_model, make_dataset):
    dataset = make_dataset(np.arange(12) % 2, TEST % 2, 2)
    (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=LBFGS)
    (of_twelve,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=replace(LBFGS, knn_neighbors=12))
    assert row["knn_top1"] == of_twelve["knn_top1"]
    assert row["top1"] == of_twelve["top1"]
    assert row["probe_settings"] == LBFGS.settings() | {"knn_neighbours_there_are": 12}
    assert of_twelve["probe_settings"]["knn_neighbours"] == 12
    assert "knn_neighbours_there_are" not in of_twelve["probe_settings"]


def test_an_unstable_score_is_marked_and_logged(tiny_model, make_dataset, monkeypatch, caplog):
    result = ProbeResult(43.0, None, None, None, np.eye(6, dtype=int), {"unstable": True, "top1_in_other_order": 38.0})
    monkeypatch.setattr(evaluate, "run_probes", lambda *parts, **settings: [result])
    dataset, raw = make_dataset(TRAIN, TEST, 6), ProbeConfig(probe="sgd-raw")
    (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=raw)
    assert row["probe_settings"] == raw.settings() | result.found
    assert "sgd-raw on encoder features of tinted: unstable, as another order of summation gives 38.0" in caplog.text


def test_classes_without_images_are_not_counted(tiny_model, make_dataset):
    ids = np.array([3, 7, 11])
    (row,) = evaluate_dataset(
        tiny_model, make_dataset(ids[np.arange(60) % 3], ids[np.arange(30) % 3], 12), layers=("encoder",), probe=LBFGS
    )
    assert (row["num_classes"], row["top5"]) == (3, None)


def test_a_class_may_be_absent_from_the_test_split(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST[TEST != 2], 6)
    (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=LBFGS)
    assert (row["num_classes"], row["num_test"]) == (6, 75)
    assert row["top1"] > 40


def test_corrupted_test_labels_change_only_the_score(tiny_model, make_dataset, fitted):
    for labels in (TEST, (TEST + 1) % 6):
        evaluate_dataset(tiny_model, make_dataset(TRAIN, labels, 6, test_tint=TEST), layers=("encoder",), probe=LBFGS)
    honest, corrupted = fitted
    assert torch.equal(honest.classifier.weight, corrupted.classifier.weight)
    assert torch.equal(honest.predictions, corrupted.predictions)
    assert corrupted.top1 < honest.top1


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (TRAIN, np.full(9, 3), "its test part has images of class 3 only"),
        (TRAIN, [], "its test part has no images"),
        (np.zeros(40), TEST, "its train part has images of class 0 only"),
    ],
)
def test_a_split_without_two_classes_is_refused_before_encoding(tiny_model, make_dataset, train, test, message):
    tiny_model.encoder = None
    with pytest.raises(ValueError, match=f"dataset 'tinted' cannot be evaluated: {message}"):
        evaluate_dataset(tiny_model, make_dataset(train, test, 6), layers=("encoder",), probe=LBFGS)


def test_message_for_a_damaged_encoder_names_the_dataset(tiny_model, make_dataset):
    torch.nn.init.constant_(tiny_model.encoder[0].weight, torch.nan)
    with pytest.raises(ValueError, match=r"'tinted' .*encoder features of 240 of 240 images are not finite"):
        evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder",), probe=LBFGS)
