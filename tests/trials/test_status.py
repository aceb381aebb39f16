"""The states of trials, read from storages with trials in all states."""

import os
import re
import subprocess
import sys

import pytest
from factories import CONTEXT
from status_parts import STARTED, begin, config, finished_score, gone

from mdssl.errors import InputError
from mdssl.leaderboard.board import write_rows
from mdssl.storage.claim import Claim, holder_of
from mdssl.storage.location import Location
from mdssl.trials.rows import failed_row
from mdssl.trials.status import trial_statuses
from mdssl.trials.status_output import print_json, print_status, watch_status
from mdssl.trials.train_records import all_records, clear_up, train_records
from mdssl.trials.unfinished import trials_without_rows


@pytest.fixture
def storage(tmp_path):
    return Location.of(tmp_path)


def test_states_are_determined_from_files_alone(storage):
    trials = {seed: config(seed=seed) for seed in range(9)}
    trained = {"status": "finished", "step": 100}
    write_rows(storage, trials[0].trial_id, [finished_score(trials[0], name) for name in ("a", "b")])
    begin(storage, trials[1], step=40, seconds_ago=-1000)
    begin(storage, trials[2], step=40, seconds_ago=600)
    begin(storage, trials[3], step=100, training=trained, claimed=False)
    failed = {"status": "failed", "step": 7, "error": "the loss is nan\nmore"}
    begin(storage, trials[4], training=failed, claimed=False)
    failure = failed_row(trials[5], "ValueError: no such file\nTraceback", context=CONTEXT, started_at=STARTED)
    write_rows(storage, trials[5].trial_id, [failure])
    begin(storage, trials[6], step=40, claimed=False)
    begin(storage, trials[7], step=40, pid=gone())
    begin(storage, trials[8], step=100, training=trained)
    (storage / "trials" / "notes.txt" / "x").write_bytes(b"a folder of somebody's own")

    found = {trial.config.seed: trial for trial in trial_statuses(storage)}
    assert {seed: trial.state for seed, trial in found.items()} == {
        0: "finished",
        1: "training",
        2: "stopped",
        3: "stopped",
        4: "failed",
        5: "failed",
        6: "stopped",
        7: "stopped",
        8: "evaluating",
    }
    assert (found[0].scores, found[0].seconds_ago, found[0].unscored) == (2, None, False)
    assert (found[1].scores, found[1].seconds_ago) == (0, 0.0), "its last update is in the future by this clock"
    assert (found[5].step, found[5].scores, found[5].error) == (0, 0, "ValueError: no such file")
    assert (found[1].step, found[1].loss) == (40, 5.0)
    # 60 steps with 2 domains × 10 images × 2 views, at 50 views/s.
    assert found[1].eta_seconds == pytest.approx(60 * 40 / 50)
    assert found[2].seconds_ago == pytest.approx(600, abs=5)
    assert found[2].eta_seconds is None
    assert (found[4].step, found[4].error) == (7, "the loss is nan")
    assert found[5].error == "ValueError: no such file"
    assert re.fullmatch(r"head:\d+ \(lambda_grid\)", found[1].holder)
    assert found[6].holder == ""
    assert [found[seed].lost for seed in (1, 6, 7)] == ["", "", "died"]
    assert re.fullmatch("has not responded for 10m0[0-5]s", found[2].lost)


def test_a_trial_with_a_failed_and_a_finished_score_is_failed(storage):
    score = {"eval_dataset": "b", "probe": "lbfgs", "data_fingerprint": "x"}
    failure = failed_row(config(), "one class", context=CONTEXT, started_at=STARTED, score=score)
    write_rows(storage, config().trial_id, [finished_score(config(), "a"), failure])
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.error, trial.scores) == ("failed", "one class", 1)


def test_a_failed_trial_that_is_retried_is_training(storage):
    failure = failed_row(config(), "ValueError: no such file", context=CONTEXT, started_at=STARTED)
    write_rows(storage, config().trial_id, [failure])
    begin(storage, config(), step=40)
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.step, trial.error) == ("training", 40, "")


def test_a_trial_claimed_by_a_living_process_is_training(storage):
    begin(storage, config(), claimed=False)
    with Claim(storage / "trials" / config().trial_id, "lambda_grid") as claim:
        claim.take()
        (trial,) = trial_statuses(storage)
        assert (trial.state, trial.holder) == ("training", str(claim.owner))
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.holder) == ("stopped", "")


def test_foreign_files_are_ignored_and_a_missing_storage_is_an_error(storage, capsys):
    begin(storage, config(seed=1), step=40)
    before = trial_statuses(storage)
    for name in ("Thumbs.db", "desktop.ini", "0123456789ab", "notes"):
        (storage / "trials" / name).write_bytes(b"what")
        (storage / "leaderboard" / name).write_bytes(b"what")
    for folder in ("new folder", "0123456789AB", "abcdefabcdef"):
        os.makedirs(f"{storage.path}/trials/{folder}/sub")
    (trial,) = trial_statuses(storage)
    assert trial.config == before[0].config and trial.state == before[0].state == "training"
    for function in (trial_statuses, print_status, print_json, watch_status):
        with pytest.raises(InputError, match="nowhere has no leaderboard and no trials: there is no such folder"):
            function(storage / "nowhere")
        with pytest.raises(InputError, match="Thumbs.db is a file"):
            function(storage / "trials" / "Thumbs.db")


def test_a_trial_without_metrics_has_no_loss_and_no_eta(storage, capsys):
    begin(storage, config())
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.step, trial.loss, trial.eta_seconds) == ("training", 0, None, None)
    print_status(storage)
    assert "; ETA" not in capsys.readouterr().out


def test_a_damaged_file_is_named(storage):
    begin(storage, config(), step=3)
    (storage / "trials" / config().trial_id / "metrics.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"metrics\.parquet is damaged"):
        trial_statuses(storage)


def test_status_imports_neither_torch_nor_ray():
    code = "import sys, mdssl.trials.status; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(("seconds", "expected"), [((90.0, 60.0), 150.0), ((90.0, None), 90.0), ((None, None), None)])
def test_evaluation_time_sums_over_the_scores_that_have_a_time(storage, seconds, expected):
    rows = [finished_score(config(), name) | {"eval_seconds": each} for name, each in zip("ab", seconds, strict=True)]
    write_rows(storage, config().trial_id, rows)
    assert [trial.eval_seconds for trial in trial_statuses(storage)] == [expected]


def test_trials_without_rows_are_described_and_foreign_folders_ignored(storage):
    trials = [config(lambda2=weight) for weight in (0.0, 0.1)]
    begin(storage, trials[0], step=40)
    begin(storage, trials[1], claimed=False)
    (storage / "trials" / "notes" / "x").write_bytes(b"")
    found = trials_without_rows(storage, [*(trial.trial_id for trial in trials), "notes"])
    assert [(each["trial_id"], each["state"], each["step"], each["iterations"], each["eta"]) for each in found] == [
        (trials[0].trial_id, "training", 40, 100, "48s"),
        (trials[1].trial_id, "stopped", 0, 100, None),
    ]
    assert len({each["label"] for each in found}) == 2


@pytest.mark.parametrize("is_held", [False, True])
def test_clear_up_deletes_records_of_ray_train_unless_the_trial_is_claimed(storage, is_held):
    trial = config()
    begin(storage, trial, step=40, claimed=is_held)
    records = train_records(storage, trial)
    (records / "snapshot").write_bytes(b"")
    assert set(all_records(storage)) == {trial.trial_id}
    clear_up(storage, trial)
    assert records.exists() == is_held
    assert holder_of(storage / "trials" / trial.trial_id) is None or is_held
