"""Rules of early stopping, compared with slow implementations of their definitions."""

import numpy as np
import pytest

from mdssl.errors import InputError
from mdssl.sweep.search.rules import ends_early
from mdssl.sweep.search.settings import SearchSettings, rungs

ASHA = SearchSettings(scheduler="asha", grace_steps=10)
MEDIAN = SearchSettings(scheduler="median", grace_steps=10)


def test_rungs_grow_by_the_factor_and_end_before_the_last_step():
    assert rungs(SearchSettings(scheduler="asha"), 90) == (10, 30)
    assert rungs(SearchSettings(scheduler="asha"), 91) == (11, 33)
    assert rungs(SearchSettings(scheduler="asha"), 80) == (9, 27)
    assert rungs(SearchSettings(scheduler="asha", grace_steps=8, reduction_factor=2), 64) == (8, 16, 32)
    assert rungs(SearchSettings(scheduler="median", grace_steps=20), 90) == (20, 40, 60, 80)
    assert rungs(SearchSettings(), 90) == ()
    assert rungs(SearchSettings(scheduler="asha"), 3) == (1,)
    with pytest.raises(InputError, match="grace_steps is 90, but a trial has 90 steps"):
        rungs(SearchSettings(scheduler="asha", grace_steps=90), 90)


@pytest.mark.parametrize("seed", range(8))
def test_asha_stops_trials_below_the_best_third_of_their_rung(seed):
    """Li et al., 2020, the stopping variant: a trial continues if it is in the best third of its rung so far."""
    rng = np.random.default_rng(seed)
    others = {
        str(number): dict(zip((10, 30), rng.uniform(0, 100, 2), strict=True))
        if rng.random() < 0.6
        else {10: rng.uniform(0, 100)}
        for number in range(rng.integers(1, 12))
    }
    for step in (10, 30):
        there = [scores[step] for scores in others.values() if step in scores]
        for score in rng.uniform(0, 100, 10):
            own = {10: 50.0, step: score}
            expected = bool(there) and score < np.percentile(there, 100 * (1 - 1 / 3))
            assert ends_early(ASHA, 90, own, others) == expected
            assert ends_early(ASHA, 90, own, dict(reversed(others.items()))) == expected


def test_asha_continues_the_first_trial_of_a_rung_and_ties():
    assert not ends_early(ASHA, 90, {10: 0.0}, {})
    assert not ends_early(ASHA, 90, {10: 0.0, 30: 0.0}, {"a": {10: 50.0}})
    assert not ends_early(ASHA, 90, {10: 50.0}, {"a": {10: 50.0}, "b": {10: 50.0}})
    assert not ends_early(ASHA, 90, {10: 0.0}, {"a": {9: 50.0}}), "trial a has not reached the rung"
    assert not ends_early(ASHA, 90, {90: 0.0}, {}), "a trial at its last step has finished"
    assert not ends_early(ASHA, 300, {270: 0.0}, {}), "the first trial of a late rung"


@pytest.mark.parametrize("seed", range(8))
def test_median_rule_stops_trials_below_the_median_of_running_means(seed):
    """Golovin et al., 2017: stop if the best score so far is below the median of the other trials' running means."""
    rng = np.random.default_rng(seed)
    steps = (10, 20, 30)
    others = {
        str(number): dict(zip(steps, rng.uniform(0, 100, 3), strict=True)) for number in range(rng.integers(2, 9))
    }
    for count in (1, 2, 3):
        own = dict(zip(steps[:count], rng.uniform(0, 100, count), strict=True))
        means = [np.mean([scores[step] for step in steps[:count]]) for scores in others.values()]
        expected = len(others) >= 3 and max(own.values()) < np.median(means)
        assert ends_early(MEDIAN, 90, own, others) == expected


def test_median_rule_needs_three_other_trials():
    others = {name: {10: 50.0} for name in "abc"}
    assert ends_early(MEDIAN, 90, {10: 0.0}, others)
    for name in "abc":
        del others[name]
        assert not ends_early(MEDIAN, 90, {10: 0.0}, others)
