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
        # Those that end first come first, in whatever order they are given.
        ([(20, 1), (10, 30)], [], {"slots": 2}, 40),
        ([], [], {"slots": 1, "evaluators": 2, "evaluating": [30, 2], "waiting": [10]}, 30),
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


def test_evaluation_seconds_is_over_the_20_trials_that_were_evaluated_last():
    """The ids are in the opposite order, each trial has the scores of two probes, and the board has other rows."""
    rows = pd.DataFrame(
        row(trial_id=f"{20 - day:02d}", probe=probe, eval_seconds=float(day), finished_at=pd.Timestamp(day, unit="D"))
        for day in range(21)
        for probe in ("knn", "lbfgs", "sgd")
    )
    rows = rows[rows["probe"] != "knn"]
    # The median of 1 to 20, twice.
    assert evaluation_seconds(rows, ("svhn",), {("encoder", "lbfgs"), ("encoder", "sgd")}) == 21.0


def two_trials():
    shared = {"domains": ("a", "b"), "iterations": 100, "batch_per_domain": 8, "precision": "fp32"}
    return [TrialConfig(**shared, seed=seed) for seed in range(2)]


def at_step(config, step, seconds_per_step=1.0):
    return {"state": "training", "step": step, "views_per_second": views_of(config, 1) / seconds_per_step}


def test_eta_counts_starts_and_a_trial_without_a_slot_as_waiting():
    (first, second), encoder = two_trials(), TrialConfig(method="random")
    pace = Pace(1, evaluate=5.0)
    for config in (first, second):
        pace.add(config)
        pace.begin(config.trial_id, 0.0)
    for now in (22.0, 32.0):
        pace.report(first.trial_id, at_step(first, now - 12), now)
    assert pace.left(32.0) == (80.0 + (12.0 + 100.0) + 5.0, False)
    assert pace.left(40.0, more=1) == (72.0 + 2 * (12.0 + 100.0) + 5.0, False)
    assert pace.left(500.0) == (12.0 + 100.0 + 5.0, False), "a trial that is overdue ends now"
    # An untrained encoder is evaluated after its start, here of 6 seconds.
    pace.slots = 2
    pace.add(encoder)
    pace.begin(encoder.trial_id, 32.0)
    pace.report(encoder.trial_id, {"state": "evaluating"}, 38.0)
    pace.slots = 1
    assert pace.left(32.0) == (80.0 + (9.0 + 100.0) + 5.0, False)


def test_eta_uses_the_speed_of_each_trial_and_its_step_in_another_sweep():
    first, second = two_trials()
    pace = Pace(2)
    for config, seconds_per_step in ((first, 1.0), (second, 3.0)):
        pace.add(config)
        pace.report(config.trial_id, at_step(config, 10, seconds_per_step), 0.0)
    assert pace.left(0.0) == (270.0, True)
    for entries, steps_left in (({}, 90), ({"step_saved": 40}, 60), ({"reached": 70, "step_saved": 40}, 30)):
        pace.report(second.trial_id, {"state": "queued", **entries}, 0.0)
        assert pace.left(0.0) == (max(90.0, 3.0 * steps_left), True)


@pytest.mark.parametrize(("evaluators", "expected"), [({}, 90 + 200 + 200), ({"evaluators": 2}, 90 + 100 + 200)])
def test_by_default_one_trial_trains_and_one_is_evaluated_at_a_time(evaluators, expected):
    pace = Pace(evaluate=200.0, **evaluators)
    for config in two_trials():
        pace.add(config)
    pace.report(config.trial_id, at_step(config, 10), 0.0)
    assert pace.left(0.0) == (expected, False)


def test_eta_of_evaluations_alone():
    pace, configs = Pace(evaluate=5.0), [TrialConfig(method="random", seed=seed) for seed in range(2)]
    assert (views_of(configs[0], 9), views_of(two_trials()[0], 9)) == (0, 9 * 2 * 2 * 8)
    for config in configs:
        pace.add(config)
    assert pace.left(0.0) == (10.0, False)
    pace.evaluate(configs[0].trial_id, 0.0)
    pace.report(configs[1].trial_id, {"state": "evaluating"}, 0.0)
    assert [pace.left(now) for now in (3.0, 9.0)] == [(7.0, False), (5.0, False)]
    rough = Pace(images=10)
    rough.add(configs[0])
    assert rough.left(0.0) == (0.0, True), "nothing is known yet"


def test_eta_counts_only_the_steps_after_a_checkpoint():
    first, second = two_trials()
    pace = Pace(1, evaluate=5.0)
    pace.add(first)
    pace.add(second, 60)
    pace.begin(first.trial_id, 0.0)
    pace.report(first.trial_id, {"step": 10, "views_per_second": views_of(first, 1)}, 10.0)
    assert pace.left(10.0) == (90.0 + 40.0 + 5.0, False)
