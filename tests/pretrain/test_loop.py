"""Training: the files that it writes, the recorded costs, and refused inputs."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from factories import Killed, clustered_trial, kill_at, prepare_arrays, tiny_trial
from loop_runs import AT_THE_END, EVERY_STEP, losses, weights

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.device import peak_memory, reset_peak_memory
from mdssl.pretrain import checkpoint, loop
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.progress import NonFiniteLossError
from mdssl.pretrain.stopping import StoppedError
from mdssl.pretrain.trial_files import load_model, read_training, write_finished
from mdssl.storage.location import Location
from mdssl.tracking.trackers import Trackers


class Clock:
    """A fake clock, which the test advances."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


def most_memory_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only in steps, by four seconds per step."""
    clock = Clock()

    def slow(function, seconds):
        def slowed(*arguments, **named):
            clock.now += seconds
            return function(*arguments, **named)

        return slowed

    monkeypatch.setattr(loop.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(loop, "two_views", slow(loop.two_views, 4.0))
    return clock


def test_recorded_costs_of_a_resumed_run_are_correct(tiny_data, tmp_path, clock):
    settings = RunSettings(report_every=2, checkpoint_seconds=0)
    own = dict(data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    with pytest.raises(Killed):
        train(tiny_trial(), report=kill_at(4), **own)
    # The two steps after the checkpoint of step 2 are repeated. The record does not include the lost time.
    clock.now += 5000.0
    with pytest.raises(StoppedError, match="at step 3"):  # between two reports
        train(tiny_trial(), stop_requested=partial(next, iter([False, True])), **own)
    ended = train(tiny_trial(), **own)
    assert ended["train_seconds"] == pytest.approx(6 * 4.0)
    # A view is one pass of an image through the encoder: 6 steps, 8 images per domain, 2 domains, 2 views per image.
    assert ended["views_seen"] == 6 * 8 * 2 * 2
    assert ended["views_per_second"] == pytest.approx(ended["views_seen"] / 24.0)
    assert (ended["gpu_hours"], ended["num_workers"], ended["device"]) == (0.0, 1, "cpu")
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    assert metrics["views_per_second"].tolist() == pytest.approx([2 * 8 * 2 * 2 / 8.0] * 3)
    # The size is that of the encoder's tensors in the file.
    size = sum(value.nbytes for name, value in weights(tmp_path).items() if name.startswith("encoder."))
    assert ended["encoder_mb"] == pytest.approx(size / 2**20)
    # VmHWM is the kernel's record of the peak memory of this process, which it counts to some pages for each thread.
    assert 0 < ended["peak_memory_mb"] <= most_memory_mb() + 1


def test_peak_memory_is_not_that_of_an_earlier_training_in_the_process(tiny_data, tmp_path):
    peaks = []
    for name in "ab":
        ended = train(tiny_trial(iterations=2), data=tiny_data, trial_dir=tmp_path / name, device="cpu")
        peaks.append(ended["peak_memory_mb"])
        np.ones(75_000_000)  # 600 MB, freed at once
    assert abs(peaks[1] - peaks[0]) < 200


def test_peak_memory_of_a_process_is_that_of_its_life_where_it_cannot_be_reset(monkeypatch):
    def missing(*arguments):
        raise FileNotFoundError

    for name in ("read_text", "write_text"):
        monkeypatch.setattr(Path, name, missing)
    np.ones(75_000_000)
    reset_peak_memory("cpu")
    assert peak_memory("cpu") > 600e6


def test_gpu_hours_and_peak_memory_are_those_of_the_gpus(tiny_data, tmp_path, clock, gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END)
    assert ended["train_seconds"] == pytest.approx(24.0)
    assert ended["gpu_hours"] == pytest.approx(24.0 / 3600)
    assert (ended["peak_memory_mb"], ended["device"]) == (3 * 1024, "NVIDIA X")
    assert torch.backends.cudnn.benchmark
    # Each of four workers has a GPU.
    state = checkpoint.LoopState(started_at="", seconds=1800.0, gpu_seconds=4 * 1800.0)
    place = Location.of(tmp_path / "four")
    ended = write_finished(place, tiny_trial(), build_model(tiny_trial()), state, device="cuda", workers=4)
    assert (ended["gpu_hours"], ended["train_seconds"], ended["num_workers"]) == (2.0, 1800.0, 4)


def test_gpu_hours_of_trials_that_share_a_gpu_are_shares(tiny_data, tmp_path, clock, gpu):
    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, gpus_per_worker=0.25)
    assert ended["gpu_hours"] == pytest.approx(ended["train_seconds"] / 3600 / 4) != 0


def test_time_of_scores_is_recorded_apart_and_not_in_the_speed(tiny_data, tmp_path, clock):
    def validate(model):
        clock.now += 3.0
        return {"a": 50.0}

    reports, settings = [], RunSettings(report_every=2, track=())
    own = dict(data=tiny_data, settings=settings, device="cpu", validate=validate, rungs=(2,))
    ended = train(tiny_trial(), trial_dir=tmp_path, report=reports.append, **own)
    assert (ended["score_seconds"], ended["train_seconds"]) == pytest.approx((3.0, 6 * 4.0 + 3.0))
    assert [at.eta_seconds for at in reports] == pytest.approx([16.0, 8.0, 0.0])
    assert [at.views_per_second for at in reports] == pytest.approx([8 * 2 * 2 / 4.0] * 3)


def test_trackers_get_each_report_and_each_clustering(tiny_data, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Trackers, "start", lambda self, resumed_at: told.append(resumed_at))
    monkeypatch.setattr(Trackers, "log", lambda self, step, values: told.append((step, min(values))))
    train(clustered_trial(iterations=3), data=tiny_data, trial_dir=tmp_path, settings=RunSettings(report_every=2))
    assert told == [0, (2, "learning_rate"), (2, "clusters/churn"), (3, "learning_rate")]


@pytest.mark.parametrize("caching", [True, False])
def test_each_domain_is_encoded_twice_only_with_cached_gradients(tiny_data, tmp_path, monkeypatch, caching):
    passes, encode = [], Model._encode
    monkeypatch.setattr(Model, "_encode", lambda self, views: passes.append(len(views)) or encode(self, views))
    settings = RunSettings(gradient_caching=caching, track=())
    trial = tiny_trial(iterations=1, batching="per-domain")
    train(trial, data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    assert passes == [16, 16] * (1 + caching)


def test_encoder_file_records_the_preprocessing_of_images(tiny_data, tmp_path):
    train(tiny_trial(iterations=1), data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu")
    with safetensors.safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        said = file.metadata()
    # torchvision's statistics of ImageNet.
    usual = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (json.loads(said["mean"]), json.loads(said["std"])) == (list(usual.mean), list(usual.std))
    assert json.loads(said["image_size"]) == 16
    assert TrialConfig.from_dict(json.loads(said["config"])).domains == ("tiny-a", "tiny-b")


def test_a_finished_trial_has_all_its_files(tiny_data, tmp_path):
    reports = []
    ended = train(
        tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, report=reports.append, device="cpu"
    )
    assert [progress.step for progress in reports] == [1, 2, 3, 4, 5, 6]
    assert ended == read_training(Location.of(tmp_path))
    assert (ended["status"], ended["step"], ended["views_seen"]) == ("finished", 6, 6 * 2 * 2 * 8)
    assert ended["final_loss"] == reports[-1].loss
    metrics = losses(tmp_path)
    expected = metrics["alignment"] + 0.9 * metrics["within"] + 0.1 * metrics["across"]
    pd.testing.assert_series_equal(metrics["loss"], expected, check_names=False, rtol=1e-5)
    for name in ("config", "run", "training"):
        text = (tmp_path / f"{name}.json").read_text()
        assert text == json.dumps(json.loads(text), indent=2), "people read it, too"
    saved, model = load_model(Location.of(tmp_path))
    assert len(saved.data_fingerprint) == 16
    assert saved == replace(tiny_trial(), data_fingerprint=saved.data_fingerprint)
    assert model.encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 512)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


@pytest.mark.parametrize("warmup", [2, 0])
def test_each_step_has_the_learning_rate_of_torchs_schedule(tiny_data, tmp_path, monkeypatch, warmup):
    used = []

    def watched(config, model):
        optimizer = build_optimizer(config, model)
        optimizer.register_step_pre_hook(lambda *_: used.append([group["lr"] for group in optimizer.param_groups]))
        return optimizer

    monkeypatch.setattr(loop, "build_optimizer", watched)
    trial = tiny_trial(learning_rate=0.4, lr_warmup_iterations=warmup)
    train(trial, data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=6 - warmup)
    expected = [0.4 * (step + 1) / warmup for step in range(warmup)]
    for _ in range(6 - warmup):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        schedule.step()
    np.testing.assert_allclose(used, np.transpose([expected] * 2), rtol=1e-6)
    np.testing.assert_allclose(losses(tmp_path)["learning_rate"], expected, rtol=1e-6)


@pytest.mark.parametrize("device", ["cdua", "cuda:99", "meta"])
def test_unknown_device_is_refused_with_the_allowed_devices(tiny_data, tmp_path, device):
    with pytest.raises(ValueError, match=f"unknown device '{device}'; allowed: auto, cpu"):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device=device)


def test_non_finite_loss_fails_the_trial_with_its_step_and_terms(tiny_data, tmp_path):
    trial = tiny_trial(learning_rate=1e30, optimizer="sgd", lr_warmup_iterations=0)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d+: total .*alignment .*within .*across"):
        train(trial, data=tiny_data, trial_dir=tmp_path / "a", settings=AT_THE_END, device="cpu")
    ended = json.loads((tmp_path / "a/training.json").read_text())
    assert ended["status"] == "failed"
    assert ended["error"].startswith(f"the loss is not finite at step {ended['step']}")
    assert losses(tmp_path / "a")["step"].tolist() == list(range(1, ended["step"]))
    assert not (tmp_path / "a/encoder.safetensors").exists()
    with pytest.raises(NonFiniteLossError):  # which is found before a checkpoint is saved between two reports
        stop = partial(next, iter([False] * 5 + [True]))
        train(trial, data=tiny_data, trial_dir=tmp_path / "b", device="cpu", stop_requested=stop)
    assert not (tmp_path / "b/checkpoints").exists()


def test_data_that_changed_since_the_trial_was_created_are_refused(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="was created for 0123"):
        train(tiny_trial(data_fingerprint="0123"), data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_a_domain_is_refused(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="'tiny-a' has 64 training images; use at most 64"):
        train(tiny_trial(batch_per_domain=65), data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_random_encoder_is_saved_untrained(tiny_data, tmp_path):
    trial = TrialConfig(method="random", arch="resnet18")
    ended = train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert (ended["step"], ended["views_seen"]) == (0, 0)
    initial = build_model(trial).state_dict()
    assert all(torch.equal(value, initial[name]) for name, value in weights(tmp_path).items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; the same loop is tested on the CPU")
def test_training_on_a_gpu_matches_training_on_a_cpu(tiny_data, tmp_path):
    ends = [
        train(tiny_trial(norm="group"), data=tiny_data, trial_dir=tmp_path / device, device=device)["final_loss"]
        for device in ("cpu", "cuda")
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)


@pytest.mark.slow
def test_run_over_12_domains_trains_with_cached_gradients(tmp_path):
    rng = np.random.default_rng(0)
    names = tuple(f"domain-{number}" for number in range(12))
    for name in names:
        images, labels = rng.integers(256, size=(16, 16, 16, 3), dtype=np.uint8), np.arange(16) % 2
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        prepare_arrays(name, tmp_path / "data", 16, **arrays)
    trial = tiny_trial(domains=names, batching="per-domain", iterations=3, batch_per_domain=4)
    settings = RunSettings(gradient_caching=True, report_every=1)
    ended = train(trial, data=tmp_path / "data", trial_dir=tmp_path / "trial", settings=settings, device="cpu")
    assert (ended["status"], ended["views_seen"]) == ("finished", 3 * 12 * 4 * 2)
    assert (losses(tmp_path / "trial")["across"] > 0).all()
