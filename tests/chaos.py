"""Kill anything: a sweep on a cluster of this machine, with random kills, ends as one that nobody disturbs.

    python tests/chaos.py --kills 20 --seed 0

``kill -9`` hits workers of Ray Train, the trials' own processes, the probe actor, the sweep itself (the same command is
then started again) and whole nodes (another then joins). Each kill comes when the trials' checkpoints have passed so
many steps, by a seeded draw, and have got on since the kill before. At the end there must be the same trials with the
same encoders, losses, scores, representations and sheets of neighbours to the last bit, every step once, and no process
and no temporary file left.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from processes import ours
from tiny_domains import prepare_tiny

SCRIPT = Path(__file__).parents[1] / "sweeps" / "lambda_grid.py"
KINDS = {
    "worker": re.compile(r"ray::.*RayTrainWorker"),
    "trial": re.compile(r"ray::(ImplicitFunc|run_trial)"),
    "probe": re.compile(r"ray::Evaluator"),
    "sweep": re.compile(r"python\S* \S*lambda_grid\.py"),
    "node": None,
}
TRAINED = 3
"""Trials of the sweep that have steps: simclr and two of mdssl."""
SEEN = ("representations/*", "neighbours.*")
STALLED_SECONDS = 400
"""So long without a checkpoint or a row is a failure."""


class Sweep:
    """The command that a user types, started again whenever it was killed."""

    def __init__(self, storage: Path, data: str, iterations: int, *more: str):
        self.storage, self.iterations = storage, iterations
        self.output = storage.with_suffix(".txt")
        self.command = [sys.executable, str(SCRIPT), "--domains", "tiny-a", "tiny-b", "--evaluate", "tiny-a", "tiny-c"]
        self.command += ["--batch-per-domain", "4", "--precision", "fp32", "--lambda1", "0.9", "--lambda2", "0", "0.1"]
        self.command += ["--iterations", str(iterations), "--report-every", "2", "--checkpoint-seconds", "0.5"]
        self.command += ["--storage", str(storage), "--data", data, *more]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.output, "a") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT)

    def steps(self) -> int:
        """Steps that are safe, over all trials."""
        reached = 0
        for trial in self.storage.glob("trials/*"):
            names = [file.name for file in trial.glob("checkpoints/step-*.safetensors")]
            reached += max((int(re.findall(r"\d+", name)[0]) for name in names), default=0)
        return reached

    def rows(self) -> int:
        return len(list(self.storage.glob("leaderboard/*.parquet")))


def disturb(sweep: Sweep, cluster, token: str, kills: int, rng: random.Random) -> list[str]:
    """Run the sweep to its end with ``kills`` kills; what was killed, in order."""
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(kills)]
    rng.shuffle(kinds)
    due = sorted(rng.uniform(0, 0.9 * TRAINED * sweep.iterations) for _ in kinds)
    killed, last, got_on = [], (-1, 0), time.monotonic()
    sweep.start()
    # Also after the last kill, which may have hit the sweep itself.
    while sweep.process.poll() != 0 or len(killed) < kills:
        reached = (sweep.steps(), sweep.rows())
        code = sweep.process.poll()
        if code is not None:
            assert code == -signal.SIGKILL, f"the sweep ended with {code} after {killed}:\n{sweep.output.read_text()}"
            sweep.start()
        if reached > last:
            got_on = time.monotonic()
        assert time.monotonic() - got_on < STALLED_SECONDS, f"no progress after {killed}:\n{sweep.output.read_text()}"
        if len(killed) < kills and reached > last and reached[0] >= due[len(killed)]:
            victim = kill(kinds[len(killed)], sweep, cluster, token, rng)
            if victim:
                killed.append(kinds[len(killed)])
                print(f"{len(killed):3d}. {victim} at {reached[0]} steps, {reached[1]} trials with rows", flush=True)
                last = (sweep.steps(), sweep.rows())
        time.sleep(0.2)
    assert sweep.process.returncode == 0, sweep.output.read_text()
    return killed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kill(kind: str, sweep: Sweep, cluster, token: str, rng: random.Random) -> str:
    """Who was killed; empty where there is nobody of this kind just now."""
    if kind == "node":
        node = rng.choice(sorted(cluster.worker_nodes, key=lambda node: node.node_id))
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        return f"node {node.node_id[:8]}"
    pids = [pid for pid, line in sorted(ours(token).items()) if KINDS[kind].match(line)]
    if kind == "sweep":
        pids = [sweep.process.pid]
    if not pids:
        return ""
    victim = rng.choice(pids)
    os.kill(victim, signal.SIGKILL)
    return f"{kind} {victim}"


def compare(disturbed: Path, straight: Path, iterations: int) -> None:
    """Assert that both storages hold the same, and the disturbed one nothing that a killed process left."""
    boards = [pd.read_parquet(storage / "leaderboard") for storage in (disturbed, straight)]
    identity = ["trial_id", "eval_dataset", "features", "probe"]
    scores = [*identity, "status", "top1", "top5", "knn_top1", "final_loss", "views_seen"]
    first, second = (board[scores].sort_values(identity).reset_index(drop=True) for board in boards)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert set(first["status"]) == {"finished"}
    assert not first.duplicated(identity).any()
    for trial in straight.glob("trials/*"):
        same = disturbed / "trials" / trial.name
        weights = [safetensors.torch.load_file(folder / "encoder.safetensors") for folder in (same, trial)]
        assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items()), trial.name
        losses = [pd.read_parquet(folder / "metrics.parquet") for folder in (same, trial)]
        if not losses[1].empty:
            assert list(losses[0]["step"]) == list(range(2, iterations + 1, 2)), "every step once"
            losses = [frame.drop(columns="views_per_second") for frame in losses]
            pd.testing.assert_frame_equal(*losses, check_exact=True)
        seen = [
            {str(file.relative_to(folder)): file.read_bytes() for kind in SEEN for file in folder.glob(kind)}
            for folder in (same, trial)
        ]
        assert len(seen[1]) == 4, "representations of two datasets, and a sheet with its numbers"
        assert seen[0] == seen[1], trial.name
    left = [file for file in disturbed.rglob("*") if re.match(r"\..*\.(tmp|bid)$|claim.*\.json$", file.name)]
    left += disturbed.glob(".ray/*")
    assert not left, f"left over: {left}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=100)
    arguments = parser.parse_args()
    begun, token = time.monotonic(), f"mdssl-chaos-{uuid.uuid4().hex}"
    # Ray's own files and sockets, apart from any other Ray of this machine; the paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        os.environ |= {"RAY_TMPDIR": folder, "TMPDIR": folder, "MDSSL_CHAOS": token}
        os.environ |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        folder = Path(folder)
        data = prepare_tiny(folder)
        # Here, for Ray takes the variables above as it is imported.
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()},
        )
        sweep = Sweep(folder / "disturbed", data, arguments.iterations, "--address", cluster.address)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            killed = disturb(sweep, cluster, token, arguments.kills, random.Random(arguments.seed))
        finally:
            if sweep.process and sweep.process.poll() is None:
                sweep.process.kill()
                sweep.process.wait()
            cluster.shutdown()
        deadline = time.monotonic() + 60
        while left := ours(token):
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.5)
        print(f"disturbed: {time.monotonic() - begun:.0f} s; once more without", flush=True)
        straight = Sweep(folder / "straight", data, arguments.iterations, "--executor", "inline")
        straight.start()
        assert straight.process.wait() == 0, straight.output.read_text()
        compare(sweep.storage, straight.storage, arguments.iterations)
    counts = ", ".join(f"{killed.count(kind)} {kind}" for kind in KINDS)
    print(f"{len(killed)} kills ({counts}) in {time.monotonic() - begun:.0f} s; all is as undisturbed, nothing is left")


if __name__ == "__main__":
    main()
