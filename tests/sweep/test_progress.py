"""The printed progress of a running sweep, made from the reports of Tune."""

import io
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.sweep.progress import SweepProgress
from mdssl.trials.eta import Pace, views_of

CONFIG = TrialConfig(domains=("a", "b"), iterations=100, lambda2=0.1, precision="fp32")


def report_of(step, **result):
    numbers = {"loss": 4.5, "alignment": -6.0, "within": 10.5, "across": 0.25, "views_per_second": 1234.0}
    return {"state": "training", "step": step, "iterations": 100, "eta_seconds": 75} | numbers | result


class Shown:
    def __init__(self):
        self.out = io.StringIO()
        self.progress = SweepProgress({CONFIG.trial_id: CONFIG}, Console(file=self.out, width=200))
        self.trial = SimpleNamespace(config={"work": {"trial": CONFIG.to_dict()}})

    def report(self, **result):
        self.progress.on_trial_result(0, [], self.trial, result)

    def step(self, step, **result):
        self.report(**report_of(step, **result))

    def lines(self):
        return self.out.getvalue().splitlines()


@pytest.fixture
def shown():
    return Shown()


def test_a_line_shows_the_trial_its_step_loss_terms_speed_and_eta(shown):
    shown.progress.console.width = 40
    shown.step(1)
    (line,) = shown.lines()
    assert f"{CONFIG.trial_id} mdssl λ1=1 λ2=0.1: step 1/100" in line
    assert "loss 4.500 = align -6.000, within 10.500, across 0.250  1,234 views/s  ETA 1m15s" in line


def test_states_are_printed_immediately_and_steps_every_few_seconds(shown):
    for step in (10, 20, 30):
        shown.step(step)
    shown.report(state="evaluating")
    shown.report(state="finished")
    assert [line.split(": ")[1].split("  ")[0] for line in shown.lines()] == [
        "step 10/100",
        "evaluating",
        "finished",
    ]
    assert "[sweep 1/1" in shown.lines()[-1]


def test_steps_are_printed_every_10_seconds_and_a_wait_every_minute(shown, monkeypatch):
    now, reports = 1000.0, [{"state": "queued", "owner": "a", "reached": 1}, {"state": "failed"}]
    monkeypatch.setattr(time, "monotonic", lambda: now)
    printed = []
    for report in (None, *reports):
        for now in (1000.0, 1009.5, 1010.0, 1019.5, 1020.0, 1059.5, 1060.0):
            before = len(shown.lines())
            shown.progress.tell(CONFIG.trial_id, report or report_of(int(2 * now)))
            printed.append(len(shown.lines()) - before)
    assert printed == [1, 0, 1, 0, 1, 1, 0] + [1, 0, 0, 0, 0, 0, 1] + [1] * 7


def test_a_terminal_shows_a_table_and_prints_only_failures_and_stops():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with SweepProgress({CONFIG.trial_id: CONFIG}, console) as progress:
        progress.tell(CONFIG.trial_id, report_of(10))
        progress.tell(CONFIG.trial_id, {"state": "evaluating"})
        assert "[sweep" not in out.getvalue()
        progress.tell(CONFIG.trial_id, {"state": "queued", "step_saved": 7})
        progress.tell(CONFIG.trial_id, {"state": "failed", "error": "no more"})
        progress.tell(CONFIG.trial_id, {"state": "stopped", "ended_early": True, "on_request": True})
    said = out.getvalue()
    assert "step 7  [sweep" in said and "failed: no more  [sweep" in said and "trains it further  [sweep" in said
    assert said.count("[sweep") == 3 and "so far, ETA" in said
    assert said.endswith("\x1b[2K"), "the table is erased at the end"


def test_the_eta_counts_the_checkpoints_with_which_a_sweep_begins(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    configs = [replace(CONFIG, seed=seed) for seed in range(4)]
    out, steps = io.StringIO(), {configs[1].trial_id: 60}
    three = {config.trial_id: config for config in configs[:3]}
    progress = SweepProgress(three, Console(file=out, width=200), Pace(evaluate=0.0), steps=steps)
    progress.add(configs[3])
    progress.tell(configs[0].trial_id, report_of(90, views_per_second=views_of(CONFIG, 1)))
    # 10, 40, 100 and 100 steps, of a second each.
    assert "[sweep 0/4, ETA 4m10s]" in out.getvalue()


def test_the_eta_of_a_sweep_includes_evaluations_or_is_marked_as_rough(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    second = {"views_per_second": views_of(CONFIG, 1), "eta_seconds": 0, "iterations": 100}
    numbers = {"loss": 4.5, "alignment": -6.0, "within": 10.5, "across": 0.25}
    for pace, eta in ((Pace(), "~20s"), (Pace(evaluate=7.0), "27s")):
        out, other = io.StringIO(), replace(CONFIG, seed=1)
        progress = SweepProgress({CONFIG.trial_id: CONFIG}, Console(file=out, width=200), pace, to_come=lambda: 2)
        progress.add(other, 100)
        progress.tell(other.trial_id, {"state": "finished"})
        progress.to_come = lambda: 0
        progress.tell(CONFIG.trial_id, {"state": "training", "step": 80, **numbers, **second})
        lines = out.getvalue().splitlines()
        assert "[sweep 1/4, ETA ?]" in lines[0]
        assert f"[sweep 1/2, ETA {eta}]" in lines[1]


def test_the_eta_of_thousands_of_trials_is_not_computed_for_each_line(shown, monkeypatch):
    """The time for an ETA grows with the number of trials, and there is a line for each trial."""
    now, asked = time.monotonic(), []

    def left(at, more):
        nonlocal now
        now += 0.1
        asked.append(at)
        return 60.0, False

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(shown.progress.pace, "left", left)
    for seed in range(1, 101):
        now += 0.1
        other = replace(CONFIG, seed=seed)
        shown.progress.add(other)
        shown.progress.tell(other.trial_id, {"state": "finished"})
    assert 4 <= len(asked) <= 6, "in ten seconds, of which a twentieth is spent on the ETA"
    assert "[sweep 100/101, ETA 1m00s]" in shown.lines()[-1]


def test_a_report_of_a_lower_step_is_shown_as_a_worker_death(shown):
    shown.step(50)
    shown.step(40)
    assert any("a worker died at step 50 or later" in line and "is at step 40" in line for line in shown.lines())


def test_a_report_of_the_same_step_is_shown_as_a_worker_death(shown):
    shown.step(50)
    shown.step(50)
    assert any("a worker died at step 50 or later" in line for line in shown.lines())


def test_a_failure_is_printed_with_its_error(shown):
    shown.report(state="failed", error="the loss is not finite")
    assert "failed: the loss is not finite" in shown.lines()[0]


def test_a_trial_claimed_by_another_sweep_is_shown_with_its_owner(shown):
    waits = {"state": "queued", "owner": "node7:123 (mixtures)", "reached": 40}
    shown.step(50)
    shown.report(**waits)
    shown.report(**waits)
    assert "queued: waiting for node7:123 (mixtures), which is at step 40 or later" in shown.lines()[1]
    assert len(shown.lines()) == 2, "the line is printed once a minute"
    shown.step(50)
    assert not any("a worker died" in line for line in shown.lines())
    shown.progress.tell(CONFIG.trial_id, {"state": "finished", "error": ""})
    assert "finished  [sweep 1/1" in shown.lines()[-1]


def test_a_likely_reason_is_printed_after_two_minutes_without_a_report(shown, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown.progress.started = now
    shown.trial.status, shown.trial.last_result = "RUNNING", {}
    times = [now]
    for now in range(1000, 1600):
        if now == 1301:
            shown.step(10)
            shown.trial.last_result = {"state": "training"}
        shown.progress.on_step_begin(0, [shown.trial])
        times += [now] * (len(shown.lines()) - len(times) + 1)
    waits = [line for line in shown.lines() if "no report for" in line]
    starts = [line for line in waits if "its processes are starting, or waiting for free CPUs or GPUs" in line]
    assert (len(starts), len(waits)) == (2, 4)
    assert all(f"{CONFIG.trial_id} mdssl" in line for line in waits)
    assert times == [1000, 1110, 1220, 1301, 1411, 1521]
    shown.progress.evaluate(CONFIG.trial_id)
    for second in range(111):
        now = 1600 + second
        shown.progress.on_step_begin(0, [])
    assert [line.split(": ")[1].split("  [")[0] for line in shown.lines()[-2:]] == ["evaluating", "no report for 1m50s"]
    assert "the probe is scoring its encoder" in shown.lines()[-1]


def test_the_table_shows_scores_with_their_steps_and_the_leading_trial(shown):
    """The leading trial is chosen among trials with the most steps. Higher scores at lower steps do not count."""
    other = replace(CONFIG, lambda2=0.3)
    shown.progress.add(other)
    shown.step(10, val_linear_top1=30.0)
    shown.step(20, val_linear_top1=None)
    shown.progress.tell(other.trial_id, report_of(5, val_linear_top1=80.0))
    with shown.progress.console.capture() as captured:
        shown.progress.console.print(shown.progress._table())
    table = " ".join(captured.get().split())
    assert "30.0 at 10" in table and "80.0 at 5" in table
    assert re.search(r"ahead: [^;]*λ2=0.1[^;]*, validation 30.0 at 10", table)
    assert CONFIG.trial_id in table and other.trial_id in table


def test_the_table_fits_into_80_columns_with_ids_and_the_loss(shown):
    shown.progress.add(replace(CONFIG, lambda2=0.3, seed=1))
    shown.step(10)
    for width, terms in ((80, ["loss"]), (109, ["loss"]), (110, ["loss", "align", "within", "across"])):
        shown.progress.console.width = width
        with shown.progress.console.capture() as captured:
            shown.progress.console.print(shown.progress._table())
        lines = captured.get().splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].split() == ["trial", "state", "step", *terms, "views/s", "ETA"]
        assert "…" not in captured.get()
        (line,) = (line for line in lines if CONFIG.trial_id in line)
        numbers = ["4.500", "-6.000", "10.500", "0.250"][: len(terms)]
        assert line.split()[-4 - len(terms) :] == ["training", "10/100", *numbers, "1,234", "1m15s"]
        assert lines[0].index("step") + len("step") == line.index("10/100") + len("10/100")


def test_a_trial_stopped_early_is_shown_with_its_last_step(shown):
    shown.step(10, val_linear_top1=30.0)
    shown.report(state="stopped", ended_early=True)
    assert "stopped early after step 10/100  validation 30.0 at 10  [sweep 1/1" in shown.lines()[-1]


def test_a_short_terminal_shows_training_trials_first_and_counts_the_rest():
    configs = [replace(CONFIG, seed=seed) for seed in range(500)]
    console = Console(file=io.StringIO(), width=120, height=12)
    progress = SweepProgress({config.trial_id: config for config in configs}, console)
    for config in configs[:300]:
        progress.tell(config.trial_id, {"state": "finished"})
    progress.tell(configs[400].trial_id, report_of(5))
    with console.capture() as captured:
        console.print(progress._table())
    lines = captured.get().splitlines()
    assert len(lines) < 12
    assert configs[400].trial_id in lines[1] and "5/100" in lines[1]
    shown = sum("finished" in line for line in lines[2:-2])
    assert f"and {300 - shown} finished, 199 queued" in lines[-2]
    console.height = 2
    cells = [str(cell) for cell in progress._table().columns[0].cells]
    assert cells == [configs[400].trial_id, ""], "one trial, and the number of others"


@pytest.mark.parametrize(("height", "queued"), [(9, False), (10, True)])
def test_a_terminal_with_room_for_all_trials_keeps_their_order(height, queued):
    states = ["queued", "stopped", "finished", "failed", "evaluating", "training"]
    configs = [replace(CONFIG, seed=seed) for seed in range(len(states))]
    console = Console(file=io.StringIO(), width=120, height=height)
    progress = SweepProgress({config.trial_id: config for config in configs}, console)
    for config, state in zip(configs[1:], states[1:], strict=True):
        progress.tell(config.trial_id, report_of(5) | {"state": state})
    with console.capture() as captured:
        console.print(progress._table())
    found = [state for line in captured.get().splitlines()[1:-1] for state in states if state in line]
    assert found == (states if queued else [*reversed(states[1:]), "queued"])


def test_a_trial_that_another_sweep_stopped_early_is_shown_as_stopped(shown):
    shown.report(state="queued", owner="host:1 (search)", reached=3)
    shown.report(state="stopped", ended_early=True)
    assert "λ2=0.1: stopped early  [sweep 1/1" in shown.lines()[-1]
