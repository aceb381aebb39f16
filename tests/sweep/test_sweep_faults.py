"""Failures of processes of a sweep: errors of a trial become failed rows, and trials resume after other failures."""

import errno
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import ray
import ray.train
import torch
from processes import ours
from sweep_runs import SCRIPT, Running, assert_nothing_is_left_over, run_here, saved_steps, stop_a_sweep

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.loop import train
from mdssl.storage import retry as retries
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.sweep import restarts, training, trial
from mdssl.sweep.evaluator import Evaluator
from mdssl.sweep.grid import Work
from mdssl.trials.train_records import train_records

CONFIG = TrialConfig(method="simclr", lambda1=1.0, lambda2=0.0, domains=("tiny-a",), batch_per_domain=8, iterations=9)
CONTEXT = {"sweep": "test", "preset": "quick", "git_commit": "", "ray_version": ray.__version__}


@pytest.fixture
def run(tiny_data, tmp_path):
    return trial.TrialRun(
        storage=str(tmp_path),
        data=tiny_data,
        probe=ProbeConfig(),
        settings=RunSettings(),
        executor="torchtrainer",
        workers=1,
        cpus_per_worker=1,
        gpus_per_worker=0,
        context=CONTEXT,
    )


@pytest.fixture
def trial_dir(tmp_path):
    return Location.of(tmp_path) / "trials" / CONFIG.trial_id


def reach(trial_dir, step):
    (trial_dir / "checkpoints" / f"step-{step:08d}.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("unable to allocate 9 GiB"), "MemoryError: unable to allocate 9 GiB"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (ray.exceptions.OutOfMemoryError("the node runs out of memory"), "the node runs out of memory"),
    ],
)
def test_out_of_memory_in_a_worker_becomes_a_failed_row_with_the_reason(run, trial_dir, monkeypatch, error, said):
    def fails(*arguments):
        raise ray.train.WorkerGroupError("one of them", {0: error})

    monkeypatch.setattr(trial, "train_in_workers", fails)
    work = {"missing": ["tiny-c"], "tried": [], "may_end_early": False}
    with Claim(trial_dir) as claim:
        claim.take()
        assert trial._do(CONFIG, work, trial_dir, run, claim)["state"] == "failed"
    (row,) = read_rows(run.storage, CONFIG.trial_id)
    assert row["status"] == "failed"
    assert said in row["error"]


@pytest.fixture
def trainer(monkeypatch):
    """Replaces the trainer of Ray. Each call of ``fit`` takes its outcome from a list: the step that is saved before a
    worker dies (0 for no new step), the death of the controller, or None for success."""

    def install(trial_dir, outcomes):
        class Trainer:
            def __init__(self, loop, **arguments):
                pass

            def fit(self):
                step = outcomes.pop(0)
                if step is not None:
                    if step == "controller":
                        raise ray.train.ControllerError(RuntimeError("its node is gone"))
                    if step:
                        reach(trial_dir, step)
                    raise ray.train.WorkerGroupError("died", {0: RuntimeError("killed")})

        monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
        monkeypatch.setattr(training, "TuneReportCallback", ray.train.UserCallback)
        return outcomes

    return install


def test_a_trial_with_progress_between_deaths_is_always_restarted(run, trial_dir, trainer):
    left = trainer(trial_dir, [10, 20, 30, 40, None])
    training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert not left


def test_a_trial_without_progress_between_deaths_fails(run, trial_dir, trainer):
    left, records = trainer(trial_dir, [10, 0, None]), train_records(Location.of(run.storage), CONFIG)
    (records / "snapshot").write_bytes(b"of Ray Train")
    with pytest.raises(ray.train.TrainingFailedError, match="died"):
        training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert left == [None] and not records.exists()


def test_the_controller_may_die_three_times_in_a_row(run, trial_dir, trainer):
    left = trainer(trial_dir, ["controller"] * 3 + [10] + ["controller"] * 3 + [None])
    training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert not left
    trainer(trial_dir, ["controller"] * 4)
    with pytest.raises(ray.train.ControllerError) as raised:
        training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert trial._cause(raised.value) == "RuntimeError: its node is gone"


@pytest.mark.parametrize("got_on", [True, False])
def test_a_trial_process_that_died_too_often_is_restarted_after_progress(tmp_path, trial_dir, got_on):
    reach(trial_dir, 10)
    before = restarts.step_saved(trial_dir)
    reach(trial_dir, 20 if got_on else 10)
    work = Work(CONFIG, "queued", ("tiny-c",), "train")
    result = SimpleNamespace(metrics=None, error="died", config={"work": {"trial": CONFIG.to_dict()}})
    again = restarts.to_run_again(Location.of(tmp_path), CONTEXT, [result], [work], {CONFIG.trial_id: before})
    assert again == ([work] if got_on else [])
    statuses = [row["status"] for row in read_rows(tmp_path, CONFIG.trial_id)]
    assert statuses == ([] if got_on else ["failed"])


def test_a_failed_probe_does_not_affect_other_scores(tiny_data, trial_dir, monkeypatch):
    from mdssl.sweep import evaluator

    config = TrialConfig(method="random", arch="resnet18")
    train(config, data=tiny_data, trial_dir=trial_dir, device="cpu")
    real = evaluator.score_dataset

    def fails_on_b(encoded, dataset, **arguments):
        if dataset.name == "tiny-b":
            raise RuntimeError("the solver did not converge")
        return real(encoded, dataset, **arguments)

    monkeypatch.setattr(evaluator, "score_dataset", fails_on_b)
    actor = Evaluator.__ray_metadata__.modified_class(tiny_data, ProbeConfig(), "cpu")
    scores = actor.score(trial_dir.uri, ("tiny-a", "tiny-b", "tiny-c"))
    assert scores["tiny-b"] == "RuntimeError: the solver did not converge"
    assert [scores[name][0]["eval_dataset"] for name in ("tiny-a", "tiny-c")] == ["tiny-a", "tiny-c"]


def test_writing_rows_is_retried_while_the_disk_is_full(tmp_path, monkeypatch):
    failures, fsync = [OSError(errno.ENOSPC, "No space left on device")] * 3, os.fsync

    def sync(descriptor):
        if failures:
            raise failures.pop()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)
    row = trial.failed_row(CONFIG, "some reason", context=CONTEXT, started_at=trial.now())
    with retries.retrying(60):
        write_rows(tmp_path, CONFIG.trial_id, [row])
    assert not failures
    assert [row["error"] for row in read_rows(tmp_path, CONFIG.trial_id)] == ["some reason"]
    assert os.listdir(tmp_path / "leaderboard") == [f"{CONFIG.trial_id}.parquet"]


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
@pytest.mark.timeout(400)
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
@pytest.mark.timeout(600)
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
def test_evaluation_works_with_a_full_object_store(tiny_data, trial_dir, monkeypatch):
    train(TrialConfig(method="random", arch="resnet18"), data=tiny_data, trial_dir=trial_dir, device="cpu")
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
@pytest.mark.timeout(400)
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
