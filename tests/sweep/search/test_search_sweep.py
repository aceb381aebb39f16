"""A search from start to end: the trials that it runs and stops early, also if the search is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import CONTEXT
from processes import wait_for
from sweep_runs import SWEEPS, TINY, Running, assert_nothing_is_left_over, run_here, running_ray, trained

from mdssl import Sweep
from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import write_rows
from mdssl.pretrain.checkpoint import latest_step
from mdssl.pretrain.trial_files import now
from mdssl.storage.location import Location
from mdssl.trials.rows import failed_row
from mdssl.trials.status import trial_statuses

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUNGS = (2, 6)
TRIALS = 9
SPACE = ["--range", "lambda1", "0.8", "1", "0.05", "--range", "learning_rate", "0.05", "5", "log"]
SEARCH = [
    *TINY,
    *SPACE,
    "--trials",
    TRIALS,
    "--iterations",
    18,
    "--grace-steps",
    2,
    "--report-every",
    2,
    "--max-concurrent",
    1,
]


@pytest.fixture(scope="module")
def search(cluster, tiny_data):
    """The flags of a search that runs one trial at a time."""
    return [*SEARCH, "--address", cluster, "--data", tiny_data, "--executor", "inline", "--checkpoint-seconds", 0]


@pytest.fixture(scope="module")
def searched(search, tmp_path_factory):
    """The storage of a finished search, and its output."""
    storage = tmp_path_factory.mktemp("searched") / "results"
    return storage, run_here(*search, "--storage", storage, script="search")


def history(storage):
    """The trials of a search, ordered by their start: id, status, step and the scores at the rungs."""
    board = pd.read_parquet(storage / "leaderboard")
    board = board[board["method"] == "mdssl"]
    found = []
    for trial_id, rows in board.sort_values("started_at").groupby("trial_id", sort=False):
        metrics = pd.read_parquet(storage / "trials" / trial_id / "metrics.parquet").dropna(subset="val_linear_top1")
        scores = dict(zip(metrics["step"], metrics["val_linear_top1"], strict=True))
        (status,), (step,) = rows["status"].unique(), rows["step"].unique()
        found.append((trial_id, status, step, {rung: scores[rung] for rung in RUNGS if rung in scores}))
    return found


def test_search_runs_the_requested_number_of_trials_and_stops_poor_ones_early(searched):
    storage, said = searched
    trials = history(storage)
    assert len(trials) == TRIALS
    assert {status for _, status, _, _ in trials} == {"finished", "stopped"}
    for number, (trial_id, status, step, scores) in enumerate(trials):
        ends = {rung: False for rung in RUNGS}
        for rung in scores:
            before = [other[rung] for _, _, _, other in trials[:number] if rung in other]
            ends[rung] = bool(before) and scores[rung] < np.percentile(before, 200 / 3)
        expected = next((rung for rung, ended in ends.items() if ended), 18)
        assert (status, step) == ("finished" if expected == 18 else "stopped", expected), trial_id
    assert_nothing_is_left_over(storage)
    board = pd.read_parquet(storage / "leaderboard")
    stopped = board[board["status"] == "stopped"]
    assert stopped["top1"].isna().all() and stopped["val_linear_top1"].notna().all()
    assert (stopped["train_seconds"] > 0).all()
    finished = board[board["status"] == "finished"]
    assert finished["val_top1"].notna().all(), "baselines have validation scores, too"
    assert set(board["method"]) == {"random", "simclr", "mdssl"}
    assert "best trial by validation score" in said


def test_repeating_a_search_trains_nothing(searched, search):
    storage, _ = searched
    before = {file: file.stat().st_mtime_ns for file in (storage / "leaderboard").iterdir()}
    again = run_here(*search, "--storage", storage, script="search")
    assert "to train" not in again and "chosen by" not in again
    assert {file: file.stat().st_mtime_ns for file in (storage / "leaderboard").iterdir()} == before


@pytest.mark.parametrize("after", [(3,), pytest.param((2, 5), marks=pytest.mark.long)])
def test_a_killed_search_runs_and_stops_the_same_trials(searched, search, tmp_path, after):
    storage, _ = searched
    again = tmp_path / "results"
    for count in after:
        sweep = Running(tmp_path / f"{count}.txt", sys.executable, SWEEPS / "search.py", *search, "--storage", again)
        try:
            sweep.wait_for(lambda count=count: len(list(again.glob("leaderboard/*.parquet"))) >= count + 2)
            os.killpg(sweep.process.pid, signal.SIGKILL)
        finally:
            sweep.end()
        # The cluster ends the process of a trial soon after its driver. Until then the trial remains claimed.
        wait_for(lambda: all(trial.state in ("finished", "stopped") for trial in trial_statuses(str(again))), 60)
    said = run_here(*search, "--storage", again, script="search")
    assert re.search(r"\d chosen by optuna search", " ".join(said.split()))
    assert history(again) == history(storage)


def test_a_grid_resumes_a_trial_that_a_search_stopped_early(searched, search, tmp_path, tiny_data, cluster):
    """tests/pretrain/test_resumption.py tests that its encoder equals that of an uninterrupted trial."""
    storage, _ = searched
    trial_id, _, step, _ = next(trial for trial in history(storage) if trial[1] == "stopped")
    rows = pd.read_parquet(storage / "leaderboard" / f"{trial_id}.parquet")
    trial = json.loads(rows["config_json"].iloc[0])["trial"]
    flags = [*TINY, "--iterations", 18, "--lambda1", trial["lambda1"], "--lambda2", trial["lambda2"]]
    flags += ["--learning-rate", trial["learning_rate"], "--address", cluster, "--data", tiny_data]
    said = run_here(*flags, "--executor", "inline", "--storage", storage)
    assert "1 queued to resume" in said
    after = pd.read_parquet(storage / "leaderboard" / f"{trial_id}.parquet")
    assert set(after["status"]) == {"finished"} and set(after["step"]) == {18}
    assert step < 18


def plant_failed(storage: Location, config: TrialConfig, step: int, score: float) -> None:
    """Write ``config`` as a trial that failed after its first score."""
    write_rows(storage, config.trial_id, [failed_row(config, "it failed", context=CONTEXT, started_at=now())])
    metrics = pa.Table.from_pylist([{"step": step, **{f"val_linear_top1/{name}": score for name in config.domains}}])
    folder = Path(storage.path, "trials", config.trial_id)
    folder.mkdir(parents=True)
    pq.write_table(metrics, folder / "metrics.parquet")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_all_workers_of_a_trial_stop_early_together(workers, cluster, tiny_data, tmp_path):
    """The storage also has a failed trial whose score no other trial reaches."""
    asked = {"domains": ("tiny-a", "tiny-b"), "arch": "resnet18", "batch_per_domain": 8, "precision": "fp32"}
    asked |= {"iterations": 12, "norm": "group", "lambda1": (1.0,), "lambda2": (0.1, 0.0), "report_every": 2}
    asked |= {"scheduler": "asha", "grace_steps": 4, "workers": workers, "address": cluster, "data": tiny_data}
    sweep = Sweep(methods=["mdssl"], storage=str(tmp_path / "results"), **asked)
    trial, best = sweep.trials()
    storage = Location.of(tmp_path / "results")
    plant_failed(storage, best, step=4, score=100.0)

    board = sweep.run().set_index("trial_id").loc[[trial.trial_id]]
    assert set(board["status"]) == {"stopped"} and set(board["step"]) == {4} and set(board["num_workers"]) == {workers}
    assert sorted(board["eval_dataset"]) == ["tiny-a", "tiny-b"]
    assert latest_step(storage / "trials" / trial.trial_id / "checkpoints") == 4
    assert_nothing_is_left_over(tmp_path / "results")


def test_extend_finishes_the_best_trial_stopped_early(search, searched):
    storage, _ = searched
    stopped = [trial for trial in history(storage) if trial[1] == "stopped"]
    best = max(stopped, key=lambda trial: trial[3][max(trial[3])])
    run_here(*search, "--storage", storage, "--extend", 1, script="search")
    after = {trial_id: (status, step) for trial_id, status, step, _ in history(storage)}
    assert after[best[0]] == ("finished", 18)
    assert sum(status == "stopped" for status, _ in after.values()) == len(stopped) - 1


def test_two_concurrent_searches_train_each_trial_once(search, tmp_path):
    storage, trials = tmp_path / "results", 6
    flags = [*search, "--trials", trials, "--search", "random", "--storage", storage]
    other = Running(tmp_path / "other.txt", sys.executable, SWEEPS / "search.py", *flags)
    try:
        other.wait_for("at a time")
        said = run_here(*flags, script="search")
        other.ends(0)
    finally:
        other.end()
    assert trained(said) and trained(other.said) and not trained(said) & trained(other.said)
    found = history(storage)
    assert {status for _, status, _, _ in found} <= {"finished", "stopped"}
    assert len(found) == trials, "both searches together have the requested number of trials"
    for trial_id, _, step, _ in found:
        steps = pd.read_parquet(storage / "trials" / trial_id / "metrics.parquet")["step"]
        assert list(steps) == list(range(2, step + 1, 2)), "each step is recorded once"
    assert_nothing_is_left_over(storage)


LEFT = """
import json, ray, sys
from ray.experimental import internal_kv
from ray.util import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
groups = [group["state"] for group in placement_group_table().values()]
records = [key.decode() for key in internal_kv._internal_kv_list(b"mdssl-")]
print(json.dumps({"groups": groups, "records": records, "free": ray.available_resources().get("CPU")}))
"""


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("executor", "workers", "stops"), [("inline", 1, 100), ("torchtrainer", 1, 100), ("torchtrainer", 2, 20)]
)
def test_trials_stopped_early_leave_no_resources_or_records(executor, workers, stops, tiny_data, tmp_path):
    """A second Ray cluster runs on the machine."""
    asked = {"domains": ("tiny-a", "tiny-b"), "arch": "resnet18", "batch_per_domain": 8, "precision": "fp32"}
    asked |= {"iterations": 4, "norm": "group", "lambda1": (1.0,), "lambda2": (0.1,)}
    asked |= {"temperature": tuple(0.1 + number / 1000 for number in range(3 * stops // 2))}
    asked |= {"scheduler": "asha", "grace_steps": 1, "report_every": 1, "workers": workers, "executor": executor}
    storage = tmp_path / "results"
    with running_ray(1, dashboard=False), running_ray(2) as address:
        sweep = Sweep(methods=["mdssl"], storage=str(storage), address=address, data=tiny_data, **asked)
        *_, planted = sweep.trials()
        plant_failed(Location.of(storage), planted, step=1, score=100.0)
        board = sweep.run()
        left = subprocess.run([sys.executable, "-c", LEFT, address], capture_output=True, text=True, check=True).stdout
    stopped = board[board["status"] == "stopped"]["trial_id"].unique()
    assert len(stopped) >= stops
    assert json.loads(left) == {"groups": ["REMOVED"] * len(json.loads(left)["groups"]), "records": [], "free": 2.0}
    assert_nothing_is_left_over(storage)
    # The time from the last checkpoint of a trial to its row. The workers end before the row is written.
    saved = [next((storage / "trials" / each / "checkpoints").glob("step-*")).stat().st_mtime for each in stopped]
    written = [(storage / "leaderboard" / f"{each}.parquet").stat().st_mtime for each in stopped]
    seconds = np.subtract(written, saved)
    print(f"{len(stopped)} ended early; seconds until a row: median {np.median(seconds):.2f}, most {seconds.max():.2f}")
    assert np.percentile(seconds, 95) < 5
