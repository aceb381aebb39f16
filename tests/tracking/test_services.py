"""Weights & Biases and MLflow with their own packages, without a network. Skipped if a package is missing."""

import struct

import pytest

from mdssl.config.trial import TrialConfig
from mdssl.storage.location import Location
from mdssl.tracking.trackers import Trackers, log_scores

CONFIG = TrialConfig(domains=("a", "b"), arch="resnet18", iterations=6, batch_per_domain=8)
SCORE = {"status": "finished", "eval_dataset": "a", "features": "encoder", "probe": "sgd(epochs=30)"}


def a_trial_that_was_killed_once(name, trial_dir):
    (trial_dir / "config.json").write_bytes(b"{}")  # training writes this file first
    for resumed_at, steps in ((0, (2, 4)), (2, (4, 6))):
        with Trackers((name,), CONFIG, trial_dir) as trackers:
            trackers.start(resumed_at)
            for step in steps:
                trackers.log(step, {"loss/total": 10.0 - step})
    log_scores((name,), CONFIG, trial_dir, [SCORE | {"top1": 50.0, "knn_top1": 40.0}])


def records(data):
    """The records in the file of an offline run: seven bytes of header, then the LevelDB log format (32 KiB blocks)."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole, block = 7, b"", 1 << 15
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(whole)
            whole = b""


@pytest.fixture
def trial_dir(tmp_path):
    return Location.of(tmp_path) / "trials" / CONFIG.trial_id


def test_mlflow_has_one_run_with_every_step_once(trial_dir, tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow", reason="mdssl[mlflow] is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    a_trial_that_was_killed_once("mlflow", trial_dir)
    assert "tracker" not in caplog.text
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mdssl").experiment_id])
    assert (run.info.run_name, run.info.status) == (CONFIG.trial_id, "FINISHED")
    assert run.data.params["arch"] == "resnet18"
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert sorted((metric.step, metric.value) for metric in history) == [(2, 8.0), (4, 6.0), (6, 4.0)]
    assert run.data.metrics["top1/a/encoder/sgd_epochs_30"] == 50.0


def test_wandb_offline_keeps_runs_with_the_trial_id_in_the_trial_folder(trial_dir, monkeypatch, caplog):
    pytest.importorskip("wandb", reason="mdssl[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    a_trial_that_was_killed_once("wandb", trial_dir)
    assert "tracker" not in caplog.text
    runs = [name for name in (trial_dir / "wandb").names() if name.startswith("offline-run-")]
    assert len(runs) == 3
    told = [list(records((trial_dir / "wandb" / name / f"run-{CONFIG.trial_id}.wandb").read_bytes())) for name in runs]
    assert [record.run.run_id for run in told for record in run if record.HasField("run")] == [CONFIG.trial_id] * 3
    history = [record.history for run in told for record in run if record.HasField("history")]
    values = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in h.item} for h in history
    ]
    assert sorted((value["_step"], value["loss/total"]) for value in values) == [
        ("2", "8"),
        ("4", "6"),
        ("4", "6"),
        ("6", "4"),
    ], "a step that was logged twice is in two runs, which the service merges"
