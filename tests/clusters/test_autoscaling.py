"""A cluster that starts nodes when a sweep needs them and ends idle nodes: the autoscaler of Ray with its fake node
provider. Each node is a raylet on this machine.

The head is a process of the test with its own folder and ports. Other Ray clusters on the machine are not affected.
`ray.cluster_utils.AutoscalingCluster` would end them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from chaos import free_port
from loopback import command_line, parent_of
from processes import descendants, ours, wait_for
from sweep_runs import NOISE, SCRIPT, TINY, Running, assert_nothing_is_left_over, encoders, trained
from work_log import VARIABLE, check_work

pytestmark = [pytest.mark.ray, pytest.mark.long]

HEAD = "f" * 51 + "00000"
IDLE_SECONDS = 15
"""The idle timeout of nodes. A node counts as idle during the seconds in which an actor starts."""
ITERATIONS = 150


class Autoscaled:
    """The head, which has no CPU for trials, and the nodes that it starts: at most two with one CPU each.

    Attributes:
        environment: the environment of all processes that connect to the cluster. It has the token and allows loopback
            addresses.
    """

    def __init__(self, folder: Path):
        port, config = free_port(), folder / "cluster.json"
        self.address = f"127.0.0.1:{port}"
        config.write_text(json.dumps(_configuration(self.address)))
        command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", f"--autoscaling-config={config}"]
        command += [f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        command += [f"--object-store-memory={80 << 20}"]
        self.environment = os.environ | {"RAY_TMPDIR": str(folder), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        of_head = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        of_head |= dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), HEAD)
        of_head |= {"RAY_worker_maximum_startup_concurrency": "16", "RAY_USAGE_STATS_ENABLED": "0"}
        self.head = Running(folder / "head.txt", *command, environment=self.environment | of_head)

    def nodes(self) -> set[int]:
        """The pids of the raylets of living nodes, without the head."""
        raylets = [pid for pid, line in ours(self.head.token).items() if line.split(" ")[0].endswith("/raylet")]
        return {pid for pid in raylets if f"--node_id={HEAD}" not in command_line(pid)}

    def wait_for_nodes(self, number: int, seconds: float) -> None:
        wait_for(lambda: len(self.nodes()) == number, seconds, lambda: f"{len(self.nodes())} nodes\n{self.head.said}")

    def kill_nodes_that_train(self) -> None:
        """Kill the nodes that train, with all their processes, as if their machines were lost."""
        workers = [pid for pid, line in ours(self.head.token).items() if re.match("ray::.*RayTrainWorker", line)]
        raylets = {parent_of(pid) for pid in workers} & self.nodes()
        assert raylets
        for pid in set().union(*(descendants(raylet) for raylet in raylets)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End all processes of the cluster by their ids, also those that the head has lost track of."""
        self.head.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.process.wait(30)
        for pid in ours(self.head.token):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.head.end()


def _configuration(address: str) -> dict:
    """The configuration that ``ray up`` would write for the head."""
    flags = ("launch_multiple", "use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check")
    provider = dict.fromkeys((*flags, "foreground_node_launch"), True) | {"worker_liveness_check": False}
    provider |= {"module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"}
    resources = {"CPU": 1, "object_store_memory": 80 << 20}
    return {
        "cluster_name": "mdssl",
        "max_workers": 2,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "provider": provider | {"type": "external", "gcs_address": address, "head_node_id": HEAD},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
        "cluster_synced_files": [],
    }


@pytest.fixture
def autoscaled(tmp_path, monkeypatch) -> Iterator[Autoscaled]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "work.txt"))
    # Not the folder of pytest: the paths of the sockets of Ray may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="mdssl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        autoscaled = Autoscaled(Path(folder))
        try:
            autoscaled.head.wait_for("Ray runtime started", 120)
            yield autoscaled
        finally:
            autoscaled.end()


def test_nodes_start_for_a_sweep_and_end_after_it_finishes_or_is_killed(autoscaled, tiny_data, tmp_path):
    storage, temporary = tmp_path / "results", Path(autoscaled.environment["RAY_TMPDIR"])
    command = [sys.executable, SCRIPT, *TINY, "--lambda1", 0.9, "--lambda2", 0, 0.1, "--evaluate", "tiny-c"]
    command += ["--iterations", ITERATIONS, "--report-every", 2, "--checkpoint-seconds", 0, "--max-concurrent", 2]
    command += ["--storage", storage, "--data", tiny_data, "--address", autoscaled.address]
    assert not autoscaled.nodes(), "there are no nodes without work"

    def is_in_the_middle() -> set[str]:
        begun = {folder.parents[1].name for folder in storage.glob("trials/*/checkpoints/step-*")}
        return begun - set(encoders(storage)) if trained(sweep.said) & set(encoders(storage)) else set()

    sweep = Running(tmp_path / "killed.txt", *command, environment=autoscaled.environment)
    try:
        sweep.wait_for("2 of 2 trials are waiting for machines.*: each needs 1 worker with 1 CPU")
        sweep.wait_for("machines are available after .*2 nodes with 1 CPU")
        begun = sweep.wait_for(is_in_the_middle)
        sweep.process.kill()
        autoscaled.kill_nodes_that_train()
        done = encoders(storage)
        sweep.process.wait()
    finally:
        sweep.end()
    assert len(done) >= 2 and not begun & set(done), "a trained encoder and the untrained encoder are saved"
    autoscaled.wait_for_nodes(0, 120)
    assert list(temporary.glob("mdssl-ray-*")), "the killed sweep has left its temporary folder"

    again = Running(tmp_path / "again.txt", *command, environment=autoscaled.environment)
    try:
        again.wait_for("machines are available after")
        again.ends(0)
    finally:
        again.end()
    autoscaled.wait_for_nodes(0, 120)
    assert not list(temporary.glob("mdssl-ray-*"))

    board = pd.read_parquet(storage / "leaderboard")
    assert sorted(board["method"]) == ["mdssl", "mdssl", "random", "simclr"]
    assert set(board["status"]) == {"finished"}
    assert not trained(again.said) & set(done)
    assert not [noise for noise in NOISE if noise in sweep.said + again.said]
    assert done.items() <= encoders(storage).items(), "finished encoders are not written again"
    work = tmp_path / "work.txt"
    check_work(work, ITERATIONS)
    resumed = {
        line.split()[1] for line in work.read_text().splitlines() if re.fullmatch(r"begin \S+ \d+ [1-9]\d*", line)
    }
    assert resumed == begun, "the interrupted trials resume from a checkpoint, the others start at step 0"
    assert_nothing_is_left_over(storage)
