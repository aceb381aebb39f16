"""Claims in a store that loses, repeats and delays requests: see `claim_model`."""

import pytest
from claim_model import FAULTS, check

WORLDS = {
    "all that can happen": {"deaths": 2},
    "on one machine": {"deaths": 2, "seen": True},
    "late": {"faults": ("late", "slow", "twice"), "rate": 0.25, "deaths": 0},
    "lost": {"faults": ("refused", "lost"), "rate": 0.25, "deaths": 0},
    "nobody is late": {"faults": ("refused", "lost"), "deaths": 2, "seen": True, "suspends": False},
}


def explore(monkeypatch, settings, seeds):
    for seed in seeds:
        try:
            check(seed, monkeypatch, **settings)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("settings", WORLDS.values(), ids=WORLDS)
def test_one_process_at_a_time_gets_the_claim_and_each_in_the_end(monkeypatch, settings):
    explore(monkeypatch, settings, range(15))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("settings", WORLDS.values(), ids=WORLDS)
def test_one_process_at_a_time_gets_the_claim_with_many_seeds(monkeypatch, settings, processes):
    explore(monkeypatch, settings | {"processes": processes}, range(1000, 1500))


def test_simulation_is_a_function_of_its_seed(monkeypatch):
    worlds = [check(seed, monkeypatch, faults=FAULTS) for seed in (1, 1, 2)]
    assert worlds[0].passed == worlds[1].passed != worlds[2].passed
