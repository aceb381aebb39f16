"""Trials in all states, written as files, for tests of `mdssl status` and of commands that read states."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from factories import CONTEXT

from mdssl.config.trial import TrialConfig
from mdssl.storage.claim import Claim
from mdssl.trials.rows import failed_row

STARTED = "2026-01-01T00:00:00+00:00"


def config(**changes):
    base = {"domains": ("a", "b"), "arch": "resnet18", "iterations": 100, "batch_per_domain": 10, "precision": "fp32"}
    return TrialConfig(**base | changes)


def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def begin(storage, trial, *, step=None, views_per_second=50.0, training=None, seconds_ago=0.0, claimed=True, pid=None):
    folder = storage / "trials" / trial.trial_id
    (folder / "config.json").write_bytes(json.dumps(trial.to_dict()).encode())
    if step is not None:
        steps = step - 2, step - 1, step
        rows = [{"step": at, "loss": 9.0 - at / 10, "views_per_second": views_per_second} for at in steps]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        (folder / "metrics.parquet").write_bytes(buffer.getvalue())
    if training:
        (folder / "training.json").write_bytes(json.dumps(training).encode())
    (folder / "run.json").write_bytes(json.dumps({"host": "gpu3", "device": "NVIDIA H200", "workers": 2}).encode())
    if claimed:
        # A dead owner is recognized by its process on this machine, and by the age of its claim on another machine.
        me = Claim(folder, "lambda_grid").owner
        owner = replace(me, pid=pid) if pid else replace(me, machine="another")
        (folder / "claim.json").write_bytes(replace(owner, host="head").to_bytes())
    if seconds_ago:
        then = time.time() - seconds_ago
        for name in folder.names():
            os.utime(f"{folder.path}/{name}", (then, then))


def finished_score(trial, dataset):
    row = failed_row(trial, "", context=CONTEXT, started_at=STARTED)
    numbers = {"top1": 50.0, "num_classes": 4, "num_train": 64, "num_test": 32}
    own = {"eval_dataset": dataset, "features": "encoder", "probe": "lbfgs", "seen": True}
    return row | numbers | own | {"status": "finished", "error": None}
