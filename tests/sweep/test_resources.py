"""The resources of a trial, the number of trials that fit a cluster, and the output of a sweep that waits."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from mdssl.device import limit_memory
from mdssl.errors import InputError
from mdssl.sweep.launch import run_sweep
from mdssl.sweep.machines import Machines
from mdssl.sweep.resources import Share, check_resources, described, share_of, slots
from mdssl.sweep.settings import SweepSettings


def share(workers=1, cpus=1, gpus=0.0):
    return Share(workers=workers, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("each", "nodes", "fitting"),
    [
        (share(), [{"CPU": 2}], 2),
        (share(workers=2), [{"CPU": 5}], 2),
        (share(cpus=2), [{"CPU": 3}, {"CPU": 3}], 2),
        (share(gpus=0.5), [{"CPU": 16, "GPU": 2}], 4),
        (share(gpus=0.4), [{"CPU": 16, "GPU": 2}], 4),
        (share(gpus=1 / 3), [{"CPU": 16, "GPU": 1}], 3),
        (share(gpus=0.1), [{"CPU": 4, "GPU": 1}], 4),
        (share(gpus=2), [{"CPU": 16, "GPU": 5}], 2),
        (share(workers=3, gpus=1), [{"CPU": 4, "GPU": 2}, {"CPU": 4, "GPU": 4}], 2),
        (share(gpus=1), [{"CPU": 16}, {"CPU": 1, "GPU": 4}], 1),
        (share(gpus=1), [], 0),
        (share(), [{"GPU": 2}], 0),
    ],
)
def test_slots_counts_the_trials_that_fit_at_once(each, nodes, fitting):
    assert slots(each, nodes) == fitting


@pytest.mark.parametrize(
    ("each", "nodes", "message"),
    [
        (share(workers=4, cpus=2), [{"CPU": 2}], r"needs 8 CPUs \(4 workers with 2 each\), but the cluster has 2"),
        (share(gpus=1), [{"CPU": 2}], "needs 1 GPU, but .* has 0"),
        (share(cpus=4), [{"CPU": 2}, {"CPU": 2}], r"the cluster's nodes have room for 0: 2 nodes with 2 CPUs;"),
        (
            share(gpus=1, cpus=2),
            [{"CPU": 8}, {"CPU": 1, "GPU": 4}],
            "room for 0: 1 node with 8 CPUs, 1 node with 1 CPU and",
        ),
        (share(workers=3, cpus=2), [{"CPU": 3}, {"CPU": 3}], "3 workers with 2 CPUs .2 threads. each, .* room for 2"),
    ],
)
def test_trials_too_large_for_the_cluster_are_refused_with_its_resources(each, nodes, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check_resources(each, nodes)
    assert "--gpus-per-worker" in str(refusal.value), "the message names the flags to change"


def test_a_plan_too_large_for_this_machine_is_refused_without_an_address(tiny_data, tmp_path):
    more = {"data": tiny_data, "storage": str(tmp_path), "evaluate": ("tiny-a",), "gpus_per_worker": 64.0}
    asked = SweepSettings(domains=("tiny-a",), batch_per_domain=8, iterations=2, precision="fp32", dry_run=True, **more)
    with pytest.raises(InputError, match=r"needs 64 GPUs, but this machine has 0"):
        run_sweep("test", asked, ["simclr"])
    assert run_sweep("test", replace(asked, address="auto"), ["simclr"]) == 0
    absent = replace(asked, address="127.0.0.1:1", dry_run=False, tag=("one",))
    with pytest.raises(InputError, match="no Ray cluster answers"):
        run_sweep("test", absent, ["simclr"])
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_an_autoscaling_cluster_may_lack_the_resources_at_the_start():
    assert check_resources(share(gpus=1), [{"CPU": 4}], growing_to=3) == 3


def test_resources_of_trials_and_nodes_are_described_in_words():
    assert str(share()) == "1 worker with 1 CPU (1 thread)"
    assert str(share(workers=2, cpus=4, gpus=1)) == "2 workers with 4 CPUs (4 threads) and 1 GPU each"
    assert str(share(gpus=0.5)) == "1 worker with 1 CPU (1 thread) and 0.5 of a GPU (40% of its memory)"
    assert described([{"GPU": 2}]) == "1 node with 0 CPUs and 2 GPUs"
    assert described([]) == "no nodes"
    assert described([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 8}]) == (
        "2 nodes with 4 CPUs and 1 GPU, 1 node with 8 CPUs"
    )


def test_by_default_a_worker_gets_a_cpu_and_a_gpu_where_a_node_has_any():
    settings = SweepSettings(domains=("a", "b"))
    assert share_of(settings, [{"CPU": 4}]) == share()
    assert share_of(settings, [{"CPU": 4}, {"CPU": 4, "GPU": 2}]) == share(gpus=1.0)


@pytest.mark.parametrize(("gpus", "workers"), [(0, 1), (0.01, 1), (1, 1), (3, 1), (1, 2)])
def test_whole_gpus_and_parts_of_one_are_accepted(gpus, workers):
    asked = {"gpus_per_worker": gpus, "max_concurrent": 1, "executor": "inline" if workers == 1 else "torchtrainer"}
    assert share_of(SweepSettings(domains=("a", "b"), workers=workers, **asked), []).gpus == gpus


@pytest.mark.parametrize("part", [1.5, 0.001, 2.25])
def test_invalid_gpu_fractions_are_refused(part):
    with pytest.raises(ValueError, match=rf"gpus_per_worker is {part}; it must be a whole number of GPUs, or a part"):
        SweepSettings(domains=("a", "b"), gpus_per_worker=part)


def test_gpu_fractions_require_a_single_worker():
    with pytest.raises(ValueError, match=r"gpus_per_worker is 0.5 with 2 workers, but NCCL refuses two ranks on one"):
        SweepSettings(domains=("a", "b"), gpus_per_worker=0.5, workers=2)


def test_trials_and_the_probe_together_fit_into_gpu_memory():
    for number in range(2, 11):
        each = share(gpus=1 / number)
        assert number * each.memory + each.probe_memory < 1
    assert share(gpus=1).memory == share(gpus=1).probe_memory == share().memory == 1


def test_memory_is_limited_only_for_processes_that_share_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: asked.append(arguments))
    limit_memory("cpu", 0.4)
    limit_memory("cuda:0", 1.0)
    assert not asked
    limit_memory("cuda:1", 0.4)
    assert asked == [(0.4, "cuda:1")]


class Cluster:
    """A cluster without Ray, a clock that the test controls, and the output of a sweep."""

    def __init__(self, each, at_once):
        self.out, self.nodes, self.seconds = io.StringIO(), [{"CPU": 4}], 0.0
        console = Console(file=self.out, width=60)
        self.freed = []
        free = lambda: self.freed.append(self.seconds)  # noqa: E731
        self.machines = Machines(each, at_once, console, lambda: self.nodes, lambda: self.seconds, free)

    def pass_time(self, seconds, trials=2):
        for _ in range(seconds):
            self.seconds += 1
            self.machines.on_step_begin(0, [Trial()] * trials)

    @property
    def lines(self):
        return self.out.getvalue().splitlines()


class Trial:
    def is_finished(self):
        return False


def test_a_waiting_sweep_prints_how_long_and_for_which_machines_it_waits():
    cluster = Cluster(share(gpus=1), at_once=2)
    cluster.pass_time(130)
    first, *_, last = cluster.lines
    assert first == (
        "2 of 2 trials are waiting for machines (0s so far): each needs 1 worker with 1 CPU (1 thread) and 1 GPU; the "
        "cluster has 1 node with 4 CPUs"
    )
    assert len(cluster.lines) == 3, "a line is printed once a minute"
    assert "(2m00s so far)" in last
    cluster.nodes = [{"CPU": 4}, {"CPU": 8, "GPU": 1}]
    cluster.pass_time(60)
    assert cluster.lines[3].startswith("1 of 2 trials are waiting for machines (3m")
    cluster.nodes = [{"CPU": 4}, {"CPU": 8, "GPU": 2}]
    cluster.pass_time(60)
    assert cluster.lines[4:] == [
        "machines are available after 3m10s: 1 node with 4 CPUs, 1 node with 8 CPUs and 2 GPUs"
    ]


def test_a_sweep_with_enough_machines_prints_nothing():
    cluster = Cluster(share(), at_once=2)
    cluster.pass_time(200, trials=4)
    assert cluster.lines == []
    assert cluster.freed == list(range(1, 201, 5)), "what dead processes hold is freed every five seconds"


def test_the_last_trials_of_a_sweep_do_not_wait_for_unneeded_machines():
    cluster = Cluster(share(cpus=4), at_once=3)
    cluster.pass_time(200, trials=1)
    assert cluster.lines == []
