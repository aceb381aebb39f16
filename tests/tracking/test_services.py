"""Weights & Biases and MLflow by their own packages, without a network; skipped where they are not installed."""

import pytest

from mdssl.config import TrialConfig
from mdssl.storage import Location
from mdssl.tracking.tracks import Tracks, tell_scores

CONFIG = TrialConfig(domains=("a", "b"), arch="resnet18", iterations=6, batch_per_domain=8)
SCORE = {"status": "finished", "eval_dataset": "a", "features": "encoder", "probe": "sgd(epochs=30)"}


def a_trial_that_was_killed_once(name, trial_dir):
    (trial_dir / "config.json").write_bytes(b"{}")  # as training does first
    for resumed_at, steps in ((0, (2, 4)), (2, (4, 6))):
        with Tracks((name,), CONFIG, trial_dir) as tracks:
            tracks.start(resumed_at)
            for step in steps:
                tracks.log(step, {"loss/total": 10.0 - step})
    tell_scores((name,), CONFIG, trial_dir, [SCORE | {"top1": 50.0, "knn_top1": 40.0}])


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


def test_wandb_offline_keeps_runs_of_the_trials_id_in_its_folder(trial_dir, monkeypatch, caplog):
    pytest.importorskip("wandb", reason="mdssl[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    a_trial_that_was_killed_once("wandb", trial_dir)
    assert "tracker" not in caplog.text
    runs = [name for name in (trial_dir / "wandb").names() if name.startswith("offline-run-")]
    assert len(runs) == 3
    files = [trial_dir / "wandb" / name / f"run-{CONFIG.trial_id}.wandb" for name in runs]
    assert all(CONFIG.trial_id.encode() in file.read_bytes() for file in files)
    assert sum(b"loss/total" in file.read_bytes() for file in files) == 2, "which sees that the bytes can be read"
