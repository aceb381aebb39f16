"""Metrics, log, event file and status of a trial, read by another process during training."""

import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from mdssl.storage.location import Location
from mdssl.storage.trial_log import read
from mdssl.trials.status import trial_statuses


@pytest.mark.slow
def test_files_of_a_running_trial_can_be_read_at_any_time(tiny_data, tmp_path):
    """Reads ``metrics.parquet`` every 5 ms while `mdssl train` replaces it in every step."""
    command = [sys.executable, "-m", "mdssl", "train", "--domains", "tiny-a", "tiny-b", "--data", tiny_data]
    command += ["--iterations", "30", "--batch-per-domain", "8", "--report-every", "1", "--checkpoint-seconds", "0"]
    command += ["--precision", "fp32", "--device", "cpu", "--storage", tmp_path]
    seen, states, deadline = [], set(), time.monotonic() + 200
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
                for file in tmp_path.glob("trials/*/metrics.parquet"):
                    # Given a path, pandas would open the file twice, and the file may be replaced in between.
                    with open(file, "rb") as opened:
                        metrics = pd.read_parquet(opened)
                    assert list(metrics["step"]) == list(range(1, len(metrics) + 1))
                    assert metrics.drop(columns="val_linear_top1").notna().all(axis=None)
                    if not seen or len(metrics) > seen[-1]:
                        (trial,) = trial_statuses(str(tmp_path))
                        states.add((trial.state, trial.holder.partition(" ")[0].rpartition(":")[2]))
                        seen.append(len(metrics))
        finally:
            process.kill()
    assert process.returncode == 0
    assert len(seen) > 3, "metrics.parquet was read while it grew"
    assert ("training", str(process.pid)) in states
    (trial_dir,) = (tmp_path / "trials").iterdir()
    kept = read(Location.of(trial_dir))
    assert "step 1/30" in kept and "step 30/30" in kept
    assert os.listdir(trial_dir / "tensorboard")
