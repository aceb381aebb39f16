"""Replay searches on a table of recorded trials with a virtual clock: see `search.py`."""

from __future__ import annotations

import heapq
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import pandas as pd

from mdssl.data.prepare import prepare
from mdssl.sweep.search.history import Observation
from mdssl.sweep.search.rules import ends_early
from mdssl.sweep.search.sampler import next_point
from mdssl.sweep.search.settings import rungs
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings

AXES = ("lambda1", "lambda2", "learning_rate", "temperature")
HALF_A_POINT, QUARTER = 0.5, 0.25
FACTOR = 3
"""Reduction factor: 1 of 3 trials continues at each rung, and the next rung has 3 times the steps."""
_PROPOSALS = 10
"""Limit of proposals of a contender, repeated ones included, as a multiple of the number of settings."""


@dataclass(frozen=True)
class Table:
    """Recorded results of all settings.

    Attributes:
        points: value of each axis, by setting.
        steps: steps with scores; the last is the end of training.
        scores: validation scores during training in percent: settings × steps.
        value: final validation score of the linear probe in percent, by setting.
        test: top-1 on the test split, which no contender sees.
    """

    points: list[dict[str, float]]
    steps: list[int]
    scores: np.ndarray
    value: np.ndarray
    test: np.ndarray

    @classmethod
    def read(cls, file: Path) -> Table:
        rows = pd.read_parquet(file)
        scores = rows.pivot(index=list(AXES), columns="step", values="val_linear_top1")
        final = rows.groupby(list(AXES)).first().loc[scores.index]
        points = [dict(zip(AXES, point, strict=True)) for point in scores.index]
        assert not scores.isna().any().any(), "a setting lacks a score"
        return cls(
            points, list(scores.columns), scores.to_numpy(), *(final[n].to_numpy() for n in ("val_top1", "top1"))
        )

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        return {axis: tuple(sorted({point[axis] for point in self.points})) for axis in AXES}

    @property
    def cost(self) -> int:
        """Steps of the whole grid."""
        return len(self.points) * self.steps[-1]

    def number(self, point: Mapping[str, float]) -> int:
        return self.points.index({axis: point[axis] for axis in AXES})


class Contender(Protocol):
    """A search. Trials are numbered in the order of proposals."""

    def propose(self, trial: int) -> Mapping[str, float] | None:
        """The next setting, or None if there is none left."""

    def ends(self, trial: int, step: int, score: float) -> bool:
        """Whether a trial ends early after ``step``."""

    def finished(self, trial: int, step: int, score: float, value: float) -> None:
        """Record a trial that has trained to the end."""


class Ours:
    """mdssl's sampler and its rule for early stopping, with the observations that the storage would have."""

    def __init__(self, space: Space, kind: str, seed: int):
        self.space, self.settings, self.kind, self.seed = space, space.settings, kind, seed
        self.rungs = rungs(self.settings, self.settings.iterations)
        self.known: list[Observation] = []

    def propose(self, trial: int) -> Mapping[str, float] | None:
        # In the order of History.ordered: running trials have no row, and so no time, yet.
        known = sorted(self.known, key=lambda each: (each.started_at or "~", each.config.trial_id))
        point = next_point(self.space, known, kind=self.kind, seed=self.seed)
        if point is not None:
            self.known.append(Observation(config=self.space.trial(point), status="training"))
            point = self.space.fixed | point
        return point

    def ends(self, trial: int, step: int, score: float) -> bool:
        if step not in self.rungs:
            return False
        own = self._note(trial, step, score)
        others = {each.config.trial_id: each.scores for each in self.known if each is not own and each.scores}
        ended = ends_early(self.settings, self.settings.iterations, own.scores, others)
        if ended:
            self.known[trial] = replace(own, status="stopped", started_at=f"{trial:06}")
        return ended

    def finished(self, trial: int, step: int, score: float, value: float) -> None:
        self.known[trial] = replace(self.known[trial], status="finished", started_at=f"{trial:06}", value=value)

    def _note(self, trial: int, step: int, score: float) -> Observation:
        known = self.known[trial]
        self.known[trial] = replace(known, scores=known.scores | {step: score})
        return self.known[trial]


class Optuna:
    """A study with Optuna's default sampler and one of its pruners."""

    def __init__(self, table: Table, pruner: optuna.pruners.BasePruner, seed: int):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self.choices = {
            axis: optuna.distributions.CategoricalDistribution(values) for axis, values in table.choices.items()
        }
        self.trials: list[optuna.Trial] = []

    def propose(self, trial: int) -> Mapping[str, float] | None:
        self.trials.append(self.study.ask(self.choices))
        return self.trials[trial].params

    def ends(self, trial: int, step: int, score: float) -> bool:
        self.trials[trial].report(score, step)
        ended = self.trials[trial].should_prune()
        if ended:
            self.study.tell(self.trials[trial], state=optuna.trial.TrialState.PRUNED)
        return ended

    def finished(self, trial: int, step: int, score: float, value: float) -> None:
        self.study.tell(self.trials[trial], value)


class SyneTune:
    """Syne Tune's ASHA of the stopping type, or a scheduler derived from it."""

    def __init__(self, table: Table, name: str, seed: int):
        from syne_tune.config_space import choice
        from syne_tune.optimizer import baselines

        np.random.seed(seed)
        self.scheduler = getattr(baselines, name)(
            config_space={axis: choice(list(values)) for axis, values in table.choices.items()},
            metric="score", time_attr="step", max_t=table.steps[-1], grace_period=table.steps[0],
            reduction_factor=FACTOR, do_minimize=False, random_seed=seed,
        )  # fmt: skip
        self.trials: list[Any] = []

    def propose(self, trial: int) -> Mapping[str, float] | None:
        suggested = self.scheduler.suggest()
        if suggested is not None:
            self.add(trial, suggested.config)
        return suggested and suggested.config

    def add(self, trial: int, point: Mapping[str, float]) -> None:
        from syne_tune.backend.trial_status import Trial

        self.trials.append(Trial(trial, dict(point), datetime.now(UTC)))
        self.scheduler.on_trial_add(self.trials[trial])

    def ends(self, trial: int, step: int, score: float) -> bool:
        return self.scheduler.on_trial_result(self.trials[trial], {"step": step, "score": score}) == "STOP"

    def finished(self, trial: int, step: int, score: float, value: float) -> None:
        self.scheduler.on_trial_complete(self.trials[trial], {"step": step, "score": score})


def replay(table: Table, contender: Contender, slots: int) -> Iterator[tuple[float, int]]:
    """Run a search on the table.

    Yields:
        For each trial that has trained to the end, in chronological order: the cost of all ``slots`` from the start
        until then, as a fraction of the grid's cost, and the setting.
    """
    running: list[tuple[int, int, int, int]] = []
    clock, trial, at_most = 0, 0, _PROPOSALS * len(table.points)
    trained = [0] * len(table.points)

    def continue_trial(trial: int, setting: int, position: int) -> None:
        """Schedule the next score of a trial; steps that the setting has trained before take no time."""
        before = table.steps[position - 1] if position else 0
        steps = max(0, table.steps[position] - max(before, trained[setting]))
        heapq.heappush(running, (clock + steps, trial, setting, position))

    while True:
        while len(running) < slots and trial < at_most:
            point = contender.propose(trial)
            if point is None:
                at_most = trial
            else:
                continue_trial(trial, table.number(point), 0)
                trial += 1
        if not running:
            return
        clock, number, setting, position = heapq.heappop(running)
        step, score = table.steps[position], float(table.scores[setting, position])
        trained[setting] = max(trained[setting], step)
        if step == table.steps[-1]:
            contender.finished(number, step, score, float(table.value[setting]))
            yield clock * slots / table.cost, setting
        elif not contender.ends(number, step, score):
            continue_trial(number, setting, position + 1)


@dataclass(frozen=True)
class Outcome:
    """One replay.

    Attributes:
        cost: cost until the target, as a fraction of the grid's cost; infinite if the search did not reach it.
        gap: difference between the table's best and the setting chosen at a quarter of the grid's cost, in points.
        test: test top-1 of the setting chosen at the target, in percent; NaN if there is none.
    """

    cost: float
    gap: float
    test: float


def outcome(table: Table, contender: Contender, slots: int) -> Outcome:
    best, cost, test = float("-inf"), float("inf"), float("nan")
    # Before a setting is chosen, the gap is that of the median setting.
    gap = float(table.value.max() - np.median(table.value))
    for spent, setting in replay(table, contender, slots):
        if best == table.value.max() or (spent > QUARTER and cost < float("inf")):
            # The outcome cannot change any more.
            break
        if table.value[setting] > best:
            best = float(table.value[setting])
            gap = float(table.value.max()) - best if spent <= QUARTER else gap
            if cost == float("inf") and table.value.max() - best <= HALF_A_POINT:
                cost, test = spent, float(table.test[setting])
    return Outcome(cost, gap, test)


def spaces_of(table: Table, folder: Path) -> dict[str, Space]:
    """mdssl's search space over the settings of the table, by scheduler.

    Args:
        folder: for prepared datasets of noise, which the trials of a space require but never use.
    """
    rng = np.random.default_rng(0)
    arrays = {"images": rng.integers(256, size=(8, 8, 8, 3), dtype=np.uint8), "labels": np.arange(8) % 2}
    np.savez(folder / "noise.npz", **{f"{split}_{key}": a for split in ("train", "test") for key, a in arrays.items()})
    for name in ("first", "second"):
        prepare(name, data=folder, source=folder / "noise.npz", image_size=8, workers=1, progress=False)
    choices = {axis: tuple(map(float, values)) for axis, values in table.choices.items()}
    rates = map(str, choices.pop("learning_rate"))
    settings = SweepSettings(
        domains=("first", "second"), data=str(folder), batch_per_domain=8, precision="fp32", search="random", trials=1,
        iterations=table.steps[-1], grid=(("learning_rate", *rates),), reduction_factor=FACTOR, **choices,
    )  # fmt: skip
    early = replace(settings, scheduler="asha", grace_steps=table.steps[0])
    return {each.scheduler: Space(each, [{"method": "mdssl"}]) for each in (settings, early)}


def contenders(table: Table, folder: Path) -> dict[str, Callable[[int], Contender]]:
    """Functions that make each contender for a seed, by name."""
    spaces = spaces_of(table, folder)

    def ours(kind: str, scheduler: str) -> Callable[[int], Contender]:
        return lambda seed: Ours(spaces[scheduler], kind, seed)

    found: dict[str, Callable[[int], Contender]] = {
        "TPE + ASHA": ours("optuna", "asha"),
        "ASHA": ours("random", "asha"),
        "TPE": ours("optuna", "none"),
        "random": ours("random", "none"),
        "Optuna, SuccessiveHalvingPruner": lambda seed: Optuna(table, halving(table), seed),
        "Optuna, HyperbandPruner": lambda seed: Optuna(table, hyperband(table), seed),
    }
    if importlib.util.find_spec("syne_tune"):
        found["Syne Tune, ASHA"] = lambda seed: SyneTune(table, "ASHA", seed)
        found["Syne Tune, BOHB"] = lambda seed: SyneTune(table, "BOHB", seed)
    return found


def halving(table: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=table.steps[0], reduction_factor=FACTOR)


def hyperband(table: Table) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(table.steps[0], table.steps[-1], FACTOR)
