"""The ETA of simulated sweeps with random durations of trials, compared with the actual remaining time."""

import random

import pandas as pd
import pytest
from factories import row

from mdssl.config.trial import TrialConfig
from mdssl.trials.eta import Left, Pace, eta, evaluation_seconds, views_of

TICK, REPORT, LOOK = 1.0, 5.0, 10


class Simulated:
    """A simulated trial. `Pace` receives the same reports as from the driver of a sweep."""

    def __init__(self, rng, seed, resumed, evaluation):
        method = rng.choice(["random", "simclr", "mdssl", "mdssl", "mdssl"])
        self.trains = method != "random"
        shared = {"iterations": 100, "batch_per_domain": 8, "precision": "fp32"}
        self.config = TrialConfig(method=method, domains=("a", "b") if self.trains else (), seed=seed, **shared)
        self.step = self.saved = rng.randrange(100) * resumed * self.trains
        self.start, self.evaluate = rng.gauss(12, 2), rng.gauss(evaluation, 4)
        self.seconds_per_step = rng.gauss(0.8, 0.08)
        self.phase, self.reported = "queued", 0.0

    @property
    def id(self):
        return self.config.trial_id

    def tick(self, now, pace, evaluator, evaluator_slots):
        if self.phase == "starting":
            self.start -= TICK
            if self.start <= 0:
                self.phase = "training" if self.trains else self.trained(now, pace, evaluator)
        elif self.phase == "training":
            self.step = min(100, self.step + TICK / self.seconds_per_step)
            if now - self.reported >= REPORT or self.step == 100:
                self.reported = now
                speed = views_of(self.config, 1) / self.seconds_per_step
                pace.report(self.id, {"state": "training", "step": self.step, "views_per_second": speed}, now)
            if self.step == 100:
                self.phase = self.trained(now, pace, evaluator)
        elif self.phase == "evaluating" and self in evaluator[: max(1, evaluator_slots)]:
            if self.id not in pace.evaluations_begun:
                pace.evaluate(self.id, now - TICK)
            self.evaluate -= TICK
            if self.evaluate <= 0:
                evaluator.remove(self)
                pace.report(self.id, {"state": "finished"}, now)
                self.phase = "done"

    def trained(self, now, pace, evaluator):
        pace.report(self.id, {"state": "evaluating"}, now)
        evaluator.append(self)
        return "evaluating"


def simulate(seed, *, slots, count=16, evaluate=None, images=0, resumed=0.0, evaluation=30):
    """The ETAs of a sweep (time, ETA, and whether the ETA is rough) and the time when the sweep ends."""
    rng = random.Random(seed)
    trials = [Simulated(rng, number, rng.random() < resumed, evaluation) for number in range(count)]
    pace, evaluator, now, told = Pace(slots, evaluate=evaluate, images=images), [], 0.0, []
    for trial in trials:
        pace.add(trial.config, trial.saved)
    while any(trial.phase != "done" for trial in trials):
        for trial in trials:
            in_slots = sum(other.phase in ("starting", "training") for other in trials)
            if trial.phase == "queued" and in_slots < slots:
                trial.phase = "starting"
                pace.begin(trial.id, now)
        now += TICK
        free = slots - sum(trial.phase in ("queued", "starting", "training") for trial in trials)
        for trial in list(trials):
            trial.tick(now, pace, evaluator, free)
        if now % LOOK == 0:
            told.append((now, *pace.left(now)))
    return told, now


def worst_factor(told, end, since):
    """The largest factor between the ETA and the remaining time, in the first nine tenths of the sweep."""
    factors = [(seconds or 1e-9) / (end - now) for now, seconds, _ in told if since <= now < 0.9 * end]
    return max(max(factors), 1 / min(factors))


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("resumed", [0.0, 0.5])
def test_eta_is_within_a_factor_of_1_5_after_a_tenth_of_the_sweep(slots, resumed):
    for seed in range(8):
        told, end = simulate(seed, slots=slots, evaluate=33.0, resumed=resumed)
        assert worst_factor(told, end, end / 10) < 1.5, seed


def test_without_earlier_scores_eta_is_marked_rough_until_a_first_evaluation():
    for seed in range(8):
        told, end = simulate(seed, slots=2)
        known = next(now for now, seconds, is_rough in told if seconds and not is_rough)
        assert worst_factor(told, end, max(known, end / 10)) < 1.5, seed
        for now, seconds, is_rough in told:
            assert is_rough == (now < known and seconds is not None)
            assert not is_rough or seconds < 1.2 * (end - now)


def test_evaluation_time_is_first_estimated_from_images_and_training_speed():
    # 120 seconds correspond to 4,800 images at 40 views per second. The number of images may be wrong by a quarter.
    for seed in range(8):
        for images in (3600, 4800, 6000):
            told, end = simulate(seed, slots=2, images=images, evaluation=120)
            assert worst_factor(told, end, end / 10) < 1.5, (seed, images)


@pytest.mark.parametrize(
    ("running", "queued", "more", "expected"),
    [
        ([], [], {"slots": 2}, 0),
        ([(10, 5)], [], {"slots": 2}, 15),
        # The slot of the first trial is free for the evaluation of the second.
        ([(10, 5), (11, 5)], [], {"slots": 2}, 16),
        # The next trial trains while the previous one is evaluated.
        ([(10, 5)], [(10, 5)], {"slots": 1}, 25),
        ([(10, 50)], [(10, 5)], {"slots": 1}, 65),
        ([(10, 50)], [(10, 5)], {"slots": 1, "evaluators": 2}, 60),
        ([(10, 5), (10, 5)], [(10, 5)], {"slots": 2}, 25),
        # Evaluations in progress; the second has taken longer than expected.
        ([], [], {"slots": 1, "evaluating": [2]}, 2),
        ([(10, 5)], [], {"slots": 1, "evaluating": [-30], "waiting": [5]}, 15),
        # Untrained encoders are evaluated one by one in a free slot that no other trial needs.
        ([], [(0, 5)] * 3, {"slots": 2}, 10),
        ([(100, 5)], [], {"slots": 1, "waiting": [50] * 4}, 205),
        ([(100, 5)], [], {"slots": 2, "waiting": [50] * 4}, 155),
    ],
)
def test_eta_of_small_sweeps_equals_values_computed_by_hand(running, queued, more, expected):
    assert eta([Left(*left) for left in running], [Left(*left) for left in queued], **more) == expected


def test_eta_includes_trials_that_a_search_will_choose():
    pace = Pace(1, evaluate=5.0)
    config = TrialConfig(domains=("a", "b"), iterations=100, batch_per_domain=8, precision="fp32")
    pace.add(config)
    pace.begin(config.trial_id, 0.0)
    pace.report(config.trial_id, {"step": 10, "views_per_second": views_of(config, 1)}, 10.0)
    assert pace.left(10.0) == (95.0, False)
    assert pace.left(10.0, more=1) == (90.0 + 100.0 + 5.0, False)
    assert pace.left(10.0, more=2) == (90.0 + 2 * 100.0 + 5.0, False)


def test_eta_is_zero_before_a_search_has_chosen_a_trial():
    assert Pace(1, evaluate=5.0).left(0.0, more=2) == (0.0, False)


def test_evaluation_seconds_is_the_median_of_trials_with_all_scores():
    rows = pd.DataFrame(
        [
            row("svhn", trial_id=trial, features="encoder", probe="lbfgs", eval_seconds=seconds, status="finished")
            | {"finished_at": pd.Timestamp("2026-01-01", tz="UTC"), "eval_dataset": name}
            for trial, seconds in (("a", 10.0), ("b", 20.0), ("c", 60.0))
            for name in (("svhn", "dtd") if trial != "c" else ("svhn",))
        ]
    )
    scores = {("encoder", "lbfgs")}
    assert evaluation_seconds(rows, ("svhn", "dtd"), scores) == 30.0
    assert evaluation_seconds(rows, ("svhn",), scores) == 20.0
    assert evaluation_seconds(rows, ("svhn", "stl10"), scores) is None
    assert evaluation_seconds(rows, ("svhn",), {("encoder", "sgd")}) is None
    assert evaluation_seconds(rows[:0], ("svhn",), scores) is None


def test_eta_counts_only_the_steps_after_a_checkpoint():
    first, second = (
        TrialConfig(domains=("a", "b"), iterations=100, batch_per_domain=8, precision="fp32", seed=seed)
        for seed in range(2)
    )
    pace = Pace(1, evaluate=5.0)
    pace.add(first)
    pace.add(second, 60)
    pace.begin(first.trial_id, 0.0)
    pace.report(first.trial_id, {"step": 10, "views_per_second": views_of(first, 1)}, 10.0)
    assert pace.left(10.0) == (90.0 + 40.0 + 5.0, False)
