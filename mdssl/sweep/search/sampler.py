"""The next point of a search: a function of the space, the known trials and the seed alone.

So a search that is started again chooses the same points: its state is the storage.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdssl.errors import InputError
from mdssl.sweep.search.history import Observation
from mdssl.sweep.search.space import Axis, Point, Space

if TYPE_CHECKING:
    import optuna

_ATTEMPTS = 20
"""Draws of a point that is not known yet, before one of those that are left is drawn."""
_CANDIDATES = 24
"""Points that Optuna draws from its model, to choose the most promising; its default."""
_ENUMERATED = 100_000
"""Largest space that is enumerated for that."""


def check_sampler(kind: str) -> None:
    """Raise ``InputError`` if the package that ``kind`` needs is not installed."""
    if kind == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError(
            "search 'optuna' needs the package optuna, which is not installed: pip install \"mdssl[search]\". Or use "
            "--search random."
        )


def next_point(space: Space, known: Sequence[Observation], *, kind: str, seed: int) -> Point | None:
    """A point whose trial is not among ``known``; None if there is none, or none can be found.

    Args:
        known: in the order of `mdssl.sweep.search.history.History.ordered`.
        kind: random, or optuna (Bergstra et al., 2011: TPE, over all axes together; trials that ended early count as
            worse than those that finished, and running trials as bad, so that no two try the same region at once).
    """
    ids = {each.config.trial_id for each in known}
    told = [_told(space, each) for each in known] if kind == "optuna" else []
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, len(known), attempt])
        if kind == "optuna":
            # The best of many candidates is the same point again and again in a space of few values.
            point = _by_optuna(space, told, rng, candidates=1 if attempt else _CANDIDATES)
        else:
            point = {axis.name: axis.drawn(rng) for axis in space.axes}
        if _is_new(space, point, ids):
            return point
    if space.size > _ENUMERATED:
        return None
    left = [point for point in space.points() if _is_new(space, point, ids)]
    return left[np.random.default_rng([seed, len(known)]).integers(len(left))] if left else None


def _is_new(space: Space, point: Point, ids: set[str]) -> bool:
    try:
        return space.trial(point).trial_id not in ids
    except InputError:
        # Settings that training cannot have together.
        return False


def _by_optuna(space: Space, told: list[optuna.trial.FrozenTrial], rng: np.random.Generator, candidates: int) -> Point:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # Both options of the sampler are called experimental, for years.
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(
            seed=int(rng.integers(2**31)), multivariate=True, constant_liar=True, n_ei_candidates=candidates
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(told)
        values = study.ask({axis.name: _distribution(axis) for axis in space.axes}).params
    return {
        axis.name: axis.choices[values[axis.name]] if axis.choices else axis.rounded(values[axis.name])
        for axis in space.axes
    }


def _distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.choices:
        return CategoricalDistribution(range(len(axis.choices)))
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _told(space: Space, known: Observation) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    point = space.point_of(known.config)
    assert point is not None
    state = {
        "finished": TrialState.COMPLETE if known.value is not None else TrialState.FAIL,
        "stopped": TrialState.PRUNED if known.scores else TrialState.FAIL,
        "failed": TrialState.FAIL,
        "training": TrialState.RUNNING,
    }[known.status]
    params: dict[str, Any] = {
        axis.name: axis.choices.index(point[axis.name]) if axis.choices else point[axis.name] for axis in space.axes
    }
    return create_trial(
        state=state,
        params=params,
        distributions={axis.name: _distribution(axis) for axis in space.axes},
        value=known.value if state == TrialState.COMPLETE else None,
        intermediate_values=known.scores if state == TrialState.PRUNED else {},
    )
