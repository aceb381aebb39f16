"""What `mdssl status` says, from storages in all the states that trials go through."""

import io
import json
import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mdssl.config import TrialConfig
from mdssl.results.leaderboard import write_rows
from mdssl.storage import Location
from mdssl.sweep.rows import failed_row
from mdssl.sweep.status import print_status, trial_statuses

CONTEXT = {"sweep": "s", "preset": "quick", "git_commit": "", "ray_version": ""}
STARTED = "2026-01-01T00:00:00+00:00"


def config(**changes):
    base = {"domains": ("a", "b"), "arch": "resnet18", "iterations": 100, "batch_per_domain": 10, "precision": "fp32"}
    return TrialConfig(**base | changes)


def begin(storage, trial, *, step=None, views_per_second=50.0, training=None, seconds_ago=0.0):
    folder = storage / "trials" / trial.trial_id
    (folder / "config.json").write_bytes(json.dumps(trial.to_dict()).encode())
    if step is not None:
        rows = [{"step": at, "loss": 9.0 - at / 10, "views_per_second": views_per_second} for at in (step - 1, step)]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        (folder / "metrics.parquet").write_bytes(buffer.getvalue())
    if training:
        (folder / "training.json").write_bytes(json.dumps(training).encode())
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


def test_every_state_is_told_from_the_files_alone(storage):
    trials = {seed: config(seed=seed) for seed in range(6)}
    write_rows(storage, trials[0].trial_id, [finished_score(trials[0], name) for name in ("a", "b")])
    begin(storage, trials[1], step=40)
    begin(storage, trials[2], step=40, seconds_ago=600)
    begin(storage, trials[3], step=100, training={"status": "finished", "step": 100})
    begin(storage, trials[4], training={"status": "failed", "step": 7, "error": "the loss is nan\nmore"})
    failure = failed_row(trials[5], "ValueError: no such file\nTraceback", context=CONTEXT, started_at=STARTED)
    write_rows(storage, trials[5].trial_id, [failure])
    (storage / "trials" / "notes.txt" / "x").write_bytes(b"a folder of somebody's own")

    found = {trial.config.seed: trial for trial in trial_statuses(storage)}
    states = {seed: trial.state for seed, trial in found.items()}
    assert states == {0: "finished", 1: "training", 2: "silent", 3: "trained", 4: "failed", 5: "failed"}
    assert (found[0].scores, found[0].seconds_ago) == (2, None)
    assert (found[1].step, found[1].loss) == (40, 5.0)
    # 60 steps of 2 domains × 10 images × 2 views at 50 views/s.
    assert found[1].eta_seconds == pytest.approx(60 * 40 / 50)
    assert found[2].seconds_ago == pytest.approx(600, abs=5)
    assert found[2].eta_seconds is None
    assert (found[4].step, found[4].error) == (7, "the loss is nan")
    assert found[5].error == "ValueError: no such file"


def test_a_trial_that_has_just_begun_has_no_numbers_yet(storage):
    begin(storage, config())
    (trial,) = trial_statuses(storage)
    assert (trial.state, trial.step, trial.loss, trial.eta_seconds) == ("training", 0, None, None)


def test_what_is_printed_says_how_many_how_far_and_why(storage):
    begin(storage, config(seed=1), step=40)
    begin(storage, config(seed=2), training={"status": "failed", "step": 7, "error": "the loss is nan at step 7"})
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    printed = console.file.getvalue()
    assert f"{storage.uri}: 1 failed, 1 training" in printed
    line = next(line for line in printed.splitlines() if config(seed=1).trial_id in line)
    assert "40/100" in line and "48s" in line and "seed=1" in line
    assert f"{config(seed=2).trial_id} failed: the loss is nan at step 7" in printed


def test_an_empty_storage_has_no_trials(storage):
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    assert console.file.getvalue().strip() == f"{storage.uri}: no trials"


def test_a_damaged_file_is_named(storage):
    begin(storage, config(), step=3)
    (storage / "trials" / config().trial_id / "metrics.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ValueError, match=r"metrics\.parquet is damaged"):
        trial_statuses(storage)


def test_it_needs_neither_torch_nor_ray():
    code = "import sys, mdssl.sweep.status; print({'torch', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
