"""Run a sweep with random kills on a local cluster, and check that its results equal those of an undisturbed sweep.

    python tests/chaos.py --kills 20 --seed 0
    python tests/chaos.py --workers 2 --method clustered --storage-kind bucket --second-ray

``kill -9`` ends workers of Ray Train, its controllers, the processes of trials, the probe actor, the sweep itself (the
same command is then started again) and whole nodes (another node then joins). The seed gives a plan of kills, which is
printed. The plan has victims, sometimes two at a time, and times: before the first checkpoint, when the checkpoints of
the trials have reached a number of steps, or some seconds after the previous kill, during the recovery.

At the end both sweeps must have the same trials with bitwise equal encoders, losses, scores, representations and sheets
of neighbors. A step must be trained again only if no checkpoint had it, by a log that each process writes outside the
storage: see `work_log`. No process and no temporary file must be left.
"""

from __future__ import annotations

import argparse
import contextlib
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
from typing import NamedTuple

import s3_server
from factories import prepare_tiny
from processes import ours
from same_results import as_folder, compare
from work_log import VARIABLE, check_work

from mdssl.pretrain.checkpoint import latest_step
from mdssl.pretrain.trial_files import read_training
from mdssl.storage.location import Location

SWEEPS = Path(__file__).parents[1] / "sweeps"
PLUGIN = Path(__file__).parent / "plugin"
KINDS = {
    "worker": re.compile(r"ray::.*RayTrainWorker"),
    "controller": re.compile(r"ray::TrainController"),
    "trial": re.compile(r"ray::(ImplicitFunc|run_trial)"),
    "probe": re.compile(r"ray::Evaluator"),
    "sweep": re.compile(r"python\S* \S*sweeps/\w+\.py"),
    "node": None,
}
METHODS = {
    "mdssl": ("lambda_grid.py", ["--lambda1", "0.9", "--lambda2", "0", "0.1"]),
    "clustered": ("clustering.py", ["--lambda2", "0.1", "--clusters", "2", "--warmups", "30", "--intervals", "30"]),
}
"""By --method: the script, and the flags of its smallest sweep."""
TRAINED = {"mdssl": 3, "clustered": 4}
"""Number of trials that train, by --method."""
IDLES = """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
print("runs", flush=True)
sys.stdin.read()
"""
STALLED_SECONDS = 400
"""Seconds without a checkpoint or a row after which the sweep has failed."""


class Kill(NamedTuple):
    """One entry of a plan.

    Attributes:
        kinds: kinds of the victims, which are killed together.
        steps: number of steps in the trials' checkpoints at which the kill is due; None for a kill ``pause`` seconds
            after the start or the previous kill.
        pick: selects one of several processes of a kind, from 0 to 1.
    """

    kinds: tuple[str, ...]
    steps: float | None
    pause: float
    pick: float


def plan(seed: int, kills: int, steps: int) -> list[Kill]:
    """A deterministic plan of ``kills`` kills in a sweep of ``steps`` steps."""
    rng = random.Random(seed)
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(kills)]
    rng.shuffle(kinds)
    entries: list[tuple[str, ...]] = []
    while kinds:
        count = 2 if len(entries) % 4 == 3 and len(set(kinds[-2:])) == 2 else 1
        entries.append(tuple(kinds.pop() for _ in range(count)))
    due = sorted(rng.uniform(0, 0.9 * steps) for _ in entries)
    # The first kill comes before any progress, and each third one during the recovery from the previous kill.
    return [
        Kill(kinds, None if number == 0 or number % 3 == 2 else due[number], rng.uniform(0, 20), rng.random())
        for number, kinds in enumerate(entries)
    ]


class Sweep:
    """The command of a sweep, which is started again after each kill."""

    def __init__(self, storage: Path | str, data: str, iterations: int, *more: str, method: str = "mdssl"):
        self.storage, self.iterations = Location.of(storage), iterations
        script, axes = METHODS[method]
        self.output = Path(data).with_name(f"{self.storage.name}.txt")
        self.command = [sys.executable, str(SWEEPS / script), "--domains", "tiny-a", "tiny-b", *axes]
        self.command += ["--evaluate", "tiny-a", "tiny-c", "--batch-per-domain", "4", "--precision", "fp32"]
        self.command += ["--iterations", str(iterations), "--report-every", "2", "--checkpoint-seconds", "0.5"]
        self.command += ["--storage", str(storage), "--data", data, *more]
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.output, "a") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT)

    def steps(self) -> int:
        """Total number of saved steps. A finished trial has no checkpoints any more."""
        trials = [self.storage / "trials" / name for name in (self.storage / "trials").names()]
        ended = [read_training(trial) for trial in trials]
        steps = zip(trials, ended, strict=True)
        return sum(found["step"] if found else latest_step(trial / "checkpoints") for trial, found in steps)

    def rows(self) -> int:
        return len((self.storage / "leaderboard").names())


def disturb(sweep: Sweep, cluster, token: str, kills: list[Kill]) -> None:
    """Run the sweep to its end with ``kills``."""
    left, last, seen = list(kills), (-1, 0), (-1, 0)
    killed_at = got_on = time.monotonic()
    sweep.start()
    # The loop goes on after the last kill, which may have ended the sweep itself.
    while sweep.process.poll() != 0 or left:
        reached = (sweep.steps(), sweep.rows())
        code = sweep.process.poll()
        if code is not None:
            assert code == -signal.SIGKILL, f"the sweep ended with {code}, {left} left:\n{sweep.output.read_text()}"
            sweep.start()
        if reached != seen:
            seen, got_on = reached, time.monotonic()
        assert time.monotonic() - got_on < STALLED_SECONDS, f"no progress, {left} left:\n{sweep.output.read_text()}"
        paused = time.monotonic() - killed_at
        # Kills are made in the order of the plan, but those without a running victim wait: the probe actor only lives
        # while it scores, and for a minute after that.
        for due in left:
            is_due = paused >= due.pause if due.steps is None else reached > last and reached[0] >= due.steps
            if not is_due:
                break
            if victims := kill(due, sweep, cluster, token):
                print(f"{' and '.join(victims)} at {reached[0]} steps, {reached[1]} trials with rows", flush=True)
                left.remove(due)
                last, killed_at = (sweep.steps(), sweep.rows()), time.monotonic()
                break
        time.sleep(0.2)
    assert sweep.process.returncode == 0, sweep.output.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kill(due: Kill, sweep: Sweep, cluster, token: str) -> list[str]:
    """Make a kill, and return its victims: none if one of the kinds has no running process."""
    running = sorted(ours(token).items())
    candidates = {kind: [pid for pid, line in running if KINDS[kind] and KINDS[kind].match(line)] for kind in due.kinds}
    candidates |= {"sweep": [sweep.process.pid] if sweep.process.poll() is None else []}
    candidates |= {"node": sorted(cluster.worker_nodes, key=lambda node: node.node_id)}
    if not all(candidates[kind] for kind in due.kinds):
        return []
    said = []
    for kind in due.kinds:
        victim = candidates[kind][int(due.pick * len(candidates[kind]))]
        if kind == "node":
            cluster.remove_node(victim, allow_graceful=False)
            cluster.add_node(num_cpus=1)
            victim = victim.node_id[:8]
        else:
            with contextlib.suppress(ProcessLookupError):  # the process ended with the other victim
                os.kill(victim, signal.SIGKILL)
        said.append(f"{kind} {victim}")
    return said


@contextlib.contextmanager
def storage(kind: str, folder: Path):
    """The storage of the disturbed sweep: a folder or a bucket."""
    if kind == "folder":
        yield str(folder / "disturbed")
        return
    with s3_server.running() as environment:
        os.environ |= environment
        yield f"{s3_server.new_bucket(environment)}/disturbed"


@contextlib.contextmanager
def another_ray():
    """A second, idle Ray on this machine: a search for the Ray of the machine finds two."""
    with subprocess.Popen(
        [sys.executable, "-c", IDLES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as ray:
        assert any("runs" in line for line in ray.stdout)
        yield
        ray.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the plan of kills")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2), help="of each trial")
    parser.add_argument("--method", default="mdssl", choices=METHODS)
    parser.add_argument("--storage-kind", default="folder", choices=("folder", "bucket"))
    parser.add_argument("--second-ray", action="store_true", help="another Ray idles on the machine meanwhile")
    arguments = parser.parse_args()
    begun, token, iterations = time.monotonic(), f"mdssl-chaos-{uuid.uuid4().hex}", arguments.iterations
    kills = plan(arguments.seed, arguments.kills, TRAINED[arguments.method] * iterations)
    print("\n".join(f"plan: {each}" for each in kills), flush=True)
    # Ray's files and sockets are separate from those of other Rays on this machine; paths of sockets must be short.
    with (
        another_ray() if arguments.second_ray else contextlib.nullcontext(),
        tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as name,
        storage(arguments.storage_kind, Path(name)) as place,
    ):
        folder = Path(name)
        data, log = prepare_tiny(folder), folder / "work.txt"
        os.environ |= {"RAY_TMPDIR": name, "TMPDIR": name, "MDSSL_CHAOS": token, VARIABLE: str(log)}
        os.environ |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])
        # Imported here because Ray reads the variables above on import.
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()},
        )
        more = ["--workers", str(arguments.workers), "--norm", "group"]
        sweep = Sweep(place, data, iterations, "--address", cluster.address, *more, method=arguments.method)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            disturb(sweep, cluster, token, kills)
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
        again = check_work(log, iterations)
        executor = ["--executor", "inline"] if arguments.workers == 1 else []
        log.unlink()
        straight = Sweep(folder / "straight", data, iterations, *executor, *more, method=arguments.method)
        straight.start()
        assert straight.process.wait() == 0, straight.output.read_text()
        assert not any(check_work(log, iterations).values()), "steps were trained again without a kill"
        compare(as_folder(sweep.storage, folder / "copied"), folder / "straight", iterations)
    victims = [kind for each in kills for kind in each.kinds]
    counts = ", ".join(f"{victims.count(kind)} {kind}" for kind in KINDS)
    print(
        f"{len(victims)} kills ({counts}) in {time.monotonic() - begun:.0f} s; {sum(again.values())} steps trained "
        "again, none that a checkpoint had; all is as undisturbed, nothing is left"
    )


if __name__ == "__main__":
    main()
