"""Estimate the remaining time of a sweep: `eta`, and `Pace`, which measures the times of its trials.

A trial waits for a slot, starts its processes, trains, frees the slot, waits for an evaluator and is evaluated. All
times are in seconds, on any one clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig

_EARLIER_TRIALS = 20


class Left(NamedTuple):
    """The remaining seconds of a trial's training, and of its evaluation."""

    train: float
    evaluate: float


def eta(
    running: Iterable[Left],
    queued: Sequence[Left] = (),
    *,
    slots: int,
    evaluating: Iterable[float] = (),
    waiting: Iterable[float] = (),
    evaluators: int = 1,
) -> float:
    """Seconds until all trials have been trained and evaluated.

    Args:
        running: trials that train.
        queued: trials that wait for a slot, in this order.
        slots: trials that train at a time.
        evaluating: remaining seconds of evaluations that have begun.
        waiting: seconds of those that wait for an evaluator, in this order.
        evaluators: evaluations at a time while trials train in all slots; each free slot allows one, too.
    """
    now, trains = 0.0, [(left.train, left.evaluate) for left in running]
    scores, to_train, to_score = list(evaluating), deque(queued), deque(waiting)
    heapq.heapify(trains)
    heapq.heapify(scores)
    while True:
        while to_train and len(trains) < slots:
            left = to_train.popleft()
            heapq.heappush(trains, (now + left.train, left.evaluate))
        while to_score and len(scores) < max(evaluators, slots - len(trains)):
            heapq.heappush(scores, now + to_score.popleft())
        if trains and (not scores or trains[0][0] <= scores[0]):
            end, evaluate = heapq.heappop(trains)
            to_score.append(evaluate)
        elif scores:
            end = heapq.heappop(scores)
        else:
            return now
        # What is overdue ends now.
        now = max(now, end)


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
    step: int
    state: str = "queued"
    since: float = 0.0
    views_per_second: float | None = None


class Pace:
    """Measures, from the reports of trials, the times of their start, training and evaluation.

    Args:
        slots, evaluators: as for `eta`.
        evaluate: seconds of an evaluation, as `evaluation_seconds` returns them, until the first
            trial of this sweep has been evaluated.
        images: of the evaluation datasets, from which these seconds are estimated where there are none.

    Attributes:
        evaluations_begun: by id of the trial, when its evaluation began.
    """

    def __init__(self, slots: int = 1, evaluators: int = 1, evaluate: float | None = None, images: int = 0):
        self.slots, self.evaluators, self.evaluate_before, self.images = slots, evaluators, evaluate, images
        self.trials: dict[str, _Trial] = {}
        self.starts: list[float] = []
        self.evaluations: list[float] = []
        self.evaluations_begun: dict[str, float] = {}

    def add(self, config: TrialConfig, step: int = 0) -> None:
        """Count a trial, which has a checkpoint of ``step``."""
        self.trials[config.trial_id] = _Trial(config, step)

    def begin(self, trial_id: str, now: float) -> None:
        """Note that the process of a trial has started or restarted."""
        trial = self.trials[trial_id]
        # A trial without a slot waits.
        if sum(other.state in ("starting", "training") for other in self.trials.values()) < self.slots:
            trial.state, trial.since = "starting", now

    def evaluate(self, trial_id: str, now: float) -> None:
        """Note that the evaluation of a trial has begun."""
        self.trials[trial_id].state = "evaluating"
        self.evaluations_begun[trial_id] = now

    def report(self, trial_id: str, result: Mapping[str, Any], now: float) -> None:
        """Take the report of a trial: ``state``, and ``step`` and ``views_per_second`` while it trains."""
        trial, state = self.trials[trial_id], result.get("state", "training")
        if trial.state == "starting" and state in ("training", "evaluating"):
            trained = 0.0
            if state == "training":
                trained = views_of(trial.config, result["step"] - trial.step) / result["views_per_second"]
            self.starts.append(max(now - trial.since - trained, 0.0))
        begun = self.evaluations_begun.pop(trial_id, None)
        if begun is not None and state == "finished":
            self.evaluations.append(now - begun)
        if state == "training":
            trial.step, trial.views_per_second = result["step"], result["views_per_second"]
        elif state == "queued":
            trial.step = result.get("reached", result.get("step_saved", trial.step))
        trial.state, trial.since = state, now

    def left(self, now: float, more: int = 0) -> tuple[float | None, bool]:
        """Seconds until all trials and ``more`` unknown ones have ended; None before the first report.

        The second value is whether the time of evaluations is not known yet, so that this is a rough estimate.
        """
        trials = list(self.trials.values())
        speeds = [trial.views_per_second for trial in trials if trial.views_per_second]
        usual = fmean(speeds) if speeds else None
        start = fmean(self.starts) if self.starts else 0.0
        evaluate, is_known = self._evaluation(now, usual)
        if usual is None and any(views_of(t.config, 1) and t.state in ("queued", "starting") for t in trials):
            return None, False

        def training(trial: _Trial, done: int) -> float:
            views = views_of(trial.config, trial.config.iterations - done)
            return views / (trial.views_per_second or usual or 1.0)

        running = [
            Left(max((start if t.state == "starting" else 0.0) + training(t, t.step) - (now - t.since), 0.0), evaluate)
            for t in trials
            if t.state in ("starting", "training")
        ]
        queued = [Left(start + training(t, t.step), evaluate) for t in trials if t.state == "queued"]
        if more > 0 and trials:
            queued += [Left(start + fmean(training(t, 0) for t in trials), evaluate)] * more
        trained = sum(trial.state == "evaluating" for trial in trials) - len(self.evaluations_begun)
        return (
            eta(
                running,
                queued,
                slots=max(self.slots, len(running)),
                evaluating=[max(begun + evaluate - now, 0.0) for begun in self.evaluations_begun.values()],
                waiting=[evaluate] * trained,
                evaluators=self.evaluators,
            ),
            not is_known,
        )

    def _evaluation(self, now: float, views_per_second: float | None) -> tuple[float, bool]:
        """The seconds of one evaluation and whether they are known, or a rough estimate of these.

        An image takes one pass through the network, and a view in training about three; fitting the probe, kNN and
        validation scores take some twice as long as the pass on a CPU. So an image costs about as much as a view.
        """
        if self.evaluations:
            return fmean(self.evaluations), True
        if self.evaluate_before is not None:
            return self.evaluate_before, True
        so_far = max((now - begun for begun in self.evaluations_begun.values()), default=0.0)
        return max(so_far, self.images / views_per_second if views_per_second else 0.0), False
