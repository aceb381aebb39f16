"""End-to-end tests of sweeps by their commands: train, extend, kill and resume, fail and retry."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
from processes import ours, wait_for
from sweep_runs import (
    NOISE,
    SCRIPT,
    TINY,
    Running,
    assert_nothing_is_left_over,
    encoders,
    load_script,
    run_here,
    trained,
)

from mdssl import Sweep
from mdssl.cli.main import main
from mdssl.storage.claim import Owner
from mdssl.storage.claim_files import machine
from mdssl.storage.location import Location
from mdssl.storage.trial_log import read

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def flags(storage, data, *more):
    return [*TINY, "--report-every", 2, "--storage", storage, "--data", data, *more]


def table(output):
    """The printed table with its header."""
    return output[output.index("method") : output.index("leaderboard:")]


@pytest.fixture(scope="module")
def first(cluster, tiny_data, tmp_path_factory):
    """A finished sweep with TorchTrainer: random, simclr (trained by `mdssl train`), and one mdssl trial. Returns the
    storage, the output and the flags."""
    storage = tmp_path_factory.mktemp("results")
    trained = flags(storage, tiny_data, "--method", "simclr", "--iterations", 6, "--device", "cpu")
    assert main(["train", *map(str, trained)]) == 0
    one = ["--iterations", 6, "--lambda1", 0.9, "--lambda2", 0.1, "--evaluate", "tiny-a", "tiny-c"]
    words = [sys.executable, SCRIPT, *flags(storage, tiny_data, *one, "--address", cluster)]
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return storage, result.stdout + result.stderr, one


def test_each_trial_has_rows_in_the_leaderboard(first):
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


def test_output_has_no_messages_of_ray(first):
    assert not [noise for noise in NOISE if noise in first[1]], first[1]


def test_a_finished_sweep_leaves_no_temporary_files(first):
    assert_nothing_is_left_over(first[0])


def test_repeating_a_sweep_trains_nothing(first, tiny_data):
    storage, output, arguments = first
    before = encoders(storage)
    # A sweep that is killed after the rows of a trial are written leaves such records. The second is of another sweep.
    trial_id = min(before)
    method = json.loads((storage / "trials" / trial_id / "config.json").read_bytes())["method"]
    of_ours, of_others = (storage / ".ray" / f"{method}-{name}" for name in (trial_id, "0" * 12))
    for folder in (of_ours, of_others):
        (folder / "snapshot.json").parent.mkdir(parents=True)
    other = storage / "trials" / max(before)
    dead = Owner("f" * 32, "here", pid=2**23, machine=machine(), started=1)
    (other / "claim.json").write_bytes(dead.to_bytes())
    again = run_here(*flags(storage, tiny_data, *arguments))
    assert (of_ours.exists(), of_others.exists()) == (False, True)
    assert not list(other.glob("claim*"))
    shutil.rmtree(of_others)
    assert "at a time" not in again, "Ray is not started"
    assert encoders(storage) == before
    assert "3 finished" in again
    assert table(again) == table(output)


def test_a_trial_trained_by_mdssl_train_is_only_scored(first):
    assert re.search(r"2 queued to train", first[1]), first[1]
    assert {line.split()[1] for line in re.findall(r"[0-9a-f]{12} \w+ .*: step \d+/", first[1])} == {"mdssl"}


def test_a_sweep_can_be_extended_by_a_value_and_a_dataset(first, cluster, tiny_data):
    storage, _, arguments = first
    before = encoders(storage)
    grown = [*arguments, "--lambda2", 0.1, 0.0, "--evaluate", "tiny-a", "tiny-c", "tiny-b", "--executor", "inline"]
    grown = flags(storage, tiny_data, *grown, "--address", cluster)
    assert "3 queued to evaluate, 1 queued to train" in run_here(*grown, "--dry-run")
    assert encoders(storage) == before, "a dry run trains nothing"
    run_here(*grown)
    after = encoders(storage)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    board = pd.read_parquet(storage / "leaderboard")
    assert len(board) == 12
    assert not board.duplicated(["trial_id", "eval_dataset", "features", "probe"]).any()


@pytest.mark.parametrize("executor", ["inline", pytest.param("torchtrainer", marks=pytest.mark.long)])
def test_a_longer_trial_continues_from_the_stable_part_of_a_shorter_one(executor, cluster, tiny_data, tmp_path):
    """tests/pretrain/test_stable.py tests that its encoder equals that of a trial from step 0."""
    asked = {"domains": ("tiny-a", "tiny-b"), "arch": "resnet18", "batch_per_domain": 8, "precision": "fp32"}
    asked |= {
        "schedule": "wsd",
        "decay_fraction": 0.4,
        "lr_warmup_iterations": 1,
        "storage": str(tmp_path),
        "data": tiny_data,
    }
    for iterations in (5, 10):
        sweep = Sweep(methods=["simclr"], iterations=iterations, executor=executor, address=cluster, **asked)
        sweep.run()
    ended = [json.loads(file.read_bytes()) for file in tmp_path.glob("trials/*/training.json")]
    assert {each["step"]: (each["continued_from"] or {}).get("step") for each in ended} == {5: None, 10: 3}


def test_a_killed_sweep_resumes_from_its_checkpoint(cluster, tiny_data, tmp_path):
    """``kill -9`` ends a sweep with its own Ray, and its trial processes, which would end soon anyway. The same command
    then resumes from the checkpoint on a cluster."""
    storage = tmp_path / "results"
    same = ["--iterations", 80, "--checkpoint-seconds", 0, "--lambda1", 0.9, "--lambda2", 0.1]
    same = flags(storage, tiny_data, *same, "--evaluate", "tiny-a", "--executor", "inline", "--max-concurrent", 1)
    killed = Running(tmp_path / "said.txt", sys.executable, SCRIPT, *same)
    try:
        killed.wait_for(lambda: list(storage.glob("trials/*/checkpoints/step-*.safetensors")))
        trials = killed.processes("ray::ImplicitFunc")
        for pid in (killed.process.pid, *trials):
            os.kill(pid, signal.SIGKILL)
        assert trials
    finally:
        killed.end()
    # The agents of Ray do not train. They may remain for some minutes on a busy machine.
    wait_for(lambda: not [line for line in ours(killed.token).values() if "Agent" not in line])
    (unfinished,) = (file.parent for file in storage.glob("trials/*/checkpoints"))
    assert not (unfinished / "encoder.safetensors").exists()
    method = json.loads((unfinished / "config.json").read_text())["method"]
    plan = run_here(*same, "--dry-run")
    assert re.search(rf"{unfinished.name} .*{method}.* queued to resume", plan)
    run_here(*same, "--address", cluster)
    board = pd.read_parquet(storage / "leaderboard")
    assert set(board["status"]) == {"finished"}
    assert board["trial_id"].nunique() == 3
    metrics = pd.read_parquet(unfinished / "metrics.parquet")
    assert list(metrics["step"]) == list(range(2, 81, 2)), "each step is recorded once"


@pytest.mark.parametrize("executor", ["inline", pytest.param("torchtrainer", marks=pytest.mark.long)])
def test_mdssl_stop_ends_single_trials_of_a_running_sweep(executor, cluster, tiny_data, tmp_path, capsys):
    """Stops the training trial, a queued trial and, with a condition, the next trial. The sweep completes the rest."""
    storage = tmp_path / "results"
    same = ["--iterations", 20_000, "--lambda1", 0.9, "--lambda2", 0.1, 0.2, "--evaluate", "tiny-a"]
    same += ["--max-concurrent", 1, "--executor", executor, "--address", cluster]
    same = flags(storage, tiny_data, *same)
    here = ["--storage", str(storage)]
    planned = re.findall(r"^  ([0-9a-f]{12})  ", run_here(*same, "--dry-run"), re.MULTILINE)
    _, simclr, second, queued = planned
    sweep = Running(tmp_path / "said.txt", sys.executable, SCRIPT, *same)
    try:
        sweep.wait_for(f"{simclr} .*: step ")
        assert main(["delete", simclr, "--yes", *here]) == 2
        assert f"claimed by a living process: {simclr} by" in capsys.readouterr().err
        assert main(["stop", simclr, queued, *here]) == 0
        sweep.wait_for(f"{second} .*: step ")
        assert main(["stop", "--where", "status=training", *here]) == 0
        sweep.ends(0)
    finally:
        sweep.end()
    board = pd.read_parquet(storage / "leaderboard").set_index("trial_id")
    assert board["status"].to_dict() == {planned[0]: "finished", simclr: "stopped", second: "stopped"}
    assert all(0 < board.loc[name, "step"] < 20_000 for name in (simclr, second))
    assert f"stopped on request: {simclr}, {second}, {queued}; after" in sweep.said
    assert "stopped early at step" in read(Location.of(storage) / "trials" / simclr)
    assert_nothing_is_left_over(storage)
    assert not trained(run_here(*same)), "the same command does not train stopped trials"
    capsys.readouterr()
    assert main(["retry", simclr, queued, *here]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "continues from its checkpoint" in said[0] and "trains it from the start" in said[1]
    again = run_here(*same, "--dry-run")
    assert re.search(f"{simclr} .* queued to resume", again) and re.search(f"{queued} .* queued to train", again)


def test_failed_trials_have_rows_and_force_retrains_finished_trials(first, cluster, tiny_data, tmp_path):
    """The storage has an untrained encoder, which this sweep shares, and two trials that it does not."""
    storage = shutil.copytree(first[0], tmp_path / "results")
    there, before = pd.read_parquet(storage / "leaderboard"), encoders(storage)
    random_id = there.set_index("method")["trial_id"].loc["random"].iloc[0]
    arguments = ["--iterations", 4, "--lambda1", 0.9, "--lambda2", 0.1, "--optimizer", "sgd", "--evaluate", "tiny-a"]
    arguments += ["--learning-rate", 1e30, "--lr-warmup-iterations", 0, "--executor", "inline", "--address", cluster]
    arguments = flags(storage, tiny_data, *arguments)
    output = run_here(*arguments, "--force", code=1)
    after = encoders(storage)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] > before[name]} == {random_id}
    board = pd.read_parquet(storage / "leaderboard")
    of_random = board[board["trial_id"] == random_id]
    assert list(of_random["eval_dataset"]) == ["tiny-a"], "its old rows were deleted"
    assert set(there["trial_id"]) < set(board["trial_id"])
    board = board[~board["trial_id"].isin(there["trial_id"])].set_index("method")
    assert board["status"].to_dict() == {"simclr": "failed", "mdssl": "failed"}
    assert re.search(r"not finite at step \d+: total .* within .* across", board.loc["mdssl", "error"])
    kept = read(Location.of(storage) / "trials" / board.loc["mdssl", "trial_id"])
    assert re.search(r"Traceback[\s\S]*NonFiniteLossError: the loss is not finite at step", kept)
    assert "--retry-failed" in output
    assert "2 failed (train them again with --retry-failed)" in run_here(*arguments, code=1)
    assert "2 queued to train" in run_here(*arguments, "--retry-failed", "--dry-run")


BAD_INPUT = [
    (["--lambda1", "-0.9"], "what they call -0.9 is lambda1 = 0.9"),
    (["--domains", "tiny-a", "tiny-a"], "domain 'tiny-a' is 2 times"),
    (["--domains", "tiny-x"], "unknown dataset 'tiny-x'"),
    (["--preset", "quik"], "Did you mean 'quick'"),
    (["--workers", "64"], "needs 64 CPUs"),
    (["--storage", "/proc/no"], "cannot be written"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_gives_one_message_and_writes_no_files(tiny_data, tmp_path, capsys, arguments, message):
    words = [str(word) for word in flags(tmp_path / "new", tiny_data, *arguments)]
    assert load_script("lambda_grid").main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err
    assert message not in said.out
    assert not list((tmp_path / "new").glob("**/*"))


def test_the_probe_actor_survives_a_crash(first, cluster, tiny_data):
    import ray
    from ray.util.state import list_actors

    from mdssl.config.probe import ProbeConfig
    from mdssl.sweep.evaluator import Evaluator

    trial_dir = next(first[0].glob("trials/*/encoder.safetensors")).parent
    ray.init(address=cluster, log_to_driver=False)
    try:
        actor = Evaluator.remote(tiny_data, ProbeConfig(), "cpu")
        before = ray.get(actor.score.remote(str(trial_dir), ("tiny-a",)))
        alive = [("class_name", "=", "Evaluator"), ("state", "=", "ALIVE")]
        (entry,) = list_actors(cluster, filters=alive)
        os.kill(entry.pid, signal.SIGKILL)
        after = ray.get(actor.score.remote(str(trial_dir), ("tiny-a",)))
        assert [row["top1"] for row in after["tiny-a"]] == [row["top1"] for row in before["tiny-a"]]
    finally:
        ray.shutdown()
