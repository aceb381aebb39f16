"""Rows of probes with several seeds, and sgd probes with a given number of steps."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from mdssl.config.probe import ProbeConfig
from mdssl.evaluate.confusion import class_scores
from mdssl.evaluate.evaluate import encode_dataset, score_dataset
from mdssl.evaluate.sgd import fit_sgd

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6
SETTINGS = {"probe": "sgd-raw", "probe_epochs": 2, "probe_batch": 16, "probe_learning_rate": (0.5,)}


def test_a_row_of_several_seeds_has_means_and_a_standard_deviation(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST, 6)
    encoded = encode_dataset(tiny_model, dataset, layers=("encoder",))
    (row,) = score_dataset(encoded, dataset, probe=ProbeConfig(**SETTINGS, probe_seeds=3), seed=7)
    alone = [
        score_dataset(encoded, dataset, probe=ProbeConfig(**SETTINGS), seed=7 + number * 10_000)[0]
        for number in range(3)
    ]
    assert len({one["top1"] for one in alone}) > 1, "scores must differ between seeds"
    for name in ("top1", "top5", "balanced_accuracy", "macro_f1", "val_top1"):
        assert row[name] == pytest.approx(np.mean([one[name] for one in alone])), name
    assert row["top1_sd"] == pytest.approx(np.std([one["top1"] for one in alone], ddof=1))
    assert [one["top1_sd"] for one in alone] == [None] * 3
    assert sum(row["confusion"]["images"]) == 3 * len(TEST)
    assert [one["top1"] for one in row["probe_settings"]["of_seeds"]] == [one["top1"] for one in alone]
    assert row["probe"] == "sgd-raw(learning_rate=0.5,epochs=2,batch=16,seeds=3)"
    assert row["knn_top1"] == alone[0]["knn_top1"]


def test_the_scores_of_a_row_match_its_confusion_matrix(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST, 6)
    encoded = encode_dataset(tiny_model, dataset, layers=("encoder",))
    (row,) = score_dataset(encoded, dataset, probe=ProbeConfig(**SETTINGS))
    counts = row["confusion"]
    true, predicted = (np.repeat(counts[name], counts["images"]) for name in ("true", "predicted"))
    assert row["top1"] == pytest.approx(100 * (true == predicted).mean())
    scores = class_scores(confusion_matrix(true, predicted, labels=range(6)))
    assert (row["balanced_accuracy"], row["macro_f1"]) == pytest.approx(tuple(scores))


def test_iterations_are_counted_in_steps():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator).double(), torch.arange(50) % 3
    own = {"num_classes": 3, "batch_size": 16, "seed": 1, "whole_batch": False}
    ((by_epochs, _),) = fit_sgd(x, y, [0.1], epochs=3, **own)
    ((by_steps, _),) = fit_sgd(x, y, [0.1], epochs=100, iterations=12, **own)
    assert torch.equal(by_epochs, by_steps), "an epoch has four batches, the last of two images"
    # One step, computed by hand.
    ((one_more, _),) = fit_sgd(x, y, [0.1], epochs=100, iterations=1, **own)
    first = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:16]
    error = torch.full((16, 3), 1 / 3, dtype=torch.float64) - torch.nn.functional.one_hot(y[first], 3)
    torch.testing.assert_close(one_more, -0.1 * error.T @ x[first] / 16)


def test_a_probe_with_iterations_matches_one_with_as_many_epochs(tiny_model, make_dataset):
    encoded = encode_dataset(tiny_model, dataset := make_dataset(TRAIN, TEST, 6), layers=("encoder",))
    settings = {name: value for name, value in SETTINGS.items() if name != "probe_epochs"}
    by_steps, by_epochs, longer = (
        score_dataset(encoded, dataset, probe=ProbeConfig(**settings, **length))[0]["confusion"]
        for length in ({"probe_iterations": 2 * len(TRAIN) // 16}, {"probe_epochs": 2}, {})
    )
    assert by_steps == by_epochs != longer


def test_rows_record_iterations_instead_of_epochs_and_keep_old_names():
    config = ProbeConfig(probe="sgd-raw", probe_iterations=30_000)
    assert config.name == "sgd-raw(iterations=30000)"
    assert config.settings()["probe_iterations"] == 30_000 and "probe_epochs" not in config.settings()
    assert ProbeConfig(probe="sgd-raw").name == "sgd-raw"
    assert ProbeConfig(probe="sgd").settings() == {
        **{"probe": "sgd", "probe_learning_rate": None, "probe_epochs": 100, "probe_batch": 256},
        **{"knn_neighbours": 20, "standardized": True},
    }
