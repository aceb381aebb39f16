"""Training: what it leaves behind, that a kill changes nothing, and that λ changes no batch."""

import json
import os
import signal
import subprocess
import sys
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
from factories import Killed, kill_at, prepare_arrays, tiny_trial
from torch._dynamo.utils import counters

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain import checkpoint, loop
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.progress import NonFiniteLossError
from mdssl.pretrain.step import backward_at_once, two_views
from mdssl.pretrain.stopping import StoppedError
from mdssl.pretrain.trial_files import load_model, read_training, write_finished
from mdssl.storage.location import Location

EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)
AT_THE_END = RunSettings(report_every=1, checkpoint_seconds=1000)
"""These runs write one checkpoint."""


def weights(folder):
    return safetensors.torch.load((folder / "encoder.safetensors").read_bytes())


def losses(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns="views_per_second")


class Clock:
    """Stands for the time: each step takes what it is told."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


def most_memory_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.fixture
def clock(monkeypatch):
    """Time that passes in the steps alone: four seconds in each."""
    clock = Clock()

    def slow(function, seconds):
        def slowed(*arguments, **named):
            clock.now += seconds
            return function(*arguments, **named)

        return slowed

    monkeypatch.setattr(loop.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(loop, "two_views", slow(loop.two_views, 4.0))
    return clock


def test_costs_are_what_a_stopwatch_and_a_count_say_also_over_a_resumption(tiny_data, tmp_path, clock):
    settings = RunSettings(report_every=2, checkpoint_seconds=0)
    own = dict(data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    with pytest.raises(Killed):
        train(tiny_trial(), report=kill_at(4), **own)
    # The two steps since the checkpoint of step 2 are done, and paid for, again: what was lost is not in the record.
    clock.now += 5000.0
    before = most_memory_mb()
    ended = train(tiny_trial(), **own)
    assert ended["train_seconds"] == pytest.approx(6 * 4.0)
    # A view is an image through the encoder: 6 steps of 8 images of 2 domains, twice.
    assert ended["views_seen"] == 6 * 8 * 2 * 2
    assert ended["views_per_second"] == pytest.approx(ended["views_seen"] / 24.0)
    assert (ended["gpu_hours"], ended["num_workers"], ended["device"]) == (0.0, 1, "cpu")
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    assert metrics["views_per_second"].tolist() == pytest.approx([2 * 8 * 2 * 2 / 8.0] * 3)
    # The encoder alone, as its file has it.
    size = sum(value.nbytes for name, value in weights(tmp_path).items() if name.startswith("encoder."))
    assert ended["encoder_mb"] == pytest.approx(size / 2**20)
    # The kernel's own record of the most memory that this process has had.
    assert before <= ended["peak_memory_mb"] <= most_memory_mb()


def test_gpu_hours_and_memory_are_those_of_the_gpus(tiny_data, tmp_path, clock, gpu):
    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END)
    assert ended["train_seconds"] == pytest.approx(24.0)
    assert ended["gpu_hours"] == pytest.approx(24.0 / 3600)
    assert (ended["peak_memory_mb"], ended["device"]) == (3 * 1024, "NVIDIA X")
    # Of four workers each has a GPU.
    state = checkpoint.LoopState(started_at="", seconds=1800.0, gpu_seconds=4 * 1800.0)
    place = Location.of(tmp_path / "four")
    ended = write_finished(place, tiny_trial(), build_model(tiny_trial()), state, device="cuda", workers=4)
    assert (ended["gpu_hours"], ended["train_seconds"], ended["num_workers"]) == (2.0, 1800.0, 4)


def test_the_encoders_file_says_how_images_are_made_ready_for_it(tiny_data, tmp_path):
    train(tiny_trial(iterations=1), data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu")
    with safetensors.safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        said = file.metadata()
    # torchvision's own numbers for ImageNet.
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
    saved, model = load_model(Location.of(tmp_path))
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


def test_a_finished_trial_is_not_trained_again(tiny_data, tmp_path):
    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu")
    before = (tmp_path / "encoder.safetensors").stat().st_mtime_ns
    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", report=kill_at(6))
    assert (tmp_path / "encoder.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_a_kill_in_the_middle_changes_nothing(tiny_data, tmp_path, optimizer):
    trial = tiny_trial(optimizer=optimizer, learning_rate=0.01)
    train(trial, data=tiny_data, trial_dir=tmp_path / "straight", settings=AT_THE_END, device="cpu")
    arguments = {"data": tiny_data, "trial_dir": tmp_path / "killed", "device": "cpu"}
    with pytest.raises(Killed):
        train(trial, **arguments, settings=EVERY_STEP, report=kill_at(4))
    train(trial, **arguments, settings=AT_THE_END)
    assert_same(tmp_path / "straight", tmp_path / "killed")


def saved_steps(folder):
    return sorted(int(file.name[5:13]) for file in (folder / "checkpoints").iterdir())


def assert_same(first, second):
    expected, got = weights(first), weights(second)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    pd.testing.assert_frame_equal(losses(first), losses(second), check_exact=True)


def test_a_checkpoint_that_a_report_asks_for_is_saved_at_once(tiny_data, tmp_path):
    saved = {}

    def report(progress):
        saved[progress.step] = saved_steps(tmp_path) if progress.step > 2 else []
        return "save" if progress.step == 2 else None

    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, device="cpu", report=report)
    assert saved == {1: [], 2: [], 3: [2], 4: [2], 5: [2], 6: [2]}
    assert saved_steps(tmp_path) == [2, 6]


@pytest.mark.parametrize("report_every", [1, 4])
def test_a_run_that_is_stopped_after_any_step_goes_on_as_if_it_had_not_been(tiny_data, tmp_path, report_every):
    """Also where it stops between two reports: the next report is the mean over the steps before and after the stop."""
    settings = RunSettings(report_every=report_every, checkpoint_seconds=1000)
    arguments = {"data": tiny_data, "settings": settings, "device": "cpu"}
    train(tiny_trial(), **arguments, trial_dir=tmp_path / "straight")
    folder, stops = tmp_path / "stopped", 0
    while not (folder / "training.json").exists():
        # Asked before the first step, and after each one.
        answers = iter([False, True])
        try:
            train(tiny_trial(), **arguments, trial_dir=folder, stop_requested=lambda answers=answers: next(answers))
        except StoppedError as stopped:
            stops += 1
            assert str(stopped) == f"stopped at step {stops} of 6"
            assert saved_steps(folder)[-1] == stops
    assert stops == 5
    assert_same(tmp_path / "straight", folder)


def test_a_run_that_is_asked_to_stop_before_its_first_step_takes_none(tiny_data, tmp_path):
    with pytest.raises(StoppedError, match="stopped at step 0 of 6"):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", stop_requested=lambda: True)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_nothing_is_written_once_that_is_forbidden(tiny_data, tmp_path, allowed):
    writes = iter(range(allowed))

    def before_writing():
        if next(writes, None) is None:
            raise Killed

    with pytest.raises(Killed):
        train(
            tiny_trial(),
            data=tiny_data,
            trial_dir=tmp_path,
            settings=replace(EVERY_STEP, track=()),
            device="cpu",
            before_writing=before_writing,
        )
    found = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    checkpoints = [f"checkpoints/step-{step:08d}.safetensors" for step in range(1, allowed)]
    begun = ["config.json", "run.json"] if allowed else []
    assert found == sorted([*checkpoints, *begun, *["metrics.parquet"][: len(checkpoints)]])


@pytest.mark.slow
def test_kill_9_of_the_command_changes_nothing(tiny_data, tmp_path, capsys):
    """60 steps straight, and 60 steps with ``kill -9`` in the middle, by the command that a user types, in bf16."""
    command = ["train", "--domains", "tiny-a", "tiny-b", "--data", tiny_data, "--iterations", "60", "--report-every"]
    command += ["2", "--batch-per-domain", "8", "--checkpoint-seconds", "0", "--precision", "bf16", "--device", "cpu"]
    straight, killed = (["--storage", str(tmp_path / name)] for name in ("straight", "killed"))

    def said(*more):
        assert main([*command, *more]) == 0
        return capsys.readouterr().out

    assert "step 2/60" in said(*straight)
    process = subprocess.Popen([sys.executable, "-m", "mdssl", *command, *killed], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("step 8/"):
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not list(tmp_path.glob("killed/trials/*/encoder.safetensors"))
    assert "step 2/60" not in said(*killed), "a killed run goes on where it was"
    folders = [next(tmp_path.glob(f"{name}/trials/*")) for name in ("straight", "killed")]
    again = said(*killed)
    assert f"trial {folders[1].name} is already trained: 60 steps" in again and "step 60/60" not in again
    assert_same(*folders)


def test_two_checkpoints_are_kept_and_a_cut_off_one_is_passed_over(tiny_data, tmp_path, caplog):
    with pytest.raises(Killed):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, report=kill_at(5), device="cpu")
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in files] == ["step-00000003.safetensors", "step-00000004.safetensors"]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    model = build_model(tiny_trial())
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    state = checkpoint.load_latest(Location.of(tmp_path / "checkpoints"), model, optimizer)
    assert state.step == 3
    assert "step-00000004.safetensors cannot be read" in caplog.text


def test_a_checkpoint_that_could_not_be_read_is_not_one_of_the_two(tiny_data, tmp_path):
    arguments = {"data": tiny_data, "trial_dir": tmp_path, "settings": EVERY_STEP, "device": "cpu"}
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, report=kill_at(5))
    later = tmp_path / "checkpoints/step-00000009.safetensors"
    later.write_bytes(b"cut off")
    train(tiny_trial(), **arguments)
    names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_a_damaged_checkpoint_does_not_cost_the_last_good_one(tiny_data, tmp_path):
    arguments = {"data": tiny_data, "trial_dir": tmp_path, "device": "cpu"}
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, settings=EVERY_STEP, report=kill_at(5))
    assert saved_steps(tmp_path) == [3, 4]
    (tmp_path / "checkpoints/step-00000004.safetensors").write_bytes(b"cut off")
    # Goes on from step 3; its first report and checkpoint are at step 5.
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, settings=replace(EVERY_STEP, report_every=2), report=kill_at(6))
    assert saved_steps(tmp_path) == [3, 5], "5 may be damaged as well"


@pytest.mark.parametrize("name", ["encoder.safetensors", "training.json"])
def test_a_damaged_file_is_named_and_made_again_from_the_last_checkpoint(tiny_data, tmp_path, name):
    trial_dir = Location.of(tmp_path)
    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu")
    before = weights(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
    read = load_model if name.startswith("encoder") else read_training
    with pytest.raises(ValueError, match=rf"{name} is damaged .*Delete it"):
        read(trial_dir)
    if name.startswith("encoder"):
        # PyTorch names each of a hundred tensors that are missing.
        metadata = {"config": json.dumps(tiny_trial().to_dict())}
        safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / name, metadata)
        with pytest.raises(ValueError, match=rf"{name} is damaged \(.{{250,330}} …\)\. Delete it"):
            read(trial_dir)
    (tmp_path / name).unlink()
    again = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", report=kill_at(1))
    assert again["train_seconds"] == ended["train_seconds"]
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path).items())


@pytest.mark.parametrize("device", ["cdua", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(tiny_data, tmp_path, device):
    with pytest.raises(ValueError, match=f"unknown device '{device}'; allowed: auto, cpu"):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device=device)


def test_a_loss_that_is_not_finite_ends_the_trial_with_step_and_terms(tiny_data, tmp_path):
    trial = tiny_trial(learning_rate=1e30, optimizer="sgd", lr_warmup_iterations=0)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d+: total .*alignment .*within .*across"):
        train(trial, data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu")
    ended = json.loads((tmp_path / "training.json").read_text())
    assert ended["status"] == "failed"
    assert f"step {ended['step']}" in ended["error"]
    assert not (tmp_path / "encoder.safetensors").exists()


def test_data_that_changed_since_the_trial_began_are_refused(tiny_data, tmp_path):
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
def test_trains_on_a_gpu_as_on_a_cpu(tiny_data, tmp_path):
    ends = [
        train(tiny_trial(norm="group"), data=tiny_data, trial_dir=tmp_path / device, device=device)["final_loss"]
        for device in ("cpu", "cuda")
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-2)


@pytest.mark.slow
def test_a_run_over_12_domains_works_in_the_memory_of_one(tmp_path):
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


@pytest.mark.slow
def test_a_compiled_run_trains_the_same_encoder(tiny_data, tmp_path, monkeypatch):
    # Dynamo's graphs without the C++ that a minute goes into: what is compiled, not by whom.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    # In float64 from the views on: in float32 a batch-norm of 16 views lets rounding grow to 1e-3 in three steps.
    monkeypatch.setattr(loop, "build_model", lambda config: build_model(config).double())
    monkeypatch.setattr(loop, "two_views", lambda *args, **kwargs: two_views(*args, **kwargs).double())
    trial = tiny_trial(iterations=3)
    for name, compiled in (("as-written", False), ("compiled", True)):
        settings = RunSettings(compile=compiled, report_every=1)
        train(trial, data=tiny_data, trial_dir=tmp_path / name, settings=settings, device="cpu")
    # The views alone are of float32, and may differ in their last bits.
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "as-written"), rtol=1e-3)
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "as-written").keys()


@pytest.mark.parametrize("batching", ["joint", "per-domain"])
def test_ragged_domains_are_compiled_anew_twice_at_most(batching):
    """Clusters have batches of other sizes after each clustering, and some are empty."""
    torch._dynamo.reset()
    counters.clear()
    trial = tiny_trial(batching=batching)
    model = build_model(trial)
    model.compile(backend="eager", fullgraph=True)
    for counts in ([8, 8], [8, 5], [4, 8], [7, 7], [8, 8], [5, 5, 5], [4, 5, 2]):
        backward_at_once(trial, model, torch.randn(2 * sum(counts), 3, 32, 32), [counts])
    assert counters["stats"]["unique_graphs"] <= 3
    assert not counters["graph_break"]
    assert model.eager_passes == 0


@pytest.mark.parametrize(
    ("device", "steps", "changes", "expected"),
    [
        ("cuda", 6, {"compile_from": 6}, True),
        ("cuda", 6, {"compile_from": 7}, False),
        ("cuda", 6, {"compile_from": 0}, False),
        ("cpu", 6, {"compile_from": 6}, False),
    ],
    ids=["long enough", "too short", "never", "not on a CPU"],
)
def test_long_runs_on_a_gpu_are_compiled(tiny_data, tmp_path, monkeypatch, request, device, steps, changes, expected):
    if device == "cuda":
        request.getfixturevalue("gpu")
    asked = []
    monkeypatch.setattr(Model, "compile", lambda self: asked.append("model"))
    monkeypatch.setattr(loop, "two_views", lambda *args, compiled: asked.append(compiled) or two_views(*args))
    settings = RunSettings(**changes, track=())
    train(tiny_trial(iterations=steps), data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    assert asked == ["model"] * expected + [expected] * steps


@pytest.mark.slow
@pytest.mark.parametrize("forgets", [True, False])
def test_a_run_is_recorded_as_compiled_where_it_was_also_after_others_in_its_process(
    tiny_data, tmp_path, monkeypatch, caplog, forgets
):
    """PyTorch compiles a function for a few models of a process, and runs those that follow as they are."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    if not forgets:
        monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    found = []
    for name, config in (("first", tiny_trial(iterations=2)), ("second", tiny_trial(iterations=2, stem="cifar"))):
        settings = RunSettings(compile=True, report_every=1)
        with torch._dynamo.config.patch(recompile_limit=1):
            ended = train(config, data=tiny_data, trial_dir=tmp_path / name, settings=settings, device="cpu")
        found.append(ended["compiled"])
    assert found == [True, forgets]
    assert ("ran the model 2 times" in caplog.text) is not forgets
