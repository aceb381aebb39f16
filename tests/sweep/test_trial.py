"""Trials with TorchTrainer: the arguments and reports that Ray Train receives."""

import subprocess
import sys
from contextlib import contextmanager

import pytest
import ray.cloudpickle
import ray.train
import torch
from factories import trial_run

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain.progress import Progress
from mdssl.storage.location import Location
from mdssl.sweep import evaluator, training

LOAD = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"


@pytest.fixture
def handed_over(tmp_path, monkeypatch):
    """Starts a trial and returns the arguments that TorchTrainer receives."""

    def start(workers: int, gpus: float = 0, cpus: int = 1, **changes) -> dict:
        found = {}

        class Trainer:
            def __init__(self, loop, **arguments):
                found.update(arguments)

            def fit(self):
                pass

        monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
        # The callback requires a running trial of Tune.
        monkeypatch.setattr(training, "TuneReportCallback", ray.train.UserCallback)
        run = trial_run(
            str(tmp_path), str(tmp_path), executor="torchtrainer", workers=workers, cpus_per_worker=cpus,
            gpus_per_worker=gpus, **changes,
        )  # fmt: skip
        training.train_in_workers(TrialConfig(method="random"), Location.of(tmp_path), run, "token")
        return found

    return start


def test_the_controller_of_one_worker_needs_no_torch(handed_over):
    handed = handed_over(workers=1)
    assert handed["torch_config"].backend == "none", "TorchTrainer reads the name"
    seen_by_controller = {name: handed[name] for name in ("train_loop_config", "torch_config", "scaling_config")}
    result = subprocess.run(
        [sys.executable, "-c", LOAD], input=ray.cloudpickle.dumps(seen_by_controller), capture_output=True, check=True
    )
    assert result.stdout.strip() == b"False"


def test_several_workers_get_a_process_group_and_restart_together(handed_over):
    handed = handed_over(workers=2)
    assert handed["torch_config"] is None, "None selects the default of Ray"
    assert handed["scaling_config"].num_workers == 2 and handed["run_config"].failure_config.max_failures == 3
    assert [type(each) for each in handed["run_config"].callbacks] == [ray.train.UserCallback], "for reports to Tune"


@pytest.fixture
def asked_of_the_gpu(monkeypatch):
    """The requests to a mocked GPU, in order: memory limits and trainings."""
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(training, "train", lambda config, **arguments: asked.append(arguments["device"]))
    monkeypatch.setattr(training, "check_held", lambda *arguments: None)
    for module in (training, evaluator):
        monkeypatch.setattr(module, "pick_device", lambda device: "cuda:0" if device == "auto" else device)
    return asked


@pytest.mark.parametrize(("gpus", "expected"), [(0.5, [(0.4, "cuda:0"), "cuda:0"]), (1, ["cuda:0"]), (0, ["cpu"])])
def test_a_trial_on_a_gpu_fraction_limits_its_memory(handed_over, asked_of_the_gpu, gpus, expected):
    handed = handed_over(workers=1, gpus=gpus)
    assert handed["scaling_config"].resources_per_worker.get("GPU", 0) == gpus
    training._train_here(handed["train_loop_config"], lambda progress: None, lambda: False)
    assert asked_of_the_gpu == expected


@pytest.mark.parametrize("ended", [(False, False), (True, False), (False, True)])
def test_training_stops_on_a_signal_or_a_request(handed_over, asked_of_the_gpu, monkeypatch, ended):
    answers = []
    monkeypatch.setattr(training, "train", lambda config, **arguments: answers.append(arguments["stop_requested"]()))
    monkeypatch.setattr(training, "stop_requested_now_and_then", lambda token: lambda: ended[1])
    job = handed_over(workers=1)["train_loop_config"]
    training._train_here(job, lambda progress: None, lambda: False, lambda: ended[0])
    assert answers == [any(ended)]


def test_gpu_hours_count_the_share_of_a_gpu(handed_over, asked_of_the_gpu, monkeypatch):
    shares = []
    monkeypatch.setattr(training, "train", lambda config, **arguments: shares.append(arguments["gpus_per_worker"]))
    training._train_here(handed_over(workers=1, gpus=0.5)["train_loop_config"], lambda progress: None, lambda: False)
    assert shares == [0.5]


def test_training_checks_the_claim_before_it_writes(handed_over, asked_of_the_gpu, monkeypatch):
    checks, tokens = [], []
    monkeypatch.setattr(training, "train", lambda config, **arguments: checks.append(arguments["before_writing"]))
    monkeypatch.setattr(training, "check_held", lambda trial_dir, token: tokens.append(token))
    training._train_here(handed_over(workers=1)["train_loop_config"], lambda progress: None, lambda: False)
    assert tokens == ["token"], "before training"
    checks[0]()
    assert tokens == ["token", "token"]


@pytest.mark.parametrize(("settings", "rungs"), [({"score_every": 2}, ()), ({}, (3,)), ({}, ())])
def test_scores_during_training_are_computed_on_the_device_of_the_worker(
    handed_over, asked_of_the_gpu, monkeypatch, settings, rungs
):
    fetched, found = [], []
    monkeypatch.setattr(training, "ensure_local", lambda data, names: fetched.extend(names) or "local")
    monkeypatch.setattr(training, "Validation", lambda data, datasets, *, device: (data, *datasets, device))
    monkeypatch.setattr(training, "train", lambda config, **named: found.append((named["validate"], named["rungs"])))
    settings = RunSettings(**settings)
    handed = handed_over(workers=1, gpus=1, evaluate=("tiny-a",), rungs=rungs, settings=settings)
    training._train_here(handed["train_loop_config"], lambda progress: None, lambda: False)
    scored = bool(settings.score_every or rungs)
    assert found == [(("local", "tiny-a", "cuda:0") if scored else None, rungs)]
    assert fetched == ["tiny-a"] * scored, "the random method has no training domains"


def test_a_worker_has_one_thread_per_cpu(handed_over, asked_of_the_gpu, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    training._train_here(handed_over(workers=1, cpus=3)["train_loop_config"], lambda progress: None, lambda: False)
    assert threads == [3]


def test_the_probe_on_a_shared_gpu_limits_its_memory(asked_of_the_gpu):
    actor = evaluator.Evaluator.__ray_metadata__.modified_class
    actor("data", ProbeConfig(), "auto", 0.15)
    actor("data", ProbeConfig(), "auto")
    assert asked_of_the_gpu == [(0.15, "cuda:0")]


def test_ray_receives_due_reports_and_the_scheduler_decides_on_each_score(handed_over, monkeypatch):
    """Ray handles four reports a second, and the worker waits meanwhile. No report with a score is lost or late."""
    told, asked, beats, answers = [], [], [], []

    def train(config, *, report, **arguments):
        for step, is_due, score in (
            (1, True, None),
            (2, False, None),
            (3, True, 40.0),
            (4, False, None),
            (6, True, None),
            (7, True, 45.0),
        ):
            answers.append(report(Progress(step, 8, *[0.0] * 7, val_linear_top1=score, is_due=is_due)))

    @contextmanager
    def watchdog(seconds):
        assert seconds == 60 * RunSettings().hang_minutes
        yield lambda: beats.append(True)

    def decision(trial_id, step):
        assert told[-1]["step"] == step, "the scheduler receives the score before it decides"
        asked.append(step)
        return True

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "watchdog", watchdog)
    monkeypatch.setattr(training, "decision", decision)
    monkeypatch.setattr(training, "check_held", lambda *arguments: None)
    monkeypatch.setattr(training, "stop_requested_now_and_then", lambda token: lambda: False)
    job = handed_over(workers=1)["train_loop_config"] | {"rungs": (3,)}
    training._train_here(job, told.append, lambda: told[-1]["step"] >= 6)
    assert [(each["step"], each["val_linear_top1"]) for each in told] == [(1, None), (3, 40.0), (6, None), (7, 45.0)]
    assert asked == [3]
    assert answers == [None, None, "end", None, "save", None], "one checkpoint before the node is gone"
    assert len(beats) == 6, "the watchdog is notified of each report"
