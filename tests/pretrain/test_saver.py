"""Checkpoints of a background thread: training does not wait, no checkpoint is lost, and errors are raised."""

import threading
import time

import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl.config.run import RunSettings
from mdssl.device import Fetched
from mdssl.pretrain import checkpoint
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.saver import Saver
from mdssl.storage.location import Location

IN_BACKGROUND = RunSettings(report_every=1, checkpoint_seconds=1e-9, track=())
"""A checkpoint is due after every step, and the background thread writes it."""


def encoder(folder):
    return safetensors.torch.load((folder / "encoder.safetensors").read_bytes())


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train(tiny_trial(), data=tiny_data, trial_dir=folder, settings=RunSettings(track=()), device="cpu")
    return encoder(folder)


@pytest.fixture
def slow_disk(monkeypatch):
    """An event that writes of checkpoints wait for, and the begun writes as pairs (step, is on the main thread)."""
    may_write, begun, save = threading.Event(), [], checkpoint.save

    def slow(folder, snapshot, state):
        begun.append((state.step, threading.current_thread() is threading.main_thread()))
        assert may_write.wait(60)
        save(folder, snapshot, state)

    monkeypatch.setattr(checkpoint, "save", slow)
    return may_write, begun


def test_training_continues_while_a_checkpoint_is_written(tiny_data, tmp_path, slow_disk, straight):
    may_write, begun = slow_disk

    def report(progress):
        # Step 2 is trained, and reported, while the checkpoint of step 1 waits for the disk.
        if progress.step == 2:
            assert begun == [(1, False)]
            assert not (tmp_path / "checkpoints").exists()
            may_write.set()

    train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=IN_BACKGROUND, device="cpu", report=report)
    # The training loop itself writes the last checkpoint before it ends.
    assert begun == [(1, False), (2, False), (3, False), (4, False), (5, False), (6, True)]
    assert all(torch.equal(value, encoder(tmp_path)[name]) for name, value in straight.items())


@pytest.mark.parametrize("method", ["mdssl", "mdssl-robust"])
def test_run_resumed_from_a_background_checkpoint_gives_the_same_result(tiny_data, tmp_path, straight, method):
    schedule = {} if method == "mdssl" else {"warmup_iterations": 2, "recluster_every": 2}
    trial = tiny_trial(method=method, **schedule)
    own = dict(data=tiny_data, settings=IN_BACKGROUND, device="cpu")
    with pytest.raises(Killed):
        train(trial, trial_dir=tmp_path / "killed", report=kill_at(5), **own)
    # The checkpoint that was being written at the kill, that of step 4, is complete.
    assert checkpoint.latest_step(Location.of(tmp_path / "killed" / "checkpoints")) == 4
    trained = []
    train(trial, trial_dir=tmp_path / "killed", report=lambda progress: trained.append(progress.step), **own)
    assert trained == [5, 6]
    if schedule:
        train(trial, trial_dir=tmp_path / "straight", **own)
    expected = encoder(tmp_path / "straight") if schedule else straight
    assert all(torch.equal(value, expected[name]) for name, value in encoder(tmp_path / "killed").items())


def test_error_in_the_background_thread_ends_training(tiny_data, tmp_path, monkeypatch):
    def broken(folder, snapshot, state):
        raise ValueError(f"no way to write step {state.step}")

    monkeypatch.setattr(checkpoint, "save", broken)
    seen = []
    with pytest.raises(ValueError, match="no way to write step 1"):
        train(
            tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=IN_BACKGROUND, device="cpu",
            report=lambda progress: seen.append(progress.step),
        )  # fmt: skip
    assert seen in ([1], [1, 2])


def test_error_in_the_background_thread_does_not_hide_an_error_in_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint, "save", lambda *_: 1 / 0)
    model = build_model(tiny_trial())
    with pytest.raises(Killed), Saver(Location.of(tmp_path), lambda: None, in_background=True) as own:
        own.save(model, build_optimizer(tiny_trial(), model), checkpoint.LoopState(step=1), must=False)
        raise Killed
    assert "its last checkpoint could not be saved: division by zero" in caplog.text


def test_next_call_of_a_saver_raises_the_error_of_its_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save", lambda *_: 1 / 0)
    model, state = build_model(tiny_trial()), checkpoint.LoopState(step=1)
    arguments = (model, build_optimizer(tiny_trial(), model), state)
    with pytest.raises(ZeroDivisionError), Saver(Location.of(tmp_path), lambda: None, in_background=True) as own:
        own.save(*arguments, must=False)
        with pytest.raises(ZeroDivisionError):
            own.save(*arguments, must=False)
        own.save(*arguments, must=False)
        with pytest.raises(ZeroDivisionError):
            for _ in range(1000):  # until the thread has ended
                own.check()
                time.sleep(0.01)
        own.save(*arguments, must=False)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_training_looks_for_errors_of_the_thread_at_each_report(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(Saver, "check", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=RunSettings(report_every=2), device="cpu")


def test_checkpoints_of_every_report_are_written_by_the_training_loop(tiny_data, tmp_path, slow_disk):
    may_write, begun = slow_disk
    may_write.set()
    settings = RunSettings(report_every=1, checkpoint_seconds=0, track=())
    train(tiny_trial(iterations=2), data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    assert begun == [(1, True), (2, True)]


def test_background_checkpoint_has_the_state_of_its_step(tmp_path, slow_disk):
    may_write, _ = slow_disk
    model = build_model(tiny_trial())
    optimizer = build_optimizer(tiny_trial(), model)
    state = checkpoint.LoopState(step=1, metrics=[{"step": 1}])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with Saver(Location.of(tmp_path), lambda: None, in_background=True) as own:
        own.save(model, optimizer, state, must=False)
        with torch.no_grad():
            for value in model.state_dict().values():
                value.zero_()
        state.step, state.views = 2, 100
        for rows in (state.metrics, state.rounds, state.terms):
            rows.append({"step": 2})
        may_write.set()
    fresh = build_model(tiny_trial(seed=1))
    found = checkpoint.load_latest(Location.of(tmp_path / "checkpoints"), fresh, optimizer)
    assert (found.step, found.views, found.metrics, found.rounds, found.terms) == (1, 0, [{"step": 1}], [], [])
    assert all(torch.equal(value, weights[name]) for name, value in fresh.state_dict().items())
    # The state lists the checkpoints of the run, so that only the last ones are kept.
    assert state.checkpoints == ["step-00000001.safetensors"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copy_to_the_host_is_not_affected_by_later_gpu_operations():
    x = torch.ones(2**24, device="cuda")
    copy = Fetched(x, copies=True)
    x.zero_()
    assert copy.arrived().all() and copy.arrived().is_pinned()
