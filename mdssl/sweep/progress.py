"""The progress display of a running sweep: state, step, loss terms, speed and ETA of each trial, and the total ETA."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mdssl.config.trial import TrialConfig
from mdssl.trials.describe import duration, labels
from mdssl.trials.eta import Pace

_LINE_SECONDS = {"training": 10, "queued": 60}
"""Interval of the lines about one trial in this state, where the output is a file or a pipe."""
_SILENT_SECONDS = 110
"""Time without a report of a trial after which a line names possible reasons, and interval of these lines."""
_SILENT = {
    "start": "its processes are starting, or waiting for free CPUs or GPUs",
    "training": "a step takes long, or workers that died are being replaced",
    "evaluating": "the probe is scoring its encoder",
}

_TERMS = {"loss": "loss", "align": "alignment", "within": "within", "across": "across"}
"""The loss and its terms, by header: of them a narrow terminal shows the loss alone."""
_WIDE = 110
_SHOWN_FIRST = {"training": 0, "evaluating": 1, "failed": 2, "finished": 3, "stopped": 4}
"""Order of the states where the terminal is too low for all trials; queued ones are last."""
_LINES_AROUND = 4
"""Header, count of the trials that are not shown, caption, and the cursor's line."""

_OF_ONE_REPORT = ("owner", "reached", "step_saved")
"""Entries of the report of a queued trial, which a later report removes."""


class SweepProgress(tune.Callback):
    """Show a live table in a terminal, else print a line per event and trial. Tune calls the ``on_…`` methods.

    Args:
        configs: the trials, by id.
        pace: for the sweep's ETA.
        steps: of the latest checkpoint, by trial id; 0 for trials that it lacks.
        to_come: returns the number of trials that a search will still add.
    """

    def __init__(
        self,
        configs: dict[str, TrialConfig],
        console: Console,
        pace: Pace | None = None,
        *,
        steps: dict[str, int] | None = None,
        to_come: Callable[[], int] = lambda: 0,
    ):
        self.configs, self.labels, self.console = configs, labels(configs.values()), console
        self.pace, self.to_come = pace or Pace(), to_come
        for trial_id, config in configs.items():
            self.pace.add(config, (steps or {}).get(trial_id, 0))
        self.latest: dict[str, dict[str, Any]] = {}
        self.started = time.monotonic()
        self.printed: dict[tuple[str, str], float] = {}
        self.heard: dict[str, float] = {}
        self.looked = float("-inf")
        self.done: set[str] = set()
        self.eta, self.eta_at, self.eta_cost = "?", float("-inf"), 0.0
        self.live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def __getstate__(self) -> dict:
        # Tune pickles its callbacks for a restore that this project does not use; a terminal cannot be pickled.
        return {}

    def __enter__(self) -> SweepProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def add(self, config: TrialConfig, step: int = 0) -> None:
        """Add a trial that a search has chosen, with a checkpoint of ``step``."""
        if config.trial_id not in self.configs:
            self.pace.add(config, step)
            self.configs[config.trial_id] = config
            self.labels = labels(self.configs.values())

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        now = time.monotonic()
        if now - self.looked < 1:
            return
        running = {_trial_id(t): t.last_result.get("state", "start") for t in trials if t.status == "RUNNING"}
        running |= dict.fromkeys(self.pace.evaluations_begun, "evaluating")
        self.looked, heard = now, {}
        for trial_id, state in running.items():
            heard[trial_id] = self.heard.get(trial_id, now)
            if now - heard[trial_id] >= _SILENT_SECONDS:
                heard[trial_id] = now
                self._print_silence(trial_id, state)
        self.heard = heard

    def evaluate(self, trial_id: str) -> None:
        """Note that the evaluation of a trial has begun."""
        if self.latest.get(trial_id, {}).get("state") != "evaluating":
            self.tell(trial_id, {"state": "evaluating"})
        self.heard[trial_id] = time.monotonic()
        self.pace.evaluate(trial_id, time.monotonic())

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.pace.begin(_trial_id(trial), time.monotonic())

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.tell(_trial_id(trial), result)

    def tell(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Show a report of a trial, or one about a trial that is claimed elsewhere."""
        self.heard[trial_id] = time.monotonic()
        self.pace.report(trial_id, result, time.monotonic())
        if "step" in result:
            before = self.latest.get(trial_id, {}).get("step", 0)
            if result["step"] <= before:
                self._print(
                    trial_id,
                    f"a worker died at step {before} or later; the trial resumed from its checkpoint and is at step "
                    f"{result['step']}",
                )
        if "owner" in result:
            # The other process may be at an earlier step than this sweep has seen.
            self.latest[trial_id] = {}
        # Later reports have no numbers, and most have no score: the last ones stay in the table.
        before = self.latest.get(trial_id, {})
        if result.get("val_linear_top1", 0) is None:
            result = {key: value for key, value in result.items() if key != "val_linear_top1"}
        elif "val_linear_top1" in result:
            result = {**result, "scored_step": result["step"]}
        self.latest[trial_id] = {key: value for key, value in before.items() if key not in _OF_ONE_REPORT} | dict(
            result
        )
        (self.done.add if _is_done(self.latest[trial_id]) else self.done.discard)(trial_id)
        self._print_latest(trial_id)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        trial_id = _trial_id(trial)
        self.pace.report(trial_id, {"state": "failed"}, time.monotonic())
        self.latest[trial_id] = self.latest.get(trial_id, {}) | {"state": "failed", "error": "its processes died"}
        self.done.add(trial_id)
        self._print_latest(trial_id)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        trial_id = _trial_id(trial)
        if "step_saved" not in self.latest.get(trial_id, {}):
            self._print(trial_id, "its process died and is restarted; it resumes from its last checkpoint")

    def _print(self, trial_id: str, text: str) -> None:
        elapsed = time.monotonic() - self.started
        self.console.print(
            f"[{elapsed:5.0f} s] {trial_id} {self.labels[trial_id]}: {text}", markup=False, soft_wrap=True
        )

    def _print_silence(self, trial_id: str, state: str) -> None:
        self._print(trial_id, f"no report for {duration(_SILENT_SECONDS)}: {_SILENT.get(state, state)}")

    def _print_latest(self, trial_id: str) -> None:
        latest = self.latest[trial_id]
        state, was_stopped = latest.get("state", "training"), {"step_saved", "on_request"} & set(latest)
        if self.console.is_terminal and state != "failed" and not was_stopped:
            return
        now = time.monotonic()
        if now - self.printed.get((trial_id, state), float("-inf")) < _LINE_SECONDS.get(state, 0):
            return
        self.printed[trial_id, state] = now
        if "on_request" in latest:
            text = f"stopped by `mdssl stop`; after `mdssl retry {trial_id}` the same sweep trains it further"
        elif was_stopped:
            text = f"its process got SIGTERM; it resumes from its checkpoint of step {latest['step_saved']}"
        elif state == "training":
            text = (
                f"step {latest['step']}/{latest['iterations']}  loss {latest['loss']:.3f} = "
                f"align {latest['alignment']:.3f}, within {latest['within']:.3f}, across {latest['across']:.3f}  "
                f"{latest['views_per_second']:,.0f} views/s  ETA {duration(latest['eta_seconds'])}{_validation(latest)}"
            )
        elif latest.get("ended_early"):
            # Another sweep may have trained it.
            where = f" after step {latest['step']}/{latest['iterations']}" if "step" in latest else ""
            text = f"stopped early{where}{_validation(latest)}"
        elif state == "queued":
            text = f"queued: waiting for {latest['owner']}, which is at step {latest['reached']} or later"
        else:
            text = f"failed: {latest.get('error')}" if state == "failed" else state
        total = len(self.configs) + self.to_come()
        self._print(trial_id, f"{text}  [sweep {len(self.done)}/{total}, ETA {self._sweep_eta()}]")

    def _sweep_eta(self) -> str:
        """Return ``5m36s``, or ``~5m36s`` while the time of an evaluation is not known.

        It grows with the number of trials, and is computed again when it would take a 20th of the time.
        """
        if time.monotonic() - self.eta_at >= 20 * self.eta_cost:
            began = time.monotonic()
            seconds, is_rough = self.pace.left(time.monotonic(), self.to_come())
            self.eta = "?" if seconds is None else f"{'~' * is_rough}{duration(seconds)}"
            self.eta_at = time.monotonic()
            self.eta_cost = self.eta_at - began
        return self.eta

    def _table(self) -> Table:
        caption = f"{duration(time.monotonic() - self.started)} so far, ETA {self._sweep_eta()}"
        scored = {trial_id: latest for trial_id, latest in self.latest.items() if "scored_step" in latest}
        if scored:
            # The best of the trials with the most steps: scores rise with steps.
            ahead = max(
                scored, key=lambda trial_id: (scored[trial_id]["scored_step"], scored[trial_id]["val_linear_top1"])
            )
            caption += f"; ahead: {self.labels[ahead]},{_validation(scored[ahead])}"
        table = Table(caption=Text(caption), box=None)
        table.add_column("trial", no_wrap=True)
        table.add_column("")
        terms = _TERMS if self.console.width >= _WIDE else {"loss": "loss"}
        names = ("state", "step", *["validation"] * bool(scored), *terms, "views/s", "ETA")
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        states = {
            trial_id: self.latest[trial_id].get("state", "training") if trial_id in self.latest else "queued"
            for trial_id in self.labels
        }
        # What changes comes first: a row costs time at each refresh, and the terminal shows no more than its height.
        ordered = sorted(states, key=lambda trial_id: _SHOWN_FIRST.get(states[trial_id], len(_SHOWN_FIRST)))
        room = max(self.console.height - _LINES_AROUND, 1)
        shown = list(states) if len(states) <= room else ordered[:room]
        for trial_id in shown:
            latest, label = self.latest.get(trial_id, {}), self.labels[trial_id]
            cells = [trial_id, label, states[trial_id]]
            if "step" in latest:
                cells += [f"{latest['step']}/{latest['iterations']}"]
                cells += [_validation(latest).removeprefix("  validation ")] * bool(scored)
                cells += [f"{latest[term]:.3f}" for term in terms.values()]
                cells += [f"{latest['views_per_second']:,.0f}", duration(latest["eta_seconds"])]
            elif "owner" in latest:
                cells = [trial_id, label, f"queued: waiting for {latest['owner']}", str(latest["reached"])]
            table.add_row(*map(Text, cells))
        if hidden := Counter(states[trial_id] for trial_id in ordered[len(shown) :]):
            table.add_row("", Text(f"and {', '.join(f'{count:,} {state}' for state, count in hidden.items())}"))
        return table


def _is_done(latest: dict[str, Any]) -> bool:
    return latest.get("state") in ("finished", "failed") or "ended_early" in latest


def _validation(latest: dict[str, Any]) -> str:
    return f"  validation {latest['val_linear_top1']:.1f} at {latest['scored_step']}" if "scored_step" in latest else ""


def _trial_id(trial: Any) -> str:
    return TrialConfig.from_dict(trial.config["work"]["trial"]).trial_id
