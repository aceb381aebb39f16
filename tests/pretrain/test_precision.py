"""Precision ``auto`` is resolved by the training hardware once per trial, and recorded."""

import json
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl.config.run import RunSettings
from mdssl.pretrain import step
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.loop import train
from mdssl.pretrain.step import with_precision

AUTO = tiny_trial(precision="auto", iterations=4)


@pytest.fixture
def hardware(monkeypatch):
    """A function that sets whether the hardware multiplies bfloat16."""
    return lambda has_bf16: monkeypatch.setattr(step, "multiplies_bf16", lambda device: has_bf16)


def run(config, data, folder, **more):
    settings = RunSettings(report_every=1, checkpoint_seconds=0)
    return train(config, data=data, trial_dir=folder, settings=settings, device="cpu", **more)


def encoder(folder):
    return safetensors.torch.load_file(folder / "encoder.safetensors")


def assert_same(first, second):
    first, second = encoder(first), encoder(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_precision_auto_is_resolved_by_the_hardware_and_recorded(tiny_data, tmp_path, hardware, has_bf16, precision):
    hardware(has_bf16)
    ended = run(AUTO, tiny_data, tmp_path / "auto")
    run(tiny_trial(precision=precision, iterations=4), tiny_data, tmp_path / "named")
    assert ended["precision"] == json.loads((tmp_path / "auto/training.json").read_text())["precision"] == precision
    assert_same(tmp_path / "auto", tmp_path / "named")
    # The requested precision determines the trial ID, which is the same on every machine.
    assert json.loads((tmp_path / "auto/config.json").read_text())["precision"] == "auto"


def test_resumed_trial_keeps_its_precision_on_other_hardware(tiny_data, tmp_path, hardware):
    hardware(True)
    run(AUTO, tiny_data, tmp_path / "straight")
    with pytest.raises(Killed):
        run(AUTO, tiny_data, tmp_path / "killed", report=kill_at(3))
    hardware(False)
    assert run(AUTO, tiny_data, tmp_path / "killed")["precision"] == "bf16"
    assert_same(tmp_path / "straight", tmp_path / "killed")


def test_precision_other_than_that_of_the_trained_trial_is_refused(tiny_data, tmp_path, hardware):
    named = tiny_trial(precision="fp32", iterations=4)
    assert named.trial_id == AUTO.trial_id
    hardware(True)
    with pytest.raises(Killed):
        run(AUTO, tiny_data, tmp_path, report=kill_at(3))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"precision is fp32, but trial \w+ was trained in bf16.*leave --precision"
        ):
            run(named, tiny_data, tmp_path)
        # In the second round the trial is finished.
        run(AUTO, tiny_data, tmp_path)
    hardware(False)
    run(AUTO, tiny_data, tmp_path / "fp32")
    assert run(named, tiny_data, tmp_path / "fp32")["precision"] == "fp32"


@pytest.mark.parametrize(
    ("asked", "done", "expected"), [("auto", "", "fp32"), ("bf16", "", "bf16"), ("auto", "bf16", "bf16")]
)
def test_checkpoint_of_an_earlier_version_resumes_with_the_precision_of_its_config(hardware, asked, done, expected):
    """Earlier versions replaced ``auto`` by the precision of the machine. fp32 gives the same trial ID as ``auto``."""
    hardware(True)
    config = with_precision(tiny_trial(precision=asked), LoopState(step=3, precision=done), "cpu", None)
    assert config.precision == expected


def test_bf16_requires_hardware_support_on_all_workers(hardware):
    hardware(True)
    agreement = SimpleNamespace(least=lambda own: min(int(own), 0))
    assert with_precision(AUTO, LoopState(), "cpu", agreement).precision == "fp32"
