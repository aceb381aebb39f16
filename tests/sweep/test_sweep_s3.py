"""Data and results in a bucket: training, a killed sweep, probes, the leaderboard and server outages."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import s3_server
from sweep_runs import SCRIPT, Running, run_here, trained

from mdssl.cli.main import main
from mdssl.storage.location import Location

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# A trial has fifteen checkpoints, so that the sweep is killed in the middle of a trial.
TINY = ["--domains", "tiny-a", "tiny-b", "--batch-per-domain", "8", "--precision", "fp32", "--report-every", "4"]
TINY += ["--checkpoint-seconds", "0", "--iterations", "60", "--lambda1", "0.9", "--lambda2", "0.1"]


@pytest.fixture
def results(bucket, tiny_data, data_cache, monkeypatch):
    """The location of results in a bucket that has data."""
    shutil.rmtree(data_cache, ignore_errors=True)
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(data_cache))
    s3_server.sync(tiny_data, f"{bucket}/data")
    return Location.of(f"{bucket}/results")


def places(results):
    return ["--storage", str(results), "--data", f"{results.parent}/data"]


def flags(results, *more):
    return [*TINY, *places(results), "--evaluate", "tiny-a", *more]


def begun(results):
    """Trials with a checkpoint and without an encoder."""
    names = (results / "trials").names()
    return [
        name
        for name in names
        if (results / "trials" / name / "checkpoints").names()
        and not (results / "trials" / name / "encoder.safetensors").exists()
    ]


def test_all_commands_work_with_data_and_results_in_a_bucket(results, cluster, data_cache, tmp_path, capsys):
    def said(*command):
        assert main([str(word) for word in command]) == 0
        return capsys.readouterr().out

    storage, data = places(results)[:2], places(results)[2:]
    alone = said("train", *TINY, "--device", "cpu", *storage, *data)
    trial_id = re.search(r"mdssl probe ([0-9a-f]{12})", alone).group(1)

    # Kill (SIGKILL) a sweep on a cluster while its first trial trains.
    there = ["--executor", "inline", "--max-concurrent", "1", "--address", cluster]
    killed = Running(tmp_path / "said.txt", sys.executable, SCRIPT, *flags(results, *there))
    try:
        (unfinished,) = killed.wait_for(lambda: begun(results))
    finally:
        killed.end()
    assert re.search(rf"{unfinished} .*\d+/60", said("status", *storage)), "the trial has not finished"

    # The same sweep resumes from the checkpoint, this time in workers of Ray Train.
    again = run_here(*flags(results, "--address", cluster))
    assert unfinished in trained(again)
    assert trial_id not in trained(again), "the trial was trained by `mdssl train`"
    for trial in [unfinished, trial_id]:
        steps = pd.read_parquet((results / "trials" / trial / "metrics.parquet").uri)["step"]
        assert list(steps) == list(range(4, 61, 4)), "each step is recorded once"

    probe = ["probe", trial_id, "--evaluate", "tiny-a", "tiny-c", *storage, *data]
    assert re.search(r"tiny-a: scored already\ntiny-c \(encoder, lbfgs\): top-1", said(*probe))
    board = pd.read_parquet(f"{results}/leaderboard")
    assert set(board["status"]) == {"finished"}
    assert sorted(zip(board["method"], board["eval_dataset"], strict=True)) == [
        ("mdssl", "tiny-a"), ("mdssl", "tiny-c"), ("random", "tiny-a"), ("simclr", "tiny-a"),
    ]  # fmt: skip
    assert all(Location.of(file).exists() for file in board["checkpoint"])
    table = said("leaderboard", *storage)
    copied, _, as_before = said("leaderboard", "--compact", *storage).partition("\n")
    assert "leaderboard-compacted.parquet" in copied
    assert as_before == table
    assert "3 finished" in said("status", *storage)

    # This node has one copy of each dataset, and no claims, bids or records of Ray are left.
    (copy,) = data_cache.iterdir()
    assert sorted(path.name for path in copy.iterdir() if path.is_dir()) == ["tiny-a", "tiny-b", "tiny-c"]
    assert results.names() == ["leaderboard", "leaderboard-compacted.parquet", "trials"]
    assert not (results / ".ray").names()
    files = {name for trial in (results / "trials").names() for name in (results / "trials" / trial).names()}
    assert not [name for name in files if name.startswith("claim")]


@pytest.mark.parametrize("setting", ["storage", "data"])
def test_a_missing_bucket_is_refused_before_the_start(results, bucket, setting, capsys):
    from mdssl.sweep.launch import run_sweep
    from mdssl.sweep.settings import SweepSettings

    given = {"storage": f"{bucket}/results", "data": f"{bucket}/data"} | {setting: f"{bucket}x/here"}
    message = f"'{bucket}x/here' cannot be opened: there is no bucket '{bucket[5:]}x'"
    with pytest.raises(ValueError, match=message):
        run_sweep("lambda_grid", SweepSettings(domains=("tiny-a", "tiny-b"), **given), [{"method": "simclr"}])
    assert main(["train", *TINY, "--storage", given["storage"], "--data", given["data"]]) == 2
    assert message in capsys.readouterr().err
    assert not results.names()


def for_a_while(kind, seconds, since=""):
    """Refuse requests of a kind for some seconds, beginning with the first that has ``since`` in its path."""
    begun = []

    def refuses(method, path):
        if not begun and kind(method, path) and since in path:
            begun.append(time.monotonic())
        return bool(begun) and kind(method, path) and time.monotonic() < begun[0] + seconds

    return refuses


ONE_TRIAL = """
import sys
from mdssl.sweep.launch import run_sweep
from mdssl.sweep.settings import SweepSettings
storage, data, executor = sys.argv[1:]
settings = SweepSettings(
    domains=("tiny-a",), evaluate=("tiny-a",), storage=storage, data=data, executor=executor,
    arch="resnet18", iterations=2, batch_per_domain=8, checkpoint_seconds=0, report_every=1, seeds=(0,),
)
sys.exit(run_sweep("one", settings, [{"method": "simclr"}]))
"""
LONG = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("executor", "refuses"),
    [
        pytest.param("inline", for_a_while(s3_server.writes, 8, "/claim.json"), marks=pytest.mark.long),
        pytest.param("torchtrainer", for_a_while(s3_server.writes, 180, "/claim.json"), marks=LONG),
        pytest.param("torchtrainer", for_a_while(s3_server.lists, 180), marks=LONG),
        pytest.param("torchtrainer", for_a_while(s3_server.everything, 180, "/checkpoints/"), marks=LONG),
        pytest.param("torchtrainer", for_a_while(s3_server.everything, 180), marks=LONG),
    ],
    ids=["writes", "writes for 3 minutes", "lists", "everything", "everything from the first request"],
)
def test_a_sweep_waits_for_a_throttling_server(gate, results, executor, refuses):
    gate.refuses = refuses
    command = [sys.executable, "-c", ONE_TRIAL, *places(results)[1::2], executor]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert gate.refused
    assert set(pd.read_parquet(f"{results}/leaderboard")["status"]) == {"finished"}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_sweep_survives_repeated_server_outages(gate, results):
    """Each outage takes 20 s, which is longer than the retries of the clients."""
    running = subprocess.Popen(
        [sys.executable, SCRIPT, *flags(results)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while running.poll() is None:
        time.sleep(20)
        gate.go_away()
        time.sleep(20)
        gate.come_back()
    assert running.returncode == 0, running.communicate()[0]
    assert set(pd.read_parquet(f"{results}/leaderboard")["status"]) == {"finished"}


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("executor", ["inline", "torchtrainer"])
def test_after_sigterm_during_a_server_outage_the_same_command_finishes_the_sweep(executor, gate, results, tmp_path):
    flags_here = flags(results, "--executor", executor, "--max-concurrent", "1")
    sweep = Running(tmp_path / "said.txt", sys.executable, SCRIPT, *flags_here)
    try:
        sweep.wait_for(lambda: begun(results))
        gate.refuses = s3_server.everything
        time.sleep(10)
        sweep.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        sweep.ends(128 + signal.SIGTERM)
        # With TorchTrainer, worker, trial and driver fail one after the other. A request may take 6 s to fail.
        seconds = 20 if executor == "inline" else 40
        assert time.monotonic() - signalled < seconds * max(os.getloadavg()[0] / os.cpu_count(), 1)
    finally:
        sweep.end()
    assert "terminated; the same command resumes from what was saved." in sweep.said
    assert "Traceback" not in sweep.said
    gate.refuses = s3_server.nothing
    assert "1 queued to resume" in run_here(*flags_here)
    assert set(pd.read_parquet(f"{results}/leaderboard")["status"]) == {"finished"}
