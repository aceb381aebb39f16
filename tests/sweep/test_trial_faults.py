"""Failures inside a trial: its errors become failed rows, and it is restarted as long as it has progress."""

import errno
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
import ray.train
import torch
from factories import CONTEXT, trial_run

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.errors import StoppedError
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import write_failure
from mdssl.storage import retry as retries
from mdssl.storage.claim import Claim, holder_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep import restarts, training, trial
from mdssl.sweep.evaluator import Evaluator
from mdssl.sweep.grid import Work, plan
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.train_records import train_records

CONFIG = TrialConfig(method="simclr", lambda1=1.0, lambda2=0.0, domains=("tiny-a",), batch_per_domain=8, iterations=9)


@pytest.fixture
def run(tiny_data, tmp_path):
    return trial_run(str(tmp_path), tiny_data, executor="torchtrainer")


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
        (ray.exceptions.RayTaskError("fit", "its traceback", MemoryError("at the end")), "MemoryError: at the end"),
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


@pytest.mark.parametrize("ended", ["finished", "failed", ""])
def test_a_trial_whose_training_has_finished_is_only_evaluated(run, tmp_path, monkeypatch, ended):
    config, trainings = TrialConfig(method="random", arch="resnet18"), []
    folder = trial_dir_in(tmp_path, config.trial_id)

    def trains(*arguments):
        trainings.append(arguments)
        train(config, data=run.data, trial_dir=folder, device="cpu")

    if ended == "finished":
        train(config, data=run.data, trial_dir=folder, device="cpu")
    elif ended == "failed":
        write_failure(folder, 3, "the loss is not finite")
    monkeypatch.setattr(trial, "train_inline", trains)
    work = {"missing": ["tiny-c"], "tried": [], "may_end_early": False}
    with Claim(folder) as claim:
        claim.take()
        assert trial._do(config, work, folder, run, claim) == {"state": "evaluating"}
    assert len(trainings) == (ended != "finished")


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


@pytest.mark.parametrize("stopped", ["trial", "sweep"])
def test_a_trial_that_was_asked_to_stop_is_not_restarted(run, trial_dir, trainer, monkeypatch, stopped):
    left = trainer(trial_dir, [10, None])
    monkeypatch.setattr(training, "stop_requested", lambda: stopped == "sweep")
    with pytest.raises(StoppedError):
        training.train_in_workers(CONFIG, trial_dir, run, "token", lambda: stopped == "trial")
    assert left == [None]


def test_the_controller_may_die_three_times_in_a_row(run, trial_dir, trainer):
    left = trainer(trial_dir, ["controller"] * 3 + [10] + ["controller"] * 3 + [None])
    training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert not left
    trainer(trial_dir, ["controller"] * 4)
    with pytest.raises(ray.train.ControllerError) as raised:
        training.train_in_workers(CONFIG, trial_dir, run, "token")
    assert trial._cause(raised.value) == "RuntimeError: its node is gone"


@pytest.mark.parametrize("got_on", [True, False])
def test_a_trial_process_that_died_too_often_is_restarted_after_progress(tmp_path, trial_dir, monkeypatch, got_on):
    claimed, record = [], restarts.record_death
    monkeypatch.setattr(
        restarts, "record_death", lambda *death: claimed.append(holder_of(trial_dir).sweep) or record(*death)
    )
    reach(trial_dir, 10)
    before = restarts.step_saved(trial_dir)
    reach(trial_dir, 20 if got_on else 10)
    work = Work(CONFIG, "queued", ("tiny-c",), "train")
    result = SimpleNamespace(metrics=None, error="died", config={"work": {"trial": CONFIG.to_dict()}})
    again = restarts.to_run_again(Location.of(tmp_path), CONTEXT, [result], [work], {CONFIG.trial_id: before})
    assert again == ([work] if got_on else [])
    statuses = [row["status"] for row in read_rows(tmp_path, CONFIG.trial_id)]
    assert statuses == ([] if got_on else ["failed"])
    assert claimed == ([] if got_on else [CONTEXT["sweep"]]) and not holder_of(trial_dir)


@pytest.mark.parametrize(
    ("last", "is_left"),
    [({"state": state}, state == "queued") for state in ("finished", "failed", "queued", "evaluating")]
    + [({"state": "stopped", "ended_early": True}, False), ({"state": "training"}, None), (None, None)],
)
def test_only_trials_claimed_elsewhere_are_left_after_tune_unless_it_was_interrupted(tmp_path, last, is_left):
    works = [Work(CONFIG, "queued", ("tiny-c",), "train"), Work(replace(CONFIG, seed=1), "queued", (), "train")]
    results = [
        SimpleNamespace(metrics=metrics, error=None, config={"work": {"trial": work.config.to_dict()}})
        for work, metrics in zip(works, (last, {"state": "finished"}), strict=True)
    ]
    asked = Location.of(tmp_path), CONTEXT, results, works, {}
    if is_left is None:
        with pytest.raises(KeyboardInterrupt):
            restarts.to_run_again(*asked)
    else:
        assert restarts.to_run_again(*asked) == works[:is_left]


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


def test_an_evaluation_that_fails_as_a_whole_affects_no_other_score(tiny_data, run, tmp_path, monkeypatch):
    from mdssl.sweep import evaluator

    config = TrialConfig(method="random", arch="resnet18")
    storage, folder = Location.of(tmp_path), trial_dir_in(tmp_path, config.trial_id)
    train(config, data=tiny_data, trial_dir=folder, device="cpu")
    actor = Evaluator.__ray_metadata__.modified_class(tiny_data, ProbeConfig(), "cpu")
    settings = SweepSettings(domains=("tiny-a",), data=tiny_data, batch_per_domain=8)

    def score(*datasets):
        with Claim(folder) as claim:
            claim.take()
            asked = {"trial": config.to_dict(), "missing": list(datasets), "tried": [], "may_end_early": False}
            return actor.score_trial(asked, run, claim.token)

    def state_on(*datasets):
        return plan(storage, [config], replace(settings, evaluate=datasets))[0].state

    assert score("tiny-a") == {"state": "finished"}
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "load_model", lambda *arguments: 1 / 0)
        assert score("tiny-c") == {"state": "failed", "error": "ZeroDivisionError: division by zero"}
    assert (state_on("tiny-a"), state_on("tiny-c")) == ("finished", "failed")
    with monkeypatch.context() as patch:
        patch.setattr(
            evaluator, "score_dataset", lambda *arguments, **named: (_ for _ in ()).throw(StoppedError("stop"))
        )
        with pytest.raises(StoppedError):
            score("tiny-b")
    assert state_on("tiny-b") == "queued"

    def unavailable():
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "load_model", lambda *arguments: retries.retry("it", unavailable, is_local=True))
        patch.setattr(evaluator, "stop_requested", lambda: True)
        patch.setattr(retries, "_SECONDS_AFTER_STOP", 0)
        patch.setattr(retries, "RETRY_SECONDS", 0.1)
        with pytest.raises(StoppedError):
            score("tiny-b")
    assert state_on("tiny-b") == "queued", "the sweep was asked to stop while the storage was unavailable"


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
