"""Claims through a store that loses, doubles and delays what it is asked: see `claim_model`."""

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
def test_of_three_that_share_a_trial_one_has_it_at_a_time_and_each_in_the_end(monkeypatch, settings):
    explore(monkeypatch, settings, range(15))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("settings", WORLDS.values(), ids=WORLDS)
def test_the_same_in_many_more_worlds(monkeypatch, settings, processes):
    explore(monkeypatch, settings | {"processes": processes}, range(1000, 1500))


def test_the_model_does_nothing_twice_alike_but_by_its_seed(monkeypatch):
    worlds = [check(seed, monkeypatch, faults=FAULTS) for seed in (1, 1, 2)]
    assert worlds[0].passed == worlds[1].passed != worlds[2].passed
