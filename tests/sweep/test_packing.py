"""Sweeps that share a GPU between trials or wait for one. GPUs exist only as resources of Ray; trials run on CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

SCRIPT = Path(__file__).parents[2] / "sweeps" / "lambda_grid.py"

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("full_encoders")]


def command(storage, data, *more):
    base = ["--domains", "tiny-a", "tiny-b", "--batch-per-domain", "8", "--precision", "fp32", "--report-every", "2"]
    return [sys.executable, str(SCRIPT), *base, "--storage", str(storage), "--data", data, *map(str, more)]


def most_at_once(storage):
    """The largest number of trials that trained at the same time, from their records of start and end."""
    ended = [json.loads(file.read_bytes()) for file in storage.glob("trials/*/training.json")]
    spans = [(each["started_at"], each["finished_at"]) for each in ended if each["views_seen"]]
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def test_two_trials_share_a_gpu_and_a_third_waits_for_it(tiny_data, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 1})
    arguments = ["--iterations", 20, "--lambda1", 0.9, "--lambda2", 0.05, 0.1, "--gpus-per-worker", 0.5]
    arguments += ["--executor", "inline", "--address", cluster.address]
    try:
        result = subprocess.run(
            command(tmp_path / "results", tiny_data, *arguments), capture_output=True, text=True, timeout=380
        )
    finally:
        cluster.shutdown()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 trial(s) at a time, each 1 worker with 1 CPU (1 thread) and 0.5 of a GPU (40% of its memory)" in (
        result.stdout
    )
    assert most_at_once(tmp_path / "results") == 2


def test_a_sweep_reports_that_it_waits_for_a_node_and_uses_the_node(tiny_data, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    said = tmp_path / "said.txt"
    arguments = ["--iterations", 4, "--lambda1", 0.9, "--lambda2", 0.1, "--executor", "inline"]
    arguments += ["--address", cluster.address, "--gpus-per-worker", 0.5, "--max-concurrent", 2]
    try:
        with open(said, "w") as out:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            words = command(tmp_path / "results", tiny_data, *arguments)
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + 180
        while "waiting for machines" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        assert "each needs 1 worker with 1 CPU (1 thread) and 0.5 of a GPU" in said.read_text()
        assert "the cluster has 1 node with 1 CPU\n" in said.read_text()
        cluster.add_node(num_cpus=2, num_gpus=1)
        assert process.wait(180) == 0, said.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        cluster.shutdown()
    assert "machines are available after" in said.read_text()
    assert len(list(tmp_path.glob("results/trials/*/encoder.safetensors"))) == 3
