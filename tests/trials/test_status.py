"""The output of `mdssl status` for storages with trials in all states."""

import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import CONTEXT
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.leaderboard.board import write_rows
from mdssl.storage.claim import Claim, holder_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import stop_request, trial_dir_in
from mdssl.trials.rows import failed_row
from mdssl.trials.status import print_json, print_status, trial_statuses, watch_status
from mdssl.trials.train_records import all_records, clear_up, train_records
from mdssl.trials.unfinished import trials_without_rows

STARTED = "2026-01-01T00:00:00+00:00"


def config(**changes):
    base = {"domains": ("a", "b"), "arch": "resnet18", "iterations": 100, "batch_per_domain": 10, "precision": "fp32"}
    return TrialConfig(**base | changes)


def begin(storage, trial, *, step=None, views_per_second=50.0, training=None, seconds_ago=0.0, claimed=True, pid=None):
    folder = storage / "trials" / trial.trial_id
    (folder / "config.json").write_bytes(json.dumps(trial.to_dict()).encode())
    if step is not None:
        rows = [{"step": at, "loss": 9.0 - at / 10, "views_per_second": views_per_second} for at in (step - 1, step)]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        (folder / "metrics.parquet").write_bytes(buffer.getvalue())
    if training:
        (folder / "training.json").write_bytes(json.dumps(training).encode())
    (folder / "run.json").write_bytes(json.dumps({"host": "gpu3", "device": "NVIDIA H200", "workers": 2}).encode())
    if claimed:
        # A dead owner is recognized by its process on this machine, and by the age of its claim on another machine.
        me = Claim(folder, "lambda_grid").owner
        owner = replace(me, pid=pid) if pid else replace(me, machine="another")
        (folder / "claim.json").write_bytes(replace(owner, host="head").to_bytes())
    if seconds_ago:
        then = time.time() - seconds_ago
        for name in folder.names():
            os.utime(f"{folder.path}/{name}", (then, then))


def finished_score(trial, dataset):
    row = failed_row(trial, "", context=CONTEXT, started_at=STARTED)
    numbers = {"top1": 50.0, "num_classes": 4, "num_train": 64, "num_test": 32}
    own = {"eval_dataset": dataset, "features": "encoder", "probe": "lbfgs", "seen": True}
    return row | numbers | own | {"status": "finished", "error": None}


@pytest.fixture
def storage(tmp_path):
    return Location.of(tmp_path)


def test_states_are_determined_from_files_alone(storage):
    trials = {seed: config(seed=seed) for seed in range(9)}
    trained = {"status": "finished", "step": 100}
    write_rows(storage, trials[0].trial_id, [finished_score(trials[0], name) for name in ("a", "b")])
    begin(storage, trials[1], step=40)
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
    assert (found[0].scores, found[0].seconds_ago) == (2, None)
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


def test_trials_stopped_early_are_distinguished_from_interrupted_trials(storage):
    early, interrupted, again, asked = (config(seed=seed) for seed in range(4))
    ended = {"status": "stopped", "step": 40, "iterations": 100, "variants": {}}
    row = finished_score(early, "a") | dict.fromkeys(("top1", "probe", "num_classes", "num_train", "num_test"))
    write_rows(storage, early.trial_id, [row | {"status": "stopped", "step": 40, "val_linear_top1": 30.0}])
    begin(storage, early, step=30, training=ended, claimed=False)
    begin(storage, interrupted, step=40, claimed=False)
    begin(storage, again, step=60, training=ended)
    begin(storage, asked, step=40, training=ended, claimed=False)
    stop_request(trial_dir_in(storage, asked.trial_id)).write_bytes(b"{}")
    found = {trial.config.seed: trial for trial in trial_statuses(storage)}
    assert [found[seed].state for seed in range(4)] == ["stopped", "stopped", "training", "stopped"]
    said = f"trial {early.trial_id} was stopped early at step 40 of 100"
    by_request = (
        f"trial {asked.trial_id} was stopped early at step 40 of 100 by `mdssl stop`; after `mdssl retry "
        f"{asked.trial_id}` the same command trains it further"
    )
    assert [found[seed].stopped_early for seed in range(4)] == [said, "", "", by_request]
    assert found[2].step == 60
    assert (found[0].step, found[0].scores, found[0].error) == (40, 0, "")
    out = io.StringIO()
    print_status(storage, Console(file=out, width=80))
    *_, first, second, third = out.getvalue().splitlines()
    assert {first, second} == {said, by_request}
    assert third == f"interrupted, and resumed by the same command: {interrupted.trial_id}"


def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


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


def test_json_has_an_entry_for_each_trial(storage, capsys):
    begin(storage, config(seed=1), step=40)
    print_json(storage)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["trial_id"], entry["state"], entry["step"]) == (config(seed=1).trial_id, "training", 40)
    assert (entry["host"], entry["eta_seconds"], entry["config"]["seed"]) == ("gpu3", 48.0, 1)


def test_watch_status_prints_repeatedly_until_interrupted(storage, monkeypatch, capsys):
    begin(storage, config(), step=40)
    (storage / "trials" / config().trial_id / "run.json").write_bytes(b'{"host": "evil\\u001b[2J", "device": "cpu"}')
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt
        begin(storage, config(), step=60)

    monkeypatch.setattr("mdssl.trials.status.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch_status(storage)
    printed = capsys.readouterr().out
    assert printed.index("40/100") < printed.index("60/100")
    assert "evil\\x1b[2J" in printed, "control characters are escaped"


def test_a_trial_without_metrics_has_no_loss_and_no_eta(storage):
    begin(storage, config())
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.step, trial.loss, trial.eta_seconds) == ("training", 0, None, None)


def test_printed_status_shows_counts_progress_and_errors(storage):
    begin(storage, config(seed=1), step=40)
    failed = {"status": "failed", "step": 7, "error": "the loss is nan at step 7"}
    begin(storage, config(seed=2), training=failed, claimed=False)
    (storage / "trials" / config(seed=2).trial_id / "logs" / "a.txt").write_bytes(b"what it said")
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    printed = console.file.getvalue()
    assert f"{storage.uri}: 1 failed, 1 training" in printed
    line = next(line for line in printed.splitlines() if config(seed=1).trial_id in line)
    assert "40/100" in line and "48s" in line
    assert "seed=1" in printed
    assert f"{config(seed=1).trial_id} on gpu3 (NVIDIA H200, 2 workers), claimed by head:" in printed
    log = storage / "trials" / config(seed=2).trial_id / "logs"
    assert f"{config(seed=2).trial_id} failed: the loss is nan at step 7; log: {log}" in printed
    table = [line for line in printed.splitlines() if "/100 " in line]
    assert max(map(len, table)) <= 80


def test_mixtures_show_dataset_variants_before_their_trials_finish(storage):
    part = {"status": "finished", "step": 100, "variants": {"svhn": "4,434 of 73,257"}}
    own = {"domains": ("cifar10", "svhn"), "data_fingerprint": "f" * 64}
    begin(storage, config(**own), step=100, training=part)
    begin(storage, config(**own, seed=1), step=40)
    begin(storage, config(domains=("cifar10", "stl10")), step=40)
    marked = "cifar10+svhn (4,434 of 73,257)"
    assert {trial.mixture for trial in trial_statuses(storage)} == {marked, "cifar10+stl10"}
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    assert "4,434 of" in console.file.getvalue()


def test_an_empty_storage_has_no_trials(storage):
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    assert console.file.getvalue().strip() == f"{storage.uri}: no trials"


def test_a_damaged_file_is_named(storage):
    begin(storage, config(), step=3)
    (storage / "trials" / config().trial_id / "metrics.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"metrics\.parquet is damaged"):
        trial_statuses(storage)


def test_status_imports_neither_torch_nor_ray():
    code = "import sys, mdssl.trials.status; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_eta_includes_evaluation_of_training_and_evaluating_trials(storage):
    def said():
        out = io.StringIO()
        print_status(storage, Console(file=out, width=80))
        return out.getvalue().splitlines()[0]

    slow, evaluated, done = config(seed=0), config(seed=1), config(seed=2)
    begin(storage, slow, step=40, views_per_second=20.0)
    begin(storage, evaluated, step=100, training={"status": "finished", "step": 100})
    # 60 steps with 40 views each.
    assert said().endswith("1 training, 1 evaluating; ETA over 2m00s for running trials")
    scores = [finished_score(done, name) | {"eval_seconds": seconds} for name, seconds in (("a", 90.0), ("b", 60.0))]
    write_rows(storage, done.trial_id, scores)
    # Evaluations run one after another: the second begins 30 seconds after its training.
    assert said().endswith("1 training, 1 evaluating, 1 finished; ETA 5m00s for running trials")


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
