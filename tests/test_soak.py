"""What `make soak` measures, in small: a sweep leaves nothing, and its processes hold no more files at the end.

Over so few trials memory says nothing yet: that is for the long run, whose numbers are in docs/RESULTS.md.
"""

import sys

import pytest
from soak import Sample, growth, roles, soak


def samples(memory_of):
    return [Sample(n, {"trials": 2}, {"trials": 2 * memory_of(n)}, {"trials": 20}, 1.0) for n in range(101)]


def test_growth_is_per_process_and_100_trials_and_leaves_the_start_out():
    assert growth(samples(lambda trials: 500 + 0.25 * trials), "trials", "memory") == pytest.approx(25)
    assert growth(samples(lambda trials: 500 if trials > 25 else 100), "trials", "memory") == pytest.approx(0)
    assert growth(samples(lambda trials: 500), "trials", "files") == 0


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_sweep_of_short_trials_holds_no_more_at_its_end(tiny_data):
    # Trials of two steps have all been trained when the first are scored.
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
        # Some more, as connections come and go; a leak would be at least one for each trial.
        assert at_most[1] - at_most[0] < last / 2, role
    assert max(sum(s.processes.values()) for s in late) <= max(sum(s.processes.values()) for s in early) + 2
