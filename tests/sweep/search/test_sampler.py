"""The next point of a search depends on the known trials and the seed alone."""

import importlib.util
import inspect
from dataclasses import replace

import numpy as np
import optuna
import pytest

from mdssl.errors import InputError
from mdssl.sweep.search.history import Observation
from mdssl.sweep.search.sampler import _CANDIDATES, check_sampler, next_point
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings

LR = ("learning_rate", "0.1", "10", "log")
KINDS = ["random", "optuna"]


@pytest.fixture(scope="module")
def space(tiny_data):
    return space_of(tiny_data, ("lambda1", "0.8", "1"), LR)


def space_of(data, *ranges, **given):
    settings = {"domains": ("tiny-a", "tiny-b"), "arch": "resnet18", "batch_per_domain": 8, "precision": "fp32"}
    return Space(SweepSettings(**settings | {"data": data, "range": ranges} | given), [{"method": "mdssl"}])


def objective(point) -> float:
    """The maximum is at lambda1 = 0.9 and a learning rate of 1."""
    return 100 - 400 * abs(point["lambda1"] - 0.9) - 30 * abs(np.log10(point["learning_rate"]))


def observed(space, point, number, *, status="finished") -> Observation:
    value = objective(point)
    return Observation(
        config=space.trial(point),
        status=status,
        started_at=f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}",
        value=value if status == "finished" else None,
        scores={10: value / 2} if status in ("finished", "stopped") else {},
    )


def run(space, kind, count, *, seed=0, known=(), status=lambda point: "finished"):
    known = list(known)
    while len(known) < count:
        point = next_point(space, known, kind=kind, seed=seed)
        known.append(observed(space, point, len(known), status=status(point)))
    return known


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_search_chooses_the_same_points_when_resumed(space, kind):
    def status(point):
        return "finished" if objective(point) > 60 else "stopped"

    undisturbed = [each.config.trial_id for each in run(space, kind, 16, status=status)]
    assert len(set(undisturbed)) == 16
    for killed_after in (0, 5, 11):
        begun = run(space, kind, killed_after, status=status)
        again = run(space, kind, 16, known=begun, status=status)
        assert [each.config.trial_id for each in again] == undisturbed
    assert [each.config.trial_id for each in run(space, kind, 16, seed=1)] != undisturbed


def test_optuna_chooses_better_points_than_random_search(space):
    late = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for seed in range(4):
            late[kind] += [objective(space.point_of(each.config)) for each in run(space, kind, 30, seed=seed)[15:]]
    assert np.median(late["optuna"]) > np.median(late["random"]) + 5


def test_optuna_avoids_the_region_of_trials_stopped_early(space):
    """Trials with lambda1 below 0.9 are stopped early with a low score. All other trials are equally good."""

    def flat(number):
        point = {"lambda1": round(0.8 + number / 100, 3), "learning_rate": 1.0}
        bad = point["lambda1"] < 0.9
        found = observed(space, point, number, status="stopped" if bad else "finished")
        return replace(found, value=None if bad else 50.0, scores={10: 10.0})

    known = [flat(number) for number in range(20)]
    points = [next_point(space, known, kind="optuna", seed=seed) for seed in range(60)]
    assert np.mean([point["lambda1"] >= 0.9 for point in points]) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_a_finite_space_is_searched_completely_without_repetition(tiny_data, kind):
    space = space_of(tiny_data, ("lambda1", "0.8", "1", "0.1"), grid=(("learning_rate", "1", "2"),))
    known = run(space, kind, 6)
    assert {each.config.trial_id for each in known} == {space.trial(point).trial_id for point in space.points()}
    assert next_point(space, known, kind=kind, seed=0) is None


def test_optuna_avoids_the_region_of_running_trials(space):
    """The constant liar counts a running trial as bad, so that two trials do not try the same region at once."""

    def at(number, lambda1, value, learning_rate=1.0):
        point = {"lambda1": lambda1, "learning_rate": learning_rate}
        return replace(observed(space, point, number), value=value, scores={})

    # Two equally good points. All running trials are beside the first one.
    known = [at(0, 0.82, 60.0), at(1, 0.98, 60.0), *(at(2 + i, round(0.84 + i / 100, 2), 10.0) for i in range(13))]
    known += [replace(at(20 + i, 0.82, None, round(1.01 + i / 100, 2)), status="training") for i in range(8)]
    points = [next_point(space, known, kind="optuna", seed=seed) for seed in range(60)]
    assert np.mean([point["lambda1"] >= 0.9 for point in points]) > 0.7


def test_the_number_of_candidates_is_that_of_optuna():
    assert inspect.signature(optuna.samplers.TPESampler).parameters["n_ei_candidates"].default == _CANDIDATES


def test_optuna_prints_no_reports_of_its_own(space):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    next_point(space, [], kind="optuna", seed=0)
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_missing_optuna_is_refused_with_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_sampler("random")
    with pytest.raises(InputError, match=r'needs the package optuna.*pip install "mdssl\[search\]"'):
        check_sampler("optuna")
