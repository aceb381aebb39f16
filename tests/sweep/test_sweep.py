"""Sweeps end to end, by the command that a user types: trained once, grown, killed, failed and tried again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mdssl.storage.location import Location
from mdssl.storage.trial_log import read

SCRIPT = Path(__file__).parents[2] / "sweeps" / "lambda_grid.py"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(storage, data, *more):
    base = ["--domains", "tiny-a", "tiny-b", "--batch-per-domain", "8", "--precision", "fp32", "--report-every", "2"]
    base += ["--checkpoint-seconds", "0", "--storage", str(storage), "--data", data]
    return [sys.executable, str(SCRIPT), *base, *map(str, more)]


def sweep(storage, data, *more, code=0):
    result = subprocess.run(command(storage, data, *more), capture_output=True, text=True, timeout=200)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def encoders(storage):
    return {file.parent.name: file.stat().st_mtime_ns for file in Path(storage).glob("trials/*/encoder.safetensors")}


def table(output):
    """The lines of the printed table, from its header on."""
    return output[output.index("method") : output.index("leaderboard:")]


@pytest.fixture(scope="module")
def first(tiny_data, tmp_path_factory):
    """A finished sweep under TorchTrainer: random, simclr and one mdssl trial. Its storage and what it printed."""
    storage = tmp_path_factory.mktemp("results")
    one = ["--iterations", 6, "--lambda1", 0.9, "--lambda2", 0.1, "--evaluate", "tiny-a", "tiny-c"]
    return storage, sweep(storage, tiny_data, *one), one


def test_each_trial_fills_the_leaderboard(first):
    storage, output, _ = first
    board = pd.read_parquet(storage / "leaderboard")
    assert sorted(board["method"]) == ["mdssl", "mdssl", "random", "random", "simclr", "simclr"]
    assert set(board["status"]) == {"finished"}
    assert board["top1"].between(0, 100).all()
    trained = board[board["method"] != "random"]
    assert (trained["seen"] == (trained["eval_dataset"] == "tiny-a")).all()
    assert (trained["views_seen"] == 6 * 2 * 2 * 8).all()
    assert json.loads(trained["config_json"].iloc[0])["trial"]["iterations"] == 6
    assert re.search(r"mdssl λ1=0.9 λ2=0.1: step \d+/6  loss .* views/s  ETA", output), output
    assert "3 trials" in output


def test_output_is_ours_and_not_rays(first):
    _, output, _ = first
    for noise in ("(raylet)", "TorchTrainer pid", "RayTrainWorker", "tensorboard", "Traceback"):
        assert noise not in output


def test_nothing_is_left_over(first):
    storage, _, _ = first
    assert not [path for path in storage.rglob(".*") if path.name != ".ray"]
    assert not list(storage.glob(".ray/*"))


def test_the_same_command_again_trains_nothing(first, tiny_data):
    storage, output, arguments = first
    before = encoders(storage)
    # As a sweep leaves them that is killed between a trial's rows and its end; the second is nobody's business here.
    trial_id = min(before)
    method = json.loads((Path(storage) / "trials" / trial_id / "config.json").read_bytes())["method"]
    of_ours, of_others = (Path(storage) / ".ray" / f"{method}-{name}" for name in (trial_id, "0" * 12))
    for folder in (of_ours, of_others):
        (folder / "snapshot.json").parent.mkdir(parents=True)
    again = sweep(storage, tiny_data, *arguments)
    assert (of_ours.exists(), of_others.exists()) == (False, True)
    shutil.rmtree(of_others)
    assert "at a time" not in again, "Ray is not even started"
    assert encoders(storage) == before
    assert "3 already there" in again
    assert table(again) == table(output)


def test_a_sweep_grows_by_a_value_and_by_a_dataset(first, tiny_data):
    storage, _, arguments = first
    before = encoders(storage)
    grown = [*arguments, "--lambda2", 0.1, 0.0, "--evaluate", "tiny-a", "tiny-c", "tiny-b", "--executor", "inline"]
    plan = sweep(storage, tiny_data, *grown, "--dry-run")
    assert "3 only to be probed, 1 to be trained" in plan
    assert encoders(storage) == before, "a dry run does nothing"
    sweep(storage, tiny_data, *grown)
    after = encoders(storage)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    board = pd.read_parquet(storage / "leaderboard")
    assert len(board) == 12
    assert not board.duplicated(["trial_id", "eval_dataset", "features", "probe"]).any()


def test_force_deletes_finished_trials_and_trains_them_again(first, tiny_data, tmp_path):
    copy = shutil.copytree(first[0], tmp_path / "results")
    before = encoders(copy)
    sweep(copy, tiny_data, *first[2], "--force", "--executor", "inline")
    after = encoders(copy)
    assert after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before)


def test_a_killed_sweep_goes_on(tiny_data, tmp_path):
    """``kill -9`` of the sweep while a trial trains; the same command then trains on from the checkpoint."""
    arguments = ["--iterations", 30, "--lambda1", 0.9, "--lambda2", 0.1, "--executor", "inline", "--max-concurrent", 1]
    process = subprocess.Popen(
        command(tmp_path, tiny_data, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (begun := list(tmp_path.glob("trials/*/checkpoints/step-*0.safetensors"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(5)  # its workers notice that their driver is gone
    unfinished = begun[0].parent.parent
    assert not (unfinished / "encoder.safetensors").exists()
    started = json.loads((unfinished / "config.json").read_text())
    plan = sweep(tmp_path, tiny_data, *arguments, "--dry-run")
    assert re.search(rf"{unfinished.name} .*{started['method']}.* to go on from its checkpoint", plan)
    sweep(tmp_path, tiny_data, *arguments)
    board = pd.read_parquet(tmp_path / "leaderboard")
    assert set(board["status"]) == {"finished"}
    assert board["trial_id"].nunique() == 3
    metrics = pd.read_parquet(unfinished / "metrics.parquet")
    assert list(metrics["step"]) == list(range(2, 31, 2)), "every step once"


def test_a_trial_that_fails_is_a_row_and_the_sweep_goes_on(tiny_data, tmp_path):
    arguments = ["--iterations", 4, "--lambda1", 0.9, "--lambda2", 0.1, "--optimizer", "sgd"]
    arguments += ["--learning-rate", 1e30, "--lr-warmup-iterations", 0, "--executor", "inline"]
    output = sweep(tmp_path, tiny_data, *arguments, code=1)
    board = pd.read_parquet(tmp_path / "leaderboard").set_index("method")
    assert board["status"].to_dict() == {"random": "finished", "simclr": "failed", "mdssl": "failed"}
    assert re.search(r"not finite at step \d+: total .* within .* across", board.loc["mdssl", "error"])
    kept = read(Location.of(tmp_path) / "trials" / board.loc["mdssl", "trial_id"])
    assert re.search(r"Traceback[\s\S]*NonFiniteLossError: the loss is not finite at step", kept)
    assert "--retry-failed" in output
    assert "2 failed before" in sweep(tmp_path, tiny_data, *arguments, code=1)
    assert "2 to be trained" in sweep(tmp_path, tiny_data, *arguments, "--retry-failed", "--dry-run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lambda1", "-0.9"], "what they call -0.9 is lambda1 = 0.9"),
        (["--domains", "tiny-a", "tiny-a"], "domain 'tiny-a' is 2 times"),
        (["--domains", "tiny-x"], "unknown dataset 'tiny-x'"),
        (["--preset", "quik"], "Did you mean 'quick'"),
        (["--workers", "64"], "needs 64 CPUs"),
        (["--storage", "/proc/no"], "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(tiny_data, tmp_path, arguments, message):
    result = subprocess.run(
        command(tmp_path / "new", tiny_data, *arguments), capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "new").glob("**/*"))


def test_the_probe_actor_survives_a_crash(first, tiny_data):
    import ray

    from mdssl.config.run import ProbeConfig
    from mdssl.sweep.evaluator import Evaluator

    storage, _, _ = first
    trial_dir = next(storage.glob("trials/*/encoder.safetensors")).parent
    ray.init(address="local", num_cpus=1, log_to_driver=False, include_dashboard=True, dashboard_host="127.0.0.1")
    try:
        address = ray.get_runtime_context().gcs_address
        actor = Evaluator.remote(tiny_data, ProbeConfig(), "cpu")
        before = ray.get(actor.score.remote(str(trial_dir), ("tiny-a",)))
        from ray.util.state import list_actors

        pid = next(entry.pid for entry in list_actors(address) if entry.class_name == "Evaluator")
        os.kill(pid, signal.SIGKILL)
        after = ray.get(actor.score.remote(str(trial_dir), ("tiny-a",)))
        assert [row["top1"] for row in after["tiny-a"]] == [row["top1"] for row in before["tiny-a"]]
    finally:
        ray.shutdown()
