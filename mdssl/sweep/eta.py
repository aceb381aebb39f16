"""Estimate the remaining time of a sweep: `eta`, and `Pace`, which measures the times of its trials.

A trial waits for a slot, starts its processes, trains and is evaluated. All times are in seconds, on any one clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig

_EARLIER_TRIALS = 20


class Left(NamedTuple):
    """The remaining seconds of a trial's training (below 0: seconds since its end), and of its evaluation."""

    train: float
    evaluate: float


def eta(
    running: Iterable[Left],
    queued: Sequence[Left],
    *,
    slots: int,
    at_once: int | None = None,
    evaluator_free: float = float("-inf"),
) -> float:
    """Seconds until all trials have been trained, and evaluated one after another.

    Args:
        running: trials that have a slot.
        queued: trials that wait for one, in this order.
        slots: trials that train at a time.
        at_once: trials that train or are evaluated at a time; default ``slots``: a trial keeps its slot while it is
            evaluated.
        evaluator_free: seconds until the evaluator is free (below 0: seconds since it became free).
    """
    # When each trains to its end, how long it is evaluated, and whether it has a training slot until then.
    ends = [(left.train, left.evaluate, left.train > 0) for left in running]
    heapq.heapify(ends)
    free_slots = [0.0] * (slots - sum(trains for *_, trains in ends))
    free_places = [0.0] * ((at_once or slots) - len(ends))
    waiting, last = list(reversed(queued)), 0.0
    while waiting or ends:
        while waiting and free_slots and free_places:
            start, trial = max(heapq.heappop(free_slots), heapq.heappop(free_places)), waiting.pop()
            heapq.heappush(ends, (start + trial.train, trial.evaluate, True))
        trained, evaluate, trains = heapq.heappop(ends)
        # An overdue evaluation ends now.
        evaluator_free = last = max(max(trained, evaluator_free) + evaluate, 0.0)
        heapq.heappush(free_places, evaluator_free)
        if trains:
            heapq.heappush(free_slots, trained)
    return last


def views_of(config: TrialConfig, steps: int) -> int:
    """The augmented images of so many steps of a trial; 0 for a method that does not train."""
    if not METHODS[config.method].trains:
        return 0
    groups = config.num_clusters if METHODS[config.method].finds_domains else len(config.domains)
    assert groups is not None  # `TrialConfig` sets num_clusters for a method that finds domains
    return 2 * groups * config.batch_per_domain * steps


def evaluation_seconds(
    rows: pd.DataFrame, datasets: Collection[str], scores: Collection[tuple[str, str]]
) -> float | None:
    """The median evaluation time of the latest trials; None if no trial has all scores.

    Args:
        rows: of the leaderboard.
        datasets, scores: evaluation datasets, and layers and names of probes (`mdssl.sweep.grid.scores_of`).
    """
    is_wanted = [pair in scores for pair in zip(rows["features"], rows["probe"], strict=True)]
    rows = rows[pd.Series(is_wanted, index=rows.index, dtype=bool)]
    rows = rows[(rows["status"] == "finished") & rows["eval_dataset"].isin(list(datasets))]
    rows = rows.sort_values("finished_at").drop_duplicates(["trial_id", "eval_dataset", "features", "probe"])
    trials = rows.groupby("trial_id", sort=False)["eval_seconds"].agg(["sum", "count"])
    complete = trials[trials["count"] == len(datasets) * len(scores)]["sum"]
    return float(complete.tail(_EARLIER_TRIALS).median()) if len(complete) else None


@dataclass
class _Trial:
    """``state``: that of the last report, or starting. ``since``: the time at which it began or was last reported."""

    config: TrialConfig
    step: int = 0
    state: str = "queued"
    since: float = 0.0
    views_per_second: float | None = None


class Pace:
    """Measures, from the reports of trials, the times of their start, training and evaluation.

    Args:
        slots, at_once: as for `eta`.
        evaluate: seconds of an evaluation, as `evaluation_seconds` returns them, until the first
            trial of this sweep has been evaluated.
    """

    def __init__(self, slots: int = 1, at_once: int | None = None, evaluate: float | None = None):
        self.slots, self.at_once, self.evaluate_before = slots, at_once, evaluate
        self.trials: dict[str, _Trial] = {}
        self.starts: list[float] = []
        self.evaluations: list[float] = []
        self.evaluator_free = float("-inf")

    def add(self, config: TrialConfig, step: int = 0) -> None:
        """Count a trial, which has a checkpoint of ``step``."""
        self.trials[config.trial_id] = _Trial(config, step)

    def begin(self, trial_id: str, now: float) -> None:
        """Note that the process of a trial has started or restarted."""
        trial = self.trials[trial_id]
        # A trial without a slot waits.
        if sum(other.state in ("starting", "training") for other in self.trials.values()) < self.slots:
            trial.state, trial.since = "starting", now

    def report(self, trial_id: str, result: Mapping[str, Any], now: float) -> None:
        """Take the report of a trial: ``state``, and ``step`` and ``views_per_second`` while it trains."""
        trial, state = self.trials[trial_id], result.get("state", "training")
        if trial.state == "starting" and state in ("training", "evaluating"):
            trained = 0.0
            if state == "training":
                trained = views_of(trial.config, result["step"] - trial.step) / result["views_per_second"]
            self.starts.append(max(now - trial.since - trained, 0.0))
        if trial.state == "evaluating" and state == "finished":
            # It may have waited for others.
            self.evaluations.append(now - max(trial.since, self.evaluator_free))
        if trial.state == "evaluating":
            self.evaluator_free = now
        if state == "training":
            trial.step, trial.views_per_second = result["step"], result["views_per_second"]
        elif state == "queued":
            trial.step = result.get("reached", result.get("step_saved", trial.step))
        trial.state, trial.since = state, now

    def left(self, now: float, more: int = 0) -> tuple[float | None, bool]:
        """Seconds until all trials and ``more`` unknown ones have ended; None before the first report.

        The second value is whether this is too low, because the time of evaluations is not known yet.
        """
        trials = list(self.trials.values())
        speeds = [trial.views_per_second for trial in trials if trial.views_per_second]
        usual = fmean(speeds) if speeds else None
        start = fmean(self.starts) if self.starts else 0.0
        evaluate, is_known = self._evaluation(now)
        if usual is None and any(views_of(t.config, 1) and t.state in ("queued", "starting") for t in trials):
            return None, False

        def training(trial: _Trial) -> float:
            views = views_of(trial.config, trial.config.iterations - trial.step)
            return views / (trial.views_per_second or usual or 1.0)

        seconds: dict[str, Callable[[_Trial], float]] = {
            "starting": lambda trial: max(start - (now - trial.since), 0.0) + training(trial),
            "training": lambda trial: max(training(trial) - (now - trial.since), 0.0),
            "evaluating": lambda trial: trial.since - now,
        }
        running = [Left(seconds[t.state](t), evaluate) for t in trials if t.state in seconds]
        queued = [Left(start + training(t), evaluate) for t in trials if t.state == "queued"]
        if more > 0 and trials:
            queued += [Left(start + fmean(self._whole(t, usual) for t in trials), evaluate)] * more
        return (
            eta(
                running,
                queued,
                slots=max(self.slots, sum(left.train > 0 for left in running)),
                at_once=max(self.at_once or self.slots, len(running)),
                evaluator_free=self.evaluator_free - now,
            ),
            not is_known,
        )

    @staticmethod
    def _whole(trial: _Trial, usual: float | None) -> float:
        return views_of(trial.config, trial.config.iterations) / (trial.views_per_second or usual or 1.0)

    def _evaluation(self, now: float) -> tuple[float, bool]:
        """The seconds of one evaluation and whether they are known; else those of the first one so far."""
        if self.evaluations:
            return fmean(self.evaluations), True
        if self.evaluate_before is not None:
            return self.evaluate_before, True
        return max((now - t.since for t in self.trials.values() if t.state == "evaluating"), default=0.0), False
