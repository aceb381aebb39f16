"""Validation scores during training and an early end do not change the encoder."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.errors import InputError
from mdssl.evaluate.validation import Validation
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import is_scored
from mdssl.pretrain.trial_files import load_model, read_training, write_metrics
from mdssl.storage.location import Location

SETTINGS = RunSettings(report_every=4, checkpoint_seconds=0, score_every=3)


def run(data, folder, settings=SETTINGS, **more):
    return train(tiny_trial(), data=data, trial_dir=folder, device="cpu", settings=settings, **more)


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    """The folder of a trial without scores."""
    folder = tmp_path_factory.mktemp("straight")
    run(tiny_data, folder)
    return folder


def assert_same_encoder(first, second):
    expected, got = (safetensors.torch.load_file(folder / "encoder.safetensors") for folder in (first, second))
    assert any("running_var" in name for name in expected)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize(
    ("step", "score_every", "rungs", "scored"),
    [(4, None, (), False), (4, 0, (), False), (4, 2, (), True), (5, 2, (), False), (5, 2, (5,), True)],
)
def test_steps_are_scored_at_intervals_and_at_rungs(step, score_every, rungs, scored):
    assert is_scored(step, score_every, rungs) is scored


def test_scores_do_not_change_the_encoder_of_a_resumed_run(tiny_data, tmp_path, straight):
    own = {"validate": Validation(tiny_data, ["tiny-a", "tiny-c"], device="cpu"), "rungs": (2, 6)}
    with pytest.raises(Killed):
        run(tiny_data, tmp_path, report=kill_at(3), **own)
    reports = []
    ended = run(tiny_data, tmp_path, report=reports.append, **own)
    assert_same_encoder(straight, tmp_path)
    assert (ended["status"], ended["step"]) == ("finished", 6)
    assert 0 < ended["score_seconds"] < ended["train_seconds"]
    # Killed in the report of step 3, the run resumes from step 2. The last step is not scored, though it is a rung.
    assert [(at.step, at.val_linear_top1 is not None) for at in reports] == [(3, True), (6, False)]
    assert reports[-1].score_seconds == ended["score_seconds"]
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    assert metrics["step"].tolist() == [2, 3, 6]
    assert metrics["val_linear_top1"].isna().tolist() == [False, False, True]
    mean = (metrics["val_linear_top1/tiny-a"] + metrics["val_linear_top1/tiny-c"]) / 2
    pd.testing.assert_series_equal(metrics["val_linear_top1"], mean, check_names=False)
    # The loss of a report is the mean over the steps since the previous report, so each step counts once.
    steps = metrics["step"].diff().fillna(2)
    own = pd.read_parquet(straight / "metrics.parquet")
    expected = (own["loss"] * own["step"].diff().fillna(4)).sum()
    assert (metrics["loss"] * steps).sum() == pytest.approx(expected, rel=1e-6)


def test_trial_that_ended_early_resumes_to_the_same_encoder(tiny_data, tmp_path, straight):
    scores = iter([20.0, 30.0, 40.0])

    def validate(model):
        return {"tiny-a": next(scores), "tiny-b": 60.0}

    def report(progress):
        return "end" if progress.val_linear_top1 == 40.0 else None

    seldom = replace(SETTINGS, checkpoint_seconds=1000)
    ended = run(tiny_data, tmp_path, seldom, validate=validate, report=report)
    assert ended == read_training(Location.of(tmp_path))
    assert (ended["status"], ended["step"], ended["iterations"]) == ("stopped", 3, 6)
    assert ended["val_linear_top1"] == {"tiny-a": 20.0, "tiny-b": 60.0}
    assert ended["views_seen"] == 3 * 2 * 2 * 8
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["step-00000003.safetensors"]
    assert not (tmp_path / "encoder.safetensors").exists()
    with pytest.raises(InputError, match=r"was stopped early at step 3 of 6; it has no encoder yet. `mdssl train`"):
        load_model(Location.of(tmp_path))
    again = run(tiny_data, tmp_path)
    assert (again["status"], again["step"], again["views_seen"]) == ("finished", 6, 6 * 2 * 2 * 8)
    assert again["train_seconds"] > ended["train_seconds"]
    assert_same_encoder(straight, tmp_path)


def test_trial_can_end_early_only_after_a_scored_step(tiny_data, tmp_path):
    steps = []
    with pytest.raises(AssertionError, match="only after a scored step"):
        run(tiny_data, tmp_path, report=lambda progress: steps.append(progress.step) or "end")
    assert steps == [4]
    last = run(tiny_data, tmp_path, report=lambda progress: "end" if progress.step == 6 else None)
    assert last["status"] == "finished"


def test_non_finite_features_give_a_warning_and_no_score(tiny_data, tmp_path, straight, caplog):
    def validate(model):
        raise InputError("encoder features of 3 of 64 images are not finite")

    reports = []
    run(tiny_data, tmp_path, validate=validate, report=reports.append)
    assert [progress.val_linear_top1 for progress in reports] == [None, None]
    assert "no validation score at step 3: encoder features of 3 of 64" in caplog.text
    assert_same_encoder(straight, tmp_path)


def test_metrics_have_the_columns_of_all_rows(tmp_path):
    rows = [{"step": 1, "val_linear_top1": None}, {"step": 2, "val_linear_top1": 5.0, "val_linear_top1/b": 5.0}]
    for number, metrics in enumerate((rows[:1], rows)):
        folder = tmp_path / str(number)
        write_metrics(Location.of(folder), LoopState(metrics=metrics))
        found = pd.read_parquet(folder / "metrics.parquet")
        assert found["val_linear_top1"].dtype == float
    assert found["val_linear_top1/b"].isna().tolist() == [True, False]


def test_train_command_computes_scores_and_records_their_cost(tiny_data, tmp_path, capsys, caplog):
    command = ["train", "--domains", "tiny-a", "tiny-b", "--data", tiny_data, "--storage", str(tmp_path)]
    command += ["--iterations", "3", "--batch-per-domain", "8", "--precision", "fp32", "--device", "cpu"]
    assert main([*command, "--evaluate", "tiny-c"]) != 0
    assert "add --score-every N" in capsys.readouterr().err
    caplog.set_level("INFO")
    assert main([*command, "--score-every", "2", "--evaluate", "tiny-c"]) == 0
    said = capsys.readouterr().out
    (folder,) = (tmp_path / "trials").iterdir()
    assert "validation " in said and f"trial {folder.name}: 3 steps in" in said
    assert main([*command, "--score-every", "2", "--evaluate", "tiny-c"]) == 0
    assert f"trial {folder.name} is already trained: 3 steps" in capsys.readouterr().out
    metrics = pd.read_parquet(folder / "metrics.parquet")
    assert metrics["val_linear_top1/tiny-c"].isna().tolist() == [False, True]
    ended = json.loads((folder / "training.json").read_text())
    assert ended["score_seconds"] > 0
    share = 100 * ended["score_seconds"] / ended["train_seconds"]
    said = f"validation scores took {ended['score_seconds']:.0f} s, {share:.1f} % of training"
    assert caplog.messages.count(said) == 1
