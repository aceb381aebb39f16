"""A node with a preemption notice. Kills without notice are in chaos.py, which `make chaos` runs."""

import os
import re
import signal
import time

import pytest
from chaos import STALLED_SECONDS, Sweep, free_port
from processes import ours, wait_for
from sweep_runs import NOISE

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("full_encoders")]


def drain(cluster, node, seconds: int) -> None:
    """Tell the cluster that the node will be preempted in ``seconds``, as a cloud does for a spot machine."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, why = ray._raylet.GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why


def wait_while_it_runs(condition, sweep):
    wait_for(lambda: condition() or sweep.process.poll() is not None, STALLED_SECONDS, sweep.output.read_text)
    assert sweep.process.poll() is None, sweep.output.read_text()


@pytest.mark.parametrize("executor", ["torchtrainer", "inline"])
def test_trial_on_a_drained_node_saves_a_checkpoint_and_resumes_elsewhere(executor, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MDSSL_CHAOS", token := f"drained-{os.getpid()}")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    more = ["--address", cluster.address, "--checkpoint-seconds", "1000", "--executor", executor]
    sweep = Sweep(tmp_path / f"drained-{executor}", tiny_data, 20_000, *more)
    try:
        node = cluster.add_node(num_cpus=1)
        sweep.start()
        wait_while_it_runs(lambda: re.search(r": step \d+/20000", sweep.output.read_text()), sweep)
        assert sweep.steps() == 0, "no checkpoint is due yet"
        drain(cluster, node, seconds=40)
        wait_while_it_runs(lambda: sweep.steps() > 0, sweep)
        saved = sweep.steps()
        cluster.add_node(num_cpus=1)
        if executor == "inline":
            # Ray Train leaves the node by itself; Tune's own process trains until the node is gone.
            cluster.remove_node(node, allow_graceful=False)
        went_on = r"resumed from its checkpoint and is at step (\d+)"
        wait_while_it_runs(lambda: re.search(went_on, sweep.output.read_text()), sweep)
        assert int(re.search(went_on, sweep.output.read_text())[1]) == saved + 2
        sweep.process.send_signal(signal.SIGTERM)
        assert sweep.process.wait(120) == 143
        said = sweep.output.read_text()
        assert not [noise for noise in NOISE if noise in said], said
    finally:
        if sweep.process.poll() is None:
            sweep.process.kill()
            sweep.process.wait()
        cluster.shutdown()
    wait_for(lambda: not ours(token), 60, why=lambda: ours(token))
