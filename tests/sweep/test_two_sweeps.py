"""Two sweeps share one storage: each trial is trained once, and trials of a killed process are resumed."""

import os
import signal
import sys

import pandas as pd
import pytest
from sweep_runs import SCRIPT, TINY, Running, assert_nothing_is_left_over, run_here, trained

from mdssl.storage.claim import Claim
from mdssl.storage.location import Location

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def start(tiny_data, tmp_path):
    running = []

    def sweep(*more, script=(SCRIPT,)):
        base = [sys.executable, *script, *TINY, "--storage", tmp_path / "results", "--data", tiny_data]
        running.append(Running(tmp_path / f"{len(running)}.txt", *base, *more))
        return running[-1]

    yield sweep
    for each in running:
        each.end()


def test_trials_of_two_sweeps_are_trained_once_and_scored_for_both(start, cluster, tiny_data, tmp_path):
    storage = tmp_path / "results"
    shared = ["--iterations", 12, "--report-every", 2, "--checkpoint-seconds", 0, "--lambda1", 0.9]
    shared += ["--executor", "inline", "--max-concurrent", 1, "--address", cluster]
    # The first sweep runs in a process of its own and has started Ray when the second begins.
    first = start(*shared, "--lambda2", 0.1, 0.0, "--evaluate", "tiny-a")
    first.wait_for("at a time")
    here = [*TINY, "--storage", storage, "--data", tiny_data, *shared]
    second = run_here(*here, "--lambda2", 0.1, 0.05, "--evaluate", "tiny-a", "tiny-c")
    first.ends(0)
    with_steps = {path.parent.name for path in storage.glob("trials/*/metrics.parquet")}
    random_id = pd.read_parquet(storage / "leaderboard").set_index("method").loc[["random"], "trial_id"].iloc[0]
    assert trained(first.said) | trained(second) == with_steps - {random_id}
    assert not trained(first.said) & trained(second), "no trial is trained by both sweeps"
    assert "waiting for" in first.said + second
    for trial_id in with_steps - {random_id}:
        steps = pd.read_parquet(storage / "trials" / trial_id / "metrics.parquet")["step"]
        assert list(steps) == list(range(2, 13, 2)), "each step is recorded once"
    board = pd.read_parquet(storage / "leaderboard")
    assert set(board["status"]) == {"finished"}
    scores = board.groupby(["method", "lambda2"], dropna=False)["eval_dataset"].apply(sorted).to_dict()
    by_lambda2 = {lambda2: found for (method, lambda2), found in scores.items() if method == "mdssl"}
    both = ["tiny-a", "tiny-c"]
    assert by_lambda2 == {0.1: both, 0.0: ["tiny-a"], 0.05: both}
    assert [found for (method, _), found in scores.items() if method != "mdssl"] == [both, both]
    assert_nothing_is_left_over(storage)


@pytest.mark.long
@pytest.mark.usefixtures("full_encoders")
def test_a_sweep_resumes_the_trial_of_a_killed_process(start, tmp_path):
    shared = ["--iterations", 20, "--report-every", 2, "--checkpoint-seconds", 0, "--lambda1", 0.9, "--lambda2", 0.1]
    first = start(*shared, "--device", "cpu", script=("-m", "mdssl", "train"))
    first.wait_for(r"step 6/20")
    # The process must stay alive, without training on, until the sweep has found its claim.
    os.kill(first.process.pid, signal.SIGSTOP)
    second = start(*shared, "--executor", "inline", "--max-concurrent", 1)
    trial_id = second.wait_for(r"([0-9a-f]{12}) [^\n]*: waiting for").group(1)
    os.kill(first.process.pid, signal.SIGKILL)
    storage = tmp_path / "results"
    assert not (storage / "trials" / trial_id / "encoder.safetensors").exists()
    second.ends(0)
    assert trial_id in trained(second.said)
    assert f"{trial_id} mdssl λ1=0.9 λ2=0.1: step 2/20" not in second.said, "the trial resumes from the checkpoint"
    steps = pd.read_parquet(storage / "trials" / trial_id / "metrics.parquet")["step"]
    assert list(steps) == list(range(2, 21, 2)), "each step is recorded once"
    board = pd.read_parquet(storage / "leaderboard")
    assert set(board["status"]) == {"finished"}
    assert board["trial_id"].nunique() == 3
    assert_nothing_is_left_over(storage)


@pytest.mark.long
@pytest.mark.usefixtures("full_encoders")
def test_mdssl_train_waits_for_a_trial_claimed_by_another_process(start, tmp_path):
    train = start("--iterations", 2, "--device", "cpu", script=("-m", "mdssl", "train"))
    train.ends(0)
    (trial_id,) = os.listdir(tmp_path / "results" / "trials")
    trial_dir = Location.of(tmp_path / "results" / "trials" / trial_id)
    trial_dir.delete()
    with Claim(trial_dir, "the test") as claim:
        claim.take()
        train = start("--iterations", 2, "--device", "cpu", script=("-m", "mdssl", "train"))
        train.wait_for(r"waiting for .*:\d+ \(the test\)")
        assert trial_dir.names() == ["claim.json"]
    train.ends(0)
    assert "encoder.safetensors" in trial_dir.names()
    assert_nothing_is_left_over(tmp_path / "results")
