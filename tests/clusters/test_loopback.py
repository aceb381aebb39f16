"""``ray up``, a DDP sweep on both nodes as a job, a worker that is killed, ``ray down``; no process remains.

Run it with ``make test-cluster``. It takes about four minutes on two cores. Other Ray clusters on the machine are not
affected.
"""

import os
import re
import shlex
import signal
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import loopback
import pandas as pd
import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(bool(loopback.missing()), reason=loopback.missing()),
]


@pytest.fixture
def cluster():
    # Not the folder of pytest: the paths of the sockets of Ray may have at most 107 characters.
    folder = tempfile.TemporaryDirectory(prefix="mdssl-", dir="/tmp", ignore_cleanup_errors=True)
    with folder, loopback.Loopback(Path(folder.name)) as cluster:
        yield cluster


# The command of the README.
SWEEP = "env MDSSL_GIT_COMMIT=of-another-checkout python project/sweeps/lambda_grid.py"


def train_workers(cluster) -> dict[str, int]:
    """Pids of the workers of Ray Train, by the address of their node."""
    found = {}
    for pid, line in cluster.processes().items():
        if line.startswith("ray::") and "RayTrainWorker" in line:
            raylet = loopback.command_line(loopback.parent_of(pid))
            found[re.search(r"--node_ip_address=(\S+)", raylet)[1]] = pid
    return found


def status_of(url: str, token: str = "") -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_cluster_starts_trains_on_both_nodes_survives_a_killed_worker_and_ends(cluster, tiny_data, tmp_path):
    config, storage = str(cluster.config), tmp_path / "results"
    cluster.ray("up", config, "--yes", "--no-config-cache", timeout=180)
    loopback.wait(
        lambda: "2.0 CPU" in cluster.ray("exec", config, "ray status"), 90, "the second node", why=cluster.story
    )

    token_file = cluster.folder / "head" / ".ray" / "auth_token"
    assert token_file.stat().st_mode & 0o777 == 0o600
    jobs = f"http://127.0.0.1:{cluster.dashboard}/api/jobs/"
    assert status_of(jobs) in (401, 403), "the Jobs API requires the token"
    assert status_of(jobs, token_file.read_text()) == 200

    flags = "--address auto --workers 2 --norm group"
    flags += " --domains tiny-a tiny-b --evaluate tiny-c --lambda1 0.9 --lambda2 0.1 --batch-per-domain 8"
    flags += " --iterations 60 --precision fp32 --report-every 2 --checkpoint-seconds 0"
    flags += f" --storage {shlex.quote(str(storage))} --data {shlex.quote(tiny_data)}"
    outcome = {}

    def submit() -> None:
        try:
            outcome["output"] = cluster.ray("exec", config, f"ray job submit -- {SWEEP} {flags}", timeout=600)
        except AssertionError as error:
            outcome["error"] = error

    job = threading.Thread(target=submit)
    job.start()
    # At this point some steps remain.
    early = "trials/*/checkpoints/step-0000002*"
    loopback.wait(lambda: not job.is_alive() or any(storage.glob(early)), 300, "step 20")
    if outcome:
        pytest.fail(f"the job ended before it could be disturbed:\n{outcome.get('error') or outcome['output']}")
    trial = next(storage.glob(early)).parents[1]
    both, first = set(loopback.NODES.values()), train_workers(cluster)
    assert set(first) == both, "one worker on each node"
    os.kill(first[loopback.NODES["worker"]], signal.SIGKILL)

    def others() -> bool:
        now = train_workers(cluster)
        return set(now) == both and not set(now.values()) & set(first.values())

    loopback.wait(lambda: not job.is_alive() or others(), 120, "workers in their place")
    assert not (trial / "encoder.safetensors").exists(), "the new workers train the same trial"
    job.join()
    assert "error" not in outcome, outcome["error"]
    steps = pd.read_parquet(trial / "metrics.parquet")["step"]
    assert list(steps) == list(range(2, 61, 2)), "each step is recorded exactly once"

    board = pd.read_parquet(storage / "leaderboard")
    assert sorted(board["method"]) == ["mdssl", "random", "simclr"]
    assert set(board["status"]) == {"finished"}
    assert set(board.loc[board["method"] != "random", "num_workers"]) == {2}

    again = cluster.ray("submit", config, "sweeps/lambda_grid.py", "--", *shlex.split(flags))
    assert "3 finished" in " ".join(again.split()), again
    pd.testing.assert_frame_equal(pd.read_parquet(storage / "leaderboard"), board)

    cluster.ray("down", config, "--yes")
    # The provider `local` does not notify workers. They end after a minute without contact to the head.
    loopback.wait(lambda: not cluster.processes(), 150, "nothing left running", why=cluster.processes)
