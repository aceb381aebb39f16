"""A long sweep of short trials: memory and open files of its processes must not grow with the number of trials.

The memory of a process is that of its private pages, without files that several processes map. The results of each
trial, about 130 MB, are deleted when it is finished, so that the disk usage is that of Ray's session and temporary
files.

    python tests/soak.py --trials 300
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from processes import command_line, descendants, open_files

SCRIPT = Path(__file__).parents[1] / "sweeps" / "lambda_grid.py"
ROLES = {
    "ray::ImplicitFunc": "trials",
    "ray::Evaluator": "probe",
    "raylet/raylet": "raylet",
    "gcs/gcs_server": "GCS",
    "dashboard/dashboard.py": "dashboard",
    "ray::DashboardAgent": "dashboard agent",
    "ray::RuntimeEnvAgent": "environment agent",
}
LAMBDA2 = (0, 0.05, 0.1, 0.15, 0.2)
"""Each seed has a trial for each of these, one of SimCLR and a random encoder."""


class Sample(NamedTuple):
    """A measurement after ``trials`` finished trials: by role the number, memory (MiB) and open files of processes."""

    trials: int
    processes: dict[str, int]
    memory: dict[str, float]
    files: dict[str, int]
    disk_mb: float


def soak(trials: int, data: str, every_seconds: float = 2.0, iterations: int = 2) -> list[Sample]:
    """Run a sweep of at least ``trials`` trials, and return the samples taken while its Ray ran.

    Args:
        data: a folder with the prepared datasets tiny-a and tiny-b.
    """
    samples: list[Sample] = []
    # Ray's sockets are below this folder, and their paths may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="mdssl-", dir="/tmp") as folder:
        storage, temporary, said = Path(folder, "results"), Path(folder, "t"), Path(folder, "said.txt")
        temporary.mkdir()
        command = [
            sys.executable,
            SCRIPT,
            "--domains",
            "tiny-a",
            "tiny-b",
            "--batch-per-domain",
            8,
            "--precision",
            "fp32",
        ]
        command += ["--iterations", iterations, "--executor", "inline", "--lambda1", 0.9, "--lambda2", *LAMBDA2]
        command += ["--seeds", *range(-(-trials // (len(LAMBDA2) + 2))), "--data", data, "--storage", storage]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
        with open(said, "w") as out:
            words = [str(word) for word in command]
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            finished: set[str] = set()
            while process.poll() is None:
                time.sleep(every_seconds)
                now_finished = set(re.findall(r"([0-9a-f]{12}) [^\n]*: finished", said.read_text()))
                for trial_id in now_finished - finished:
                    shutil.rmtree(storage / "trials" / trial_id, ignore_errors=True)
                finished = now_finished
                samples.append(_sample(len(finished), process.pid, temporary))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        assert process.returncode == 0, said.read_text()
        left = [file for file in temporary.rglob("*") if file.is_file() and not file.is_symlink()]
        assert not left, f"left behind: {left}"
    return [sample for sample in samples if "raylet" in sample.processes]


def growth(samples: list[Sample], role: str, what: str) -> float:
    """Growth per 100 trials: the slope of a line through the medians by number of trials, without the first quarter."""
    last = samples[-1].trials
    found = defaultdict(list)
    for sample in samples:
        if sample.trials > last / 4 and role in sample.processes:
            found[sample.trials].append(getattr(sample, what)[role] / sample.processes[role])
    if len(found) < 3:
        return 0.0
    points = {trials: statistics.median(values) for trials, values in found.items()}
    return 100 * statistics.linear_regression(list(points), list(points.values())).slope


def roles(samples: list[Sample]) -> list[str]:
    """Roles that are present in most samples after the first quarter."""
    later = [sample for sample in samples if sample.trials > samples[-1].trials / 4]
    return [role for role in ("driver", *ROLES.values()) if sum(role in s.processes for s in later) > len(later) / 2]


def print_table(samples: list[Sample]) -> None:
    last = samples[-1].trials
    whole = [sample for sample in samples if {"trials", "probe"} <= sample.processes.keys()]
    early, late = next(sample for sample in whole if sample.trials > last / 4), whole[-1]
    print(f"{last} trials; a column's two numbers are after {early.trials} and after {late.trials} of them\n")
    print("| process | MiB of its own | MiB per 100 trials | open files | files per 100 trials |")
    print("|---|---|---|---|---|")
    for role in roles(samples):
        memory = [f"{sample.memory[role] / sample.processes[role]:.0f}" for sample in (early, late)]
        files = [f"{sample.files[role] / sample.processes[role]:.0f}" for sample in (early, late)]
        slopes = [f"{growth(samples, role, what):+.1f}" for what in ("memory", "files")]
        print(f"| {role} | {memory[0]}, {memory[1]} | {slopes[0]} | {files[0]}, {files[1]} | {slopes[1]} |")
    print(f"\nprocesses: {sum(early.processes.values())}, {sum(late.processes.values())}")
    print(
        f"MB of temporary files, Ray's session among them: {early.disk_mb:.1f}, {late.disk_mb:.1f}, and none at the end"
    )


def _sample(finished: int, driver: int, temporary: Path) -> Sample:
    processes, memory, files = defaultdict(int), defaultdict(float), defaultdict(int)
    for pid in descendants(driver):
        words = command_line(pid)
        role = "driver" if pid == driver else next((name for key, name in ROLES.items() if key in words), "others")
        own = _own_mb(pid)
        if own:
            processes[role] += 1
            memory[role] += own
            files[role] += len(open_files(pid))
    return Sample(finished, dict(processes), dict(memory), dict(files), _size_mb(temporary))


def _own_mb(pid: int) -> float:
    try:
        found = re.findall(r"^Private_\w+: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0  # the process has ended
    return sum(map(int, found)) / 1024


def _size_mb(folder: Path) -> float:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue  # the file was deleted
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--data", help="folder with tiny-a and tiny-b; default: they are made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mdssl-soak-") as folder:
        started = time.monotonic()
        samples = soak(args.trials, args.data or _tiny_data(Path(folder)))
        print_table(samples)
        print(f"{time.monotonic() - started:.0f} s")


def _tiny_data(folder: Path) -> str:
    from factories import prepare_tiny

    return prepare_tiny(folder)


if __name__ == "__main__":
    main()
