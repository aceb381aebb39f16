import time

import numpy as np
import pytest
import torch

from mdssl.config import ProbeConfig
from mdssl.evaluate.evaluate import evaluate_dataset

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6
SGD = ProbeConfig(probe="sgd", probe_epochs=60, probe_batch=16, probe_learning_rate=1.0)
LBFGS = ProbeConfig()


def without_time(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "eval_seconds"} for row in rows]


@pytest.mark.parametrize("probe", [SGD, LBFGS], ids=lambda probe: probe.probe)
def test_each_layer_gives_one_row(tiny_model, make_dataset, probe):
    started = time.perf_counter()
    rows = evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder", "projection"), probe=probe)
    elapsed = time.perf_counter() - started
    assert [row["features"] for row in rows] == ["encoder", "projection"]
    for row in rows:
        assert row.keys() == {
            *("features", "probe", "top1", "top5", "knn_top1"),
            *("num_classes", "num_train", "num_test", "eval_seconds"),
        }
        assert (row["num_classes"], row["num_train"], row["num_test"]) == (6, 240, 90)
        assert row["probe"] == probe.name
        # Six colours under noise: far above chance, whatever the encoder.
        assert min(row["top1"], row["knn_top1"]) > 40
        assert row["top5"] >= row["top1"]
    assert 0.5 * elapsed < sum(row["eval_seconds"] for row in rows) <= elapsed


def test_layers_are_those_asked_for_whatever_the_probe_lists(tiny_model, make_dataset):
    rows = evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("projection",), probe=LBFGS)
    assert [row["features"] for row in rows] == ["projection"]


def test_the_same_seed_gives_the_same_scores(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST, 6)
    first, again = (evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=SGD, seed=4) for _ in range(2))
    assert without_time(first) == without_time(again)


def test_settings_of_the_probe_arrive(tiny_model, make_dataset):
    """More neighbours than images is an error only if the number of neighbours was passed on; so with the others."""
    dataset = make_dataset(TRAIN, TEST, 6)
    with pytest.raises(ValueError, match="dataset 'tinted' cannot be evaluated: knn_neighbours is 241"):
        evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=ProbeConfig(knn_neighbours=241))
    scores = {
        probe.name: evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=probe)[0]["top1"]
        for probe in (
            ProbeConfig(probe="lbfgs", probe_l2=1e6),
            ProbeConfig(probe="sgd", probe_epochs=10),
            ProbeConfig(probe="sgd", probe_epochs=1),
            ProbeConfig(probe="sgd", probe_epochs=1, probe_batch=8),
            ProbeConfig(probe="sgd", probe_epochs=1, probe_learning_rate=1e-6),
            LBFGS,
        )
    }
    assert len(set(scores.values())) >= 4, scores
    assert scores["lbfgs"] > scores["lbfgs(l2=1e+06)"]


def test_a_class_may_be_absent_from_the_test_split(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST[TEST != 2], 6)
    (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=LBFGS)
    assert (row["num_classes"], row["num_test"]) == (6, 75)
    assert row["top1"] > 40


def test_corrupted_test_labels_change_the_score_and_nothing_else(tiny_model, make_dataset, monkeypatch):
    fitted = []
    import mdssl.evaluate.evaluate as module

    run_probe = module.run_probe
    monkeypatch.setattr(module, "run_probe", lambda *args, **kw: fitted.append(run_probe(*args, **kw)) or fitted[-1])
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
def test_a_part_without_two_classes_is_refused_before_any_work(tiny_model, make_dataset, train, test, message):
    tiny_model.encoder = None
    with pytest.raises(ValueError, match=f"dataset 'tinted' cannot be evaluated: {message}"):
        evaluate_dataset(tiny_model, make_dataset(train, test, 6), layers=("encoder",), probe=LBFGS)


def test_a_damaged_encoder_is_said_with_the_dataset(tiny_model, make_dataset):
    torch.nn.init.constant_(tiny_model.encoder[0].weight, torch.nan)
    with pytest.raises(ValueError, match=r"'tinted' .*encoder features of 240 of 240 images are not finite"):
        evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder",), probe=LBFGS)
