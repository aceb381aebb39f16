"""Failures of processes of a sweep: trials and sweeps resume afterwards."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import ray
import ray.train
from processes import ours
from sweep_runs import NOISE, SCRIPT, Running, assert_nothing_is_left_over, run_here, saved_steps, stop_a_sweep

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.pretrain.loop import train
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.evaluator import Evaluator

CONFIG = TrialConfig(method="random", arch="resnet18")


def command(storage, data, script=SCRIPT):
    base = [sys.executable, script, "--domains", "tiny-a", "--batch-per-domain", "8", "--precision", "fp32"]
    base += ["--lambda1", "1", "--lambda2", "0", "--report-every", "2", "--storage", storage, "--data", data]
    return [str(word) for word in base]


def assert_the_trial_went_on(stopped):
    """The trial of the sweep resumed after SIGTERM: see `stop_a_sweep`."""
    said = stopped.said_before
    assert f"its process got SIGTERM; it resumes from its checkpoint of step {stopped.step}" in said
    assert said.count("SIGTERM") == 1
    assert "Traceback" not in said and "Error" not in said


def assert_saved_and_ended(stopped):
    """The sweep ended after SIGTERM with a checkpoint: see `stop_a_sweep`."""
    assert stopped.code == 143, stopped.said
    assert not [noise for noise in NOISE if noise in stopped.said], stopped.said
    # Ray takes some seconds to end, and longer on a busy machine.
    assert stopped.seconds < 20 * max(os.getloadavg()[0] / os.cpu_count(), 1)
    assert "terminated; the same command resumes from what was saved" in stopped.said
    assert max(saved_steps(stopped.storage)) > stopped.step
    assert_nothing_is_left_over(stopped.storage)
    assert not stopped.processes
    assert "queued to resume" in run_here(*stopped.command[2:], "--dry-run")


@pytest.mark.ray
@pytest.mark.slow
def test_after_sigterm_to_its_process_a_trial_resumes_from_a_saved_checkpoint(stopped_sweep):
    assert_the_trial_went_on(stopped_sweep)


@pytest.mark.ray
@pytest.mark.slow
def test_sigterm_to_the_process_group_saves_a_checkpoint_and_ends_the_sweep(stopped_sweep):
    assert_saved_and_ended(stopped_sweep)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(("executor", "group"), [("inline", False), ("torchtrainer", True), ("torchtrainer", False)])
def test_a_trial_resumes_after_sigterm_and_its_sweep_ends_after_sigterm(tiny_data, tmp_path, executor, group):
    stopped = stop_a_sweep(tmp_path, tiny_data, executor, group)
    assert_the_trial_went_on(stopped)
    assert_saved_and_ended(stopped)


@pytest.fixture
def start(full_encoders, tiny_data, tmp_path):
    """Start a sweep that trains for a long time. By default it saves checkpoints only on a signal."""
    running = []

    def sweep(*more):
        words = [*command(tmp_path / "results", tiny_data), "--iterations", 2000, "--checkpoint-seconds", 10000]
        running.append(Running(tmp_path / "said.txt", *words, "--max-concurrent", 1, *more))
        running[0].wait_for(r"simclr.*: step ")
        return running[0]

    yield sweep
    running[0].end()


def went_on(storage, step):
    """Whether a training has resumed at ``step`` or later."""
    found = [json.loads(file.read_bytes()) for file in storage.glob("trials/*/run.json")]
    return any(run["from_step"] >= step for run in found)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize(
    ("executor", "victim"), [("inline", "ray::ImplicitFunc"), ("torchtrainer", "ray::RayTrainWorker")]
)
def test_after_sigterm_a_worker_is_restarted_from_a_saved_checkpoint(start, tmp_path, executor, victim):
    sweep, storage = start("--executor", executor), tmp_path / "results"
    (pid,) = sweep.processes(victim)[-1:]
    os.kill(pid, signal.SIGTERM)
    sweep.wait_for(lambda: saved_steps(storage), 20)
    sweep.wait_for(lambda: went_on(storage, 1))
    assert pid not in ours(sweep.token)


@pytest.mark.ray
@pytest.mark.long
def test_a_dead_trial_process_or_controller_is_restarted_beside_another_ray(start, another_ray, tmp_path):
    sweep, storage = start("--executor", "torchtrainer", "--checkpoint-seconds", 0), tmp_path / "results"
    for victim in ("ray::ImplicitFunc", "ray::TrainController"):
        sweep.wait_for(lambda: saved_steps(storage))
        reached = max(saved_steps(storage))
        for pid in sweep.processes(victim):
            os.kill(pid, signal.SIGKILL)
        sweep.wait_for(lambda reached=reached: went_on(storage, reached))


@pytest.mark.ray
@pytest.mark.long
def test_evaluation_works_with_a_full_object_store(tiny_data, tmp_path, monkeypatch):
    trial_dir = trial_dir_in(tmp_path, CONFIG.trial_id)
    train(CONFIG, data=tiny_data, trial_dir=trial_dir, device="cpu")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    ray.init(address="local", num_cpus=1, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
    try:
        # Arrays with references can neither be evicted nor spilled.
        held = [ray.get(ray.put(np.zeros(20 << 20, np.uint8))) for _ in range(8)]
        actor = Evaluator.remote(tiny_data, ProbeConfig(), "cpu")
        scores = ray.get(actor.score.remote(trial_dir.uri, ("tiny-a",)))
        assert sum(array.nbytes for array in held) == 160 << 20, "the arrays take twice the size of the object store"
        assert 0 <= scores["tiny-a"][0]["top1"] <= 100
    finally:
        ray.shutdown()


HANGS_ONCE = """
import os, sys, time

sys.path.insert(0, os.path.dirname({script!r}))
import lambda_grid
from mdssl.sweep import trial


def run_trial(tune_config, run):
    from mdssl.sweep import trial

    from mdssl.sweep import training

    training._worker = worker
    trial.run_trial(tune_config, run)


def worker(job):
    from mdssl.sweep import training

    real = training.train

    def train(*arguments, report, **named):
        def hang_once(progress):
            if progress.step == 10 and not os.path.exists({flag!r}):
                open({flag!r}, "w").close()
                time.sleep(10_000)
            return report(progress)

        return real(*arguments, report=hang_once, **named)

    training.train = train
    training._worker(job)


trial.run_trial = run_trial
sys.exit(lambda_grid.main())
"""


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("full_encoders")
def test_a_hanging_worker_is_restarted_and_the_trial_finishes(tiny_data, tmp_path):
    flag, script = tmp_path / "hung", tmp_path / "hangs.py"
    script.write_text(HANGS_ONCE.format(script=str(SCRIPT), flag=str(flag)))
    sweep = [*command(tmp_path / "results", tiny_data, script), "--iterations", "20", "--checkpoint-seconds", "0"]
    result = subprocess.run([*sweep, "--hang-minutes", "0.4"], capture_output=True, text=True, timeout=380)
    assert result.returncode == 0, result.stdout + result.stderr
    assert flag.exists(), "a worker hung, so that only a new worker can have finished the trial"
    assert set(pd.read_parquet(tmp_path / "results" / "leaderboard")["status"]) == {"finished"}
    for metrics in tmp_path.glob("results/trials/*/checkpoints/../metrics.parquet"):
        assert list(pd.read_parquet(metrics)["step"]) == list(range(2, 21, 2)), "each step is recorded once"
