"""Rows record the images on which a trial was trained and scored."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from factories import CONTEXT, tiny_trial

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.trials.rows import failed_row, finished_row, git_commit, images_of, merged, row_without_score, stopped_rows

WORDS = "2 of 10 classes, 8×8 pixels"


def test_rows_record_dataset_variants_and_tables_show_them(papers_data, tmp_path):
    config = TrialConfig(
        **{"domains": ("cifar10", "svhn"), "arch": "resnet18", "iterations": 1, "batch_per_domain": 4},
        **{"method": "simclr", "lambda1": 1.0, "lambda2": 0.0, "precision": "fp32"},
    )
    trial_dir = Location.of(tmp_path) / "trials" / "t"
    training = train(config, data=papers_data, trial_dir=trial_dir, device="cpu")
    assert training["variants"] == {"cifar10": WORDS, "svhn": WORDS}
    dataset = open_dataset(papers_data, "svhn")
    model = load_model(trial_dir)[1]
    (score,) = evaluate_dataset(model, dataset, layers=("encoder",), probe=ProbeConfig(knn_neighbors=3))
    score |= {"eval_dataset": "svhn", "data_fingerprint": "x", "images": images_of(dataset)}
    row = finished_row(config, training, score, context=CONTEXT, trial_dir=trial_dir)
    said = json.loads(row["config_json"])
    assert said["variants"] == training["variants"]
    assert {name: said["evaluation"][name] for name in ("variant", "image_size", "majority_top1")} == {
        "variant": WORDS,
        "image_size": 8,
        "majority_top1": 50.0,
    }
    write_rows(str(tmp_path), config.trial_id, [row])
    shown = with_settings(read(str(tmp_path)))
    assert shown["eval_dataset"].tolist() == [f"svhn ({WORDS})"]
    assert shown["train_mixture"].tolist() == [f"cifar10 ({WORDS})+svhn ({WORDS})"]


@pytest.mark.parametrize(("labels", "majority"), [([0, 1] * 4, 50.0), ([0, 0, 0, 0, 0, 1, 1, 1], 62.5)])
def test_the_majority_class_is_that_of_the_test_images(tmp_path, labels, majority):
    images = np.zeros((8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=[0, 1] * 4, test_images=images, test_labels=labels)
    dataset = prepare("mine", data=tmp_path, source=tmp_path / "a.npz", image_size=8, workers=1, progress=False)
    assert images_of(dataset)["majority_top1"] == pd.Series(labels).value_counts(normalize=True).max() * 100 == majority


ENDED = {
    **{"status": "stopped", "step": 50, "train_seconds": 8.0, "score_seconds": 1.0, "gpu_hours": 0.5, "num_workers": 1},
    **{"device": "cpu", "views_seen": 1600, "views_per_second": 200.0, "peak_memory_mb": 9.0, "encoder_mb": 43.0},
    **{"final_loss": 3.0, "torch_version": "2.9", "started_at": "2026-01-01T00:00:00+00:00", "variants": {}},
    **{"val_linear_top1": {"tiny-a": 40.0, "other": 30.0}, "val_fingerprints": {"tiny-a": "a-b", "other": "c-d"}},
}
"""``training.json`` of a trial that was stopped early."""
TRIAL = tiny_trial(iterations=150)


def finished(dataset="tiny-a", top1=50.0, images="a-b", **changes):
    (row, _) = stopped_rows(TRIAL, ENDED, context=CONTEXT)
    evaluation = json.loads(row["config_json"]) | {"evaluation": {"data_fingerprint": images}}
    numbers = {"top1": top1, "num_classes": 4, "num_train": 64, "num_test": 32, "probe": "lbfgs", "step": 150}
    own = {"status": "finished", "eval_dataset": dataset, "config_json": json.dumps(evaluation)}
    own |= {"finished_at": "2026-01-02T00:00:00+00:00"}
    return row | numbers | own | {"val_top1": None, "val_knn_top1": None, "val_linear_top1": None} | changes


def test_a_stopped_trial_has_a_row_for_each_dataset_of_its_last_scores(tmp_path):
    rows = stopped_rows(TRIAL, ENDED, context=CONTEXT)
    write_rows(str(tmp_path), TRIAL.trial_id, rows)
    found = with_settings(read(str(tmp_path)))
    assert found["status"].tolist() == ["stopped"] * 2
    assert found["eval_dataset"].tolist() == ["tiny-a", "other"]
    assert found["val_linear_top1"].tolist() == [40.0, 30.0]
    assert found["seen"].tolist() == [True, False]
    assert found["features"].tolist() == ["encoder"] * 2
    assert found["eval_fingerprint"].tolist() == ["a-b", "c-d"]
    assert found[["top1", "probe", "val_top1", "knn_top1", "error"]].isna().all(axis=None)
    (shared,) = {tuple(one) for one in found[["step", "iterations", "train_seconds", "gpu_hours", "views_seen"]].values}
    assert shared == (50, 150, 8.0, 0.5, 1600)


def test_an_untrained_encoder_has_no_iterations():
    found = row_without_score(TrialConfig(method="random", seed=3))
    assert (found["iterations"], found["seed"]) == (0, 3)


def test_git_commit_is_that_of_the_checkout_and_marks_changes(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
    monkeypatch.setattr("mdssl.__file__", str(tmp_path / "mdssl" / "__init__.py"))
    (tmp_path / "file").write_text("1")
    found = []
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
        git_commit.cache_clear()
        found.append(git_commit())
    (tmp_path / "file").write_text("2")
    git_commit.cache_clear()
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert [*found, git_commit()] == ["", "", head, f"{head}-dirty"]
    git_commit.cache_clear()


@pytest.mark.parametrize("newer", ["finished", "failed", "failed score", "stopped later"])
def test_any_newer_row_replaces_the_stopped_rows_of_a_trial(newer):
    started = {"context": CONTEXT, "started_at": "2026-01-01T00:00:00+00:00"}
    score = {"eval_dataset": "tiny-a", "probe": "lbfgs", "data_fingerprint": "a-b"}
    new = {
        "finished": [finished()],
        "failed": [failed_row(TRIAL, "NaN", **started)],
        "failed score": [failed_row(TRIAL, "one class", **started, score=score)],
        "stopped later": stopped_rows(TRIAL, ENDED | {"step": 100}, context=CONTEXT),
    }[newer]
    assert merged(stopped_rows(TRIAL, ENDED, context=CONTEXT), new) == new


def test_stopped_rows_replace_failed_training_but_not_finished_scores():
    new = stopped_rows(TRIAL, ENDED, context=CONTEXT)
    failure = failed_row(TRIAL, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    assert merged([failure], new) == new
    assert merged([finished()], new) == [finished()]
    assert merged(new, []) == new


def test_merged_adds_validation_scores_and_keeps_existing_scores():
    again = finished(top1=1.0, knn_top1=1.0, val_top1=44.0, val_knn_top1=41.0, val_linear_top1=42.0)
    (row,) = merged([finished(knn_top1=47.0)], [again])
    assert row == finished(knn_top1=47.0) | {"val_top1": 44.0, "val_knn_top1": 41.0, "val_linear_top1": 42.0}
    # Existing scores stay, and a score on other images adds nothing.
    assert merged([row], [again | {"val_top1": 2.0}]) == [row]
    other = finished("tiny-b", images="e-f", val_top1=3.0)
    assert merged([finished()], [other])[0]["val_top1"] is None
