"""Event files of trials, read by TensorBoard if it is installed, and by the definition of the file format."""

import struct

import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain.loop import train
from mdssl.storage.location import Location
from mdssl.tracking.trackers import Trackers, log_scores

TINY = {
    "domains": ("tiny-a", "tiny-b"),
    "arch": "resnet18",
    "batch_per_domain": 8,
    "iterations": 6,
    "precision": "fp32",
}
CONFIG = TrialConfig(**TINY)
EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)


def crc32c(data: bytes) -> int:
    """The CRC computed bit by bit from its polynomial, masked as in record files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(data: bytes) -> list[Event]:
    found = []
    while data:
        (length, length_crc), record = struct.unpack("<QI", data[:12]), data[12:]
        assert crc32c(data[:8]) == length_crc
        assert struct.unpack("<I", record[length : length + 4]) == (crc32c(record[:length]),)
        found.append(Event.FromString(record[:length]))
        data = record[length + 4 :]
    return found


def run(trial_dir, *steps, resumed_at):
    with Trackers(("tensorboard",), CONFIG, trial_dir) as trackers:
        trackers.start(resumed_at)
        for step in steps:
            trackers.log(step, {"loss/total": step / 2})


@pytest.fixture(params=["disk", "memory"])
def trial_dir(request, tmp_path):
    return Location.of(tmp_path if request.param == "disk" else f"memory://{tmp_path.name}") / CONFIG.trial_id


def test_an_event_file_holds_settings_and_values_in_valid_records(trial_dir):
    run(trial_dir, 2, 4, resumed_at=0)
    (name,) = (trial_dir / "tensorboard").names()
    begin, start, settings, *values, end = events((trial_dir / "tensorboard" / name).read_bytes())
    assert begin.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (start.session_log.START, 1)
    assert [(event.step, event.summary.value[0].tag) for event in values] == [(2, "loss/total"), (4, "loss/total")]
    for event in (settings, end):
        assert event.summary.value[0].metadata.plugin_data.plugin_name == "hparams"


def test_steps_repeated_after_a_kill_are_shown_once_together_with_scores(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the viewer is not installed"
    )
    trial_dir = Location.of(tmp_path)
    run(trial_dir, 1, 2, 3, 4, 5, resumed_at=0)
    run(trial_dir, 4, 5, 6, resumed_at=3)
    row = {
        "status": "finished",
        "eval_dataset": "a",
        "features": "encoder",
        "probe": "lbfgs",
        "top1": 5.0,
        "knn_top1": 4.0,
    }
    log_scores(("tensorboard",), CONFIG, trial_dir, [row])
    seen = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss/total")] == [(s, s / 2) for s in range(1, 7)]
    assert [(event.step, event.value) for event in seen.Scalars("top1/a/encoder/lbfgs")] == [(6, 5.0)]


def test_event_files_hold_the_values_of_metrics_parquet(tiny_data, tmp_path):
    train(CONFIG, data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu")
    (file,) = (tmp_path / "tensorboard").iterdir()
    shown = {
        (event.step, value.tag): value.simple_value
        for event in events(file.read_bytes())
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    metrics = pd.read_parquet(tmp_path / "metrics.parquet").set_index("step").rename(columns={"loss": "loss/total"})
    metrics = metrics.rename(columns={name: f"loss/{name}" for name in ("alignment", "within", "across")})
    assert shown == pytest.approx(metrics.stack().dropna().to_dict(), rel=1e-6)


def test_training_without_trackers_writes_no_event_files(tiny_data, tmp_path):
    settings = RunSettings(track=(), report_every=6)
    train(CONFIG, data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    assert not (tmp_path / "tensorboard").exists()
