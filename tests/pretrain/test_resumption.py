"""A run that was killed or stopped, or whose files are damaged, resumes to the same result."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import safetensors
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial
from loop_runs import AT_THE_END, EVERY_STEP, losses, weights

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.errors import InputError
from mdssl.pretrain import checkpoint
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.stopping import StoppedError
from mdssl.pretrain.trial_files import load_model, read_training
from mdssl.storage.location import Location


def test_a_finished_trial_is_not_trained_again(tiny_data, tmp_path):
    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu")
    before = (tmp_path / "encoder.safetensors").stat().st_mtime_ns
    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", report=kill_at(6))
    assert (tmp_path / "encoder.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_killed_run_resumes_to_the_same_result(tiny_data, tmp_path, optimizer):
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


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_folder_of_another_trial_is_refused(tiny_data, tmp_path, is_finished):
    trial = tiny_trial(iterations=2)
    train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")
    if not is_finished:
        (tmp_path / "training.json").unlink()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match=r"has trial \w{12}, not \w{12}: they differ in iterations, .*seed"):
        train(replace(trial, seed=5, iterations=3), data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is damaged"):
        train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")


def test_checkpoint_requested_by_a_report_is_saved_at_once(tiny_data, tmp_path):
    saved = {}

    def report(progress):
        saved[progress.step] = saved_steps(tmp_path) if progress.step > 2 else []
        return "save" if progress.step == 2 else None

    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, device="cpu", report=report)
    assert saved == {1: [], 2: [], 3: [2], 4: [2], 5: [2], 6: [2]}
    assert saved_steps(tmp_path) == [2, 6]


@pytest.mark.parametrize("report_every", [1, 4])
def test_run_stopped_after_any_step_resumes_to_the_same_result(tiny_data, tmp_path, report_every):
    """Includes stops between two reports: the next report averages over the steps before and after the stop."""
    settings = RunSettings(report_every=report_every, checkpoint_seconds=1000)
    arguments = {"data": tiny_data, "settings": settings, "device": "cpu"}
    train(tiny_trial(), **arguments, trial_dir=tmp_path / "straight")
    folder, stops = tmp_path / "stopped", 0
    while not (folder / "training.json").exists():
        # ``stop_requested`` is called before the first step and after each step.
        answers = iter([False, True])
        try:
            train(tiny_trial(), **arguments, trial_dir=folder, stop_requested=lambda answers=answers: next(answers))
        except StoppedError as stopped:
            stops += 1
            assert str(stopped) == f"stopped at step {stops} of 6"
            assert saved_steps(folder)[-1] == stops
    assert stops == 5
    assert_same(tmp_path / "straight", folder)


def test_run_stopped_before_its_first_step_trains_no_step(tiny_data, tmp_path):
    with pytest.raises(StoppedError, match="stopped at step 0 of 6"):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", stop_requested=lambda: True)
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(InputError, match="has no encoder at .*; train it to the end first"):
        load_model(Location.of(tmp_path))


@pytest.mark.parametrize(
    ("allowed", "changes"),
    [
        (0, {}),
        (1, {}),
        (3, {}),
        (7, {}),  # all but the encoder
        (1, {"learning_rate": 1e30, "optimizer": "sgd", "lr_warmup_iterations": 0}),  # not the failure
        (1, {"schedule": "wsd", "decay_fraction": 0.5}),  # not the stable part
    ],
)
def test_no_file_is_written_after_before_writing_raises(tiny_data, tmp_path, allowed, changes):
    writes = iter(range(allowed))

    def before_writing():
        if next(writes, None) is None:
            raise Killed

    with pytest.raises(Killed):
        train(
            tiny_trial(**changes),
            data=tiny_data,
            trial_dir=tmp_path / "trials/a",
            settings=replace(AT_THE_END if changes else EVERY_STEP, track=()),
            device="cpu",
            before_writing=before_writing,
        )
    found = sorted(str(file.relative_to(tmp_path / "trials/a")) for file in tmp_path.rglob("*") if file.is_file())
    checkpoints = [f"checkpoints/step-{step:08d}.safetensors" for step in range(1, allowed)][-2:]
    begun = ["config.json", "run.json"] if allowed else []
    assert found == sorted([*checkpoints, *begun, *["metrics.parquet"] * bool(checkpoints)])


@pytest.mark.slow
def test_command_killed_by_sigkill_resumes_to_the_same_result(tiny_data, tmp_path, capsys):
    """Compares 60 steps of ``mdssl train`` in bf16 with 60 steps that ``kill -9`` interrupted."""
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
    assert "step 2/60" not in said(*killed), "a killed run resumes from its last checkpoint"
    folders = [next(tmp_path.glob(f"{name}/trials/*")) for name in ("straight", "killed")]
    again = said(*killed)
    assert f"trial {folders[1].name} is already trained: 60 steps" in again and "step 60/60" not in again
    assert_same(*folders)


def test_two_checkpoints_are_kept_and_a_truncated_one_is_skipped(tiny_data, tmp_path, caplog):
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


def test_unreadable_checkpoint_is_not_counted_as_one_of_the_two_kept(tiny_data, tmp_path):
    arguments = {"data": tiny_data, "trial_dir": tmp_path, "settings": EVERY_STEP, "device": "cpu"}
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, report=kill_at(5))
    later = tmp_path / "checkpoints/step-00000009.safetensors"
    later.write_bytes(b"cut off")
    train(tiny_trial(), **arguments)
    names = sorted(file.name for file in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000005.safetensors", "step-00000006.safetensors"]


def test_last_readable_checkpoint_is_kept_when_a_later_one_is_damaged(tiny_data, tmp_path):
    arguments = {"data": tiny_data, "trial_dir": tmp_path, "device": "cpu"}
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, settings=EVERY_STEP, report=kill_at(5))
    assert saved_steps(tmp_path) == [3, 4]
    (tmp_path / "checkpoints/step-00000004.safetensors").write_bytes(b"cut off")
    # The run resumes from step 3; its first report and checkpoint are at step 5.
    with pytest.raises(Killed):
        train(tiny_trial(), **arguments, settings=replace(EVERY_STEP, report_every=2), report=kill_at(6))
    assert saved_steps(tmp_path) == [3, 5], "checkpoint 3 is kept because checkpoint 5 may be damaged as well"


@pytest.mark.parametrize("name", ["encoder.safetensors", "training.json"])
def test_damaged_file_is_named_and_rebuilt_from_the_last_checkpoint(tiny_data, tmp_path, name):
    trial_dir = Location.of(tmp_path)
    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu")
    before = weights(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
    read = load_model if name.startswith("encoder") else read_training
    with pytest.raises(ValueError, match=rf"{name} is damaged .*Delete it"):
        read(trial_dir)
    if name.startswith("encoder"):
        # PyTorch's error names each of a hundred missing tensors; our message shortens it.
        metadata = {"config": json.dumps(tiny_trial().to_dict())}
        safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / name, metadata)
        with pytest.raises(ValueError, match=rf"{name} is damaged \(.{{250,330}} …\)\. Delete it"):
            read(trial_dir)
        metadata = {"config": json.dumps(tiny_trial().to_dict() | {"setting_of_tomorrow": 1})}
        safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / name, metadata)
        with pytest.raises(ValueError, match=f"{name}: unknown config key 'setting_of_tomorrow'.*newer"):
            read(trial_dir)
    for file in (name, "metrics.parquet"):
        (tmp_path / file).unlink()
    # No step is left, so that a request to stop has no effect.
    arguments = {"report": kill_at(1), "stop_requested": lambda: True}
    again = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, device="cpu", **arguments)
    assert again["train_seconds"] == ended["train_seconds"]
    assert all(torch.equal(before[key], value) for key, value in weights(tmp_path).items())
    assert losses(tmp_path)["loss"].iloc[-1] == ended["final_loss"]
