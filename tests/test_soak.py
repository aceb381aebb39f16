"""A short `make soak`: a sweep leaves no files, and the number of open files does not grow.

Memory needs more trials: the results of the long run are in docs/RESULTS.md.
"""

import sys

import pytest
from soak import Sample, growth, roles, soak


def samples(memory_of):
    return [Sample(n, {"trials": 2}, {"trials": 2 * memory_of(n)}, {"trials": 20}, 1.0) for n in range(101)]


def test_growth_is_per_process_and_100_trials_without_the_first_quarter():
    assert growth(samples(lambda trials: 500 + 0.25 * trials), "trials", "memory") == pytest.approx(25)
    assert growth(samples(lambda trials: 500 if trials > 25 else 100), "trials", "memory") == pytest.approx(0)
    assert growth(samples(lambda trials: 500), "trials", "files") == 0


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_open_files_and_processes_of_a_sweep_do_not_grow(tiny_data):
    # With two steps for each trial, all trials would be trained before the first is evaluated.
    found = soak(14, tiny_data, every_seconds=0.5, iterations=150)
    assert {"driver", "trials", "probe", "raylet"} <= set(roles(found))
    last = found[-1].trials
    early = [sample for sample in found if 3 < sample.trials <= last / 2]
    late = [sample for sample in found if last / 2 < sample.trials < last - 2]
    for role in ("driver", "trials", "probe", "raylet"):
        at_most = [
            max(sample.files[role] / sample.processes[role] for sample in part if role in sample.processes)
            for part in (early, late)
        ]
        # The number varies with connections; a leak would add at least one file for each trial.
        assert at_most[1] - at_most[0] < last / 2, role
    assert max(sum(s.processes.values()) for s in late) <= max(sum(s.processes.values()) for s in early) + 2
