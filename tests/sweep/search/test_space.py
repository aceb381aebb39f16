"""The space of a search: the meaning of its flags, and the mapping between trials and points."""

import numpy as np
import pytest

from mdssl.errors import InputError
from mdssl.sweep.grid import trial_maker
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings

MDSSL = [{"method": "mdssl"}]
ALL_KINDS = (
    ("lambda1", "0.8", "1", "0.05"),
    ("learning_rate", "0.5", "8", "log"),
    ("weight_decay", "0", "0.001"),
    ("projection_dim", "8", "128"),
    ("batch_per_domain", "2", "8", "2"),
)


@pytest.fixture
def settings(tiny_data):
    def made(**given):
        shared = {"domains": ("tiny-a", "tiny-b"), "arch": "resnet18", "batch_per_domain": 8, "iterations": 6}
        return SweepSettings(**shared | {"precision": "fp32", "data": tiny_data} | given)

    return made


def test_points_and_trials_of_a_space_correspond_one_to_one(settings):
    space = Space(settings(range=ALL_KINDS, temperature=(0.1, 0.2), grid=(("norm", "batch", "group"),)), MDSSL)
    rng = np.random.default_rng(0)
    ids = set()
    for _ in range(50):
        point = {axis.name: axis.drawn(rng) for axis in space.axes}
        config = space.trial(point)
        assert space.point_of(config) == point
        assert {name: getattr(config, name) for name in point} == point
        ids.add(config.trial_id)
    assert len(ids) == 50
    assert space.size == float("inf")


def test_drawn_values_lie_on_steps_or_have_three_digits(settings):
    space = Space(settings(range=ALL_KINDS), MDSSL)
    drawn = {axis.name: [axis.drawn(np.random.default_rng(seed)) for seed in range(200)] for axis in space.axes}
    assert set(drawn["lambda1"]) == {0.8, 0.85, 0.9, 0.95, 1.0}
    assert all(float(f"{value:.3g}") == value and 0.5 <= value <= 8 for value in drawn["learning_rate"])
    assert set(drawn["batch_per_domain"]) == {2, 4, 6, 8}
    assert all(type(value) is int for value in drawn["projection_dim"])
    assert all(30 <= drawn["batch_per_domain"].count(value) <= 70 for value in (2, 4, 6, 8)), "uniform"
    # Uniform in the logarithm: half of the values are below the geometric mean, which is 2.
    assert 80 <= sum(value < 2 for value in drawn["learning_rate"]) <= 120


def test_a_space_counts_and_names_its_points(settings):
    ranges = (("lambda1", "0.8", "1", "0.05"), ("projection_dim", "8", "12"))
    space = Space(settings(range=ranges, temperature=(0.1, 0.2), grid=(("norm", "batch", "group"),)), MDSSL)
    assert space.size == len(list(space.points())) == 5 * 5 * 2 * 2
    first = {"lambda1": 0.8, "projection_dim": 8, "temperature": 0.1}
    assert list(space.points(of=("norm",))) == [first | {"norm": norm} for norm in ("batch", "group")]
    text = "temperature in 2 values; norm in 2 values; lambda1 from 0.8 to 1 in steps of 0.05; projection_dim from 8 to"
    assert str(space) == f"{text} 12 in steps of 1"
    space = Space(settings(range=(*ALL_KINDS[1:3], ("projection_dim", "8", "4096", "log"))), MDSSL)
    assert str(space).startswith("learning_rate from 0.5 to 8 by its logarithm; weight_decay from 0 to 0.001; ")
    drawn = [space.axes[2].drawn(np.random.default_rng(seed)) for seed in range(99)]
    assert any(value % 10 for value in drawn if value > 1000), "whole numbers keep all digits"


def test_a_trial_with_a_different_setting_is_outside_the_space(settings):
    space = Space(settings(range=(("lambda1", "0.8", "1", "0.05"),)), MDSSL)
    inside = {"method": "mdssl", "lambda1": 0.85, "lambda2": 0.1, "temperature": 0.1}
    assert space.point_of(trial_maker(settings())(inside)) == {"lambda1": 0.85}
    for other in ({"lambda1": 0.86}, {"lambda2": 0.2}, {"temperature": 0.2}, {"weight_decay": 0.1}, {"seed": 1}):
        assert space.point_of(trial_maker(settings())(inside | other)) is None, other
    simclr = trial_maker(settings())({"method": "simclr", "temperature": 0.1})
    assert space.point_of(simclr) is None


def test_a_step_may_be_the_whole_range_in_spite_of_rounding(settings):
    space = Space(settings(range=(("lambda1", "0.8", "1", "0.2"),)), MDSSL)
    assert [point["lambda1"] for point in space.points()] == [0.8, 1.0], "1 - 0.8 is less than 0.2 in float64"


def test_a_range_holds_for_the_entries_that_do_not_fix_its_setting(settings):
    given = settings(range=(("lambda2", "0", "0.4", "0.2"),))
    space = Space(given, [*MDSSL, {"method": "mdssl-shuffled", "lambda2": 0.2}])
    found = {(config.method, config.lambda2) for config in map(space.trial, space.points())}
    assert found == {("mdssl", 0.0), ("mdssl", 0.2), ("mdssl", 0.4), ("mdssl-shuffled", 0.2)}
    with pytest.raises(InputError, match="lambda2 is set by other flags of the sweep, or by its methods"):
        Space(given, [{"method": "mdssl", "lambda2": 0.2}])


def test_entries_of_a_sweep_are_an_axis(settings):
    entries = [
        {"method": "mdssl", "domains": ("tiny-a", "tiny-b")},
        {"method": "mdssl", "domains": ("tiny-b", "tiny-c")},
    ]
    space = Space(settings(lambda2=(0.0, 0.1)), entries)
    assert space.size == 4
    found = [space.trial(point) for point in space.points()]
    assert {(config.train_mixture, config.lambda2) for config in found} == {
        ("tiny-a+tiny-b", 0.0),
        ("tiny-a+tiny-b", 0.1),
        ("tiny-b+tiny-c", 0.0),
        ("tiny-b+tiny-c", 0.1),
    }
    assert [space.point_of(config) for config in found] == list(space.points())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"range": (("lambda1", "0.8", "1.2"),)}, "lambda1 is 1.2; it must lie in"),
        ({"range": (("lamda1", "0.8", "1"),)}, "range 'lamda1'.*'lambda1'"),
        ({"range": (("optimizer", "a", "b"),)}, "range 'optimizer'"),
        ({"range": (("lambda1", "0.8"),)}, "a setting, its lowest and highest value"),
        ({"range": (("lambda2", "0", "1", "0.1", "log"),)}, "a setting, its lowest and highest value"),
        ({"range": (("lambda1", "1", "1"),)}, "the second value must be the larger one"),
        ({"range": (("lambda2", "0", "1", "0"),)}, "a step of 0"),
        ({"range": (("lambda1", "0.8", "1", "0.3"),)}, "a step of 0.3"),
        ({"range": (("lambda1", "1", "0.8"),)}, "the second value must be the larger one"),
        ({"range": (("lambda2", "0", "1", "log"),)}, "has no logarithm"),
        ({"range": (("lambda2", "0", "1", "2"),)}, "a step of 2; it must be above 0 and at most 1"),
        ({"range": (("lambda2", "0", "x"),)}, "lambda2 is 'x'; it must be a number"),
        ({"range": (("iterations", "1.5", "3"),)}, "iterations is '1.5'; it must be a whole number"),
        ({"range": (("lambda2", "0", "1"), ("lambda2", "0", "2"))}, "names a setting twice"),
        ({"range": (("epsilon", "0.1", "1"),)}, "epsilon cannot change a trial of mdssl"),
        ({"range": (("lambda2", "0", "1"),), "lambda2": (0.0, 0.3)}, "lambda2 has both --range and --lambda2"),
        ({"range": (("weight_decay", "0", "1"),), "grid": (("weight_decay", "0", "1"),)}, "both --range and --grid"),
        ({"seeds": (0, 1), "range": (("lambda2", "0", "1"),)}, "a search compares settings at one seed"),
        ({"range": (("temperature", "0.01", "0.1"),)}, "temperature is 0.01"),
        ({"range": (("batch_per_domain", "2", "100"),)}, "domain 'tiny-a' has 64 training images"),
    ],
)
def test_invalid_spaces_are_refused(settings, given, message):
    with pytest.raises(InputError, match=message):
        Space(settings(**given), MDSSL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search": "optuna", "trials": 0}, "trials is 0; it must be at least 1. A search"),
        ({"search": "optuna"}, "needs a limit; give --trials"),
        ({"search": "hyperopt", "trials": 3}, "search 'hyperopt'"),
        ({"trials": 3}, "search 'grid' has one for each combination"),
        ({"search": "random", "time_budget": "soon"}, "time_budget is 'soon'"),
        ({"search": "random", "time_budget": "0h"}, "time_budget is '0h'"),
        ({"scheduler": "asha", "grace_steps": 0}, "grace_steps is 0"),
        ({"extend": -1}, "extend is -1"),
        ({"grace_steps": 3}, "no scheduler ends trials"),
        ({"scheduler": "asha", "score_every": 0}, "score_every is 0"),
        ({"scheduler": "asha", "seeds": (0, 1)}, "seeds are 0, 1, but scheduler 'asha' ends trials one by one"),
        ({"scheduler": "asha", "reduction_factor": 1}, "reduction_factor is 1"),
        ({"scheduler": "median", "reduction_factor": 4}, "scheduler 'median' has none"),
        ({"search": "random", "trials": 3, "force": True}, "force deletes the results"),
    ],
)
def test_invalid_search_flags_are_refused(settings, given, message):
    with pytest.raises(InputError, match=message):
        settings(**given)


def test_time_budgets_are_converted_to_seconds(settings):
    for text, seconds in {"90m": 5400, "8h": 28800, "2d": 172800, "1.5h": 5400, "30s": 30}.items():
        assert settings(search="random", time_budget=text).budget_seconds == seconds
