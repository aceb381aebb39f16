"""What `mdssl status` prints: the state of trials as a table, as JSON, or again every few seconds."""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console

from mdssl.config.presets import place_flags
from mdssl.errors import some_of
from mdssl.storage.location import Location
from mdssl.tables.terminal_table import TextColumn, TextTable
from mdssl.terminal import Terminal
from mdssl.trials.describe import duration, labels
from mdssl.trials.eta import Left, eta
from mdssl.trials.status import STATES, TrialStatus, trial_statuses

WATCH_SECONDS = 5.0
_LABEL_WIDTH = 20
"""Width of a trial's label, which is wrapped so that the table has 80 columns."""


def print_status(storage: str | Location, console: Console | None = None) -> None:
    """Print how many trials are in which state, a line for each that is not finished, and why they failed or stopped.

    Raises:
        ValueError: as `trial_statuses`.
    """
    console, unreadable = console or Terminal(), list[str]()
    trials = trial_statuses(storage, unreadable)
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"
    summary += f", {len(unreadable)} unreadable" if unreadable else ""
    console.print(f"{Location.of(storage).uri}: {summary}{_eta(trials)}", markup=False, soft_wrap=True)
    shown, names = [trial for trial in trials if trial.state != "finished"], _labels(trials)
    if shown:
        console.print(_table(shown, names), crop=False)
    for line in [*_reasons(shown, storage), *sorted(unreadable)]:
        console.print(line, markup=False, soft_wrap=True)


def watch_status(storage: str | Location) -> None:
    """Print the status every `WATCH_SECONDS`; on a terminal in the place of the one before. Ends by Ctrl-C.

    Raises:
        ValueError: as `trial_statuses`.
    """
    console = Terminal()
    while True:
        # The old status stays on the screen until the new one is complete, because reading takes a while.
        with console.capture() as capture:
            print_status(storage, console)
        console.clear()
        print(capture.get(), end="", flush=True)
        time.sleep(WATCH_SECONDS)


def print_json(storage: str | Location) -> None:
    """Print a list with an object for each trial: the attributes of `TrialStatus`, ``trial_id`` and ``eta_seconds``.

    Trials that cannot be read are named on stderr.

    Raises:
        ValueError: as `trial_statuses`.
    """
    unreadable: list[str] = []
    trials = trial_statuses(storage, unreadable)
    names = _labels(trials)
    entries = [
        {"trial_id": trial.config.trial_id, "label": names[trial.config.trial_id], "eta_seconds": trial.eta_seconds}
        | asdict(trial)
        | {"config": trial.config.to_dict()}
        for trial in trials
    ]
    print(json.dumps(entries, indent=2))
    for line in sorted(unreadable):
        print(line, file=sys.stderr)


def _eta(trials: list[TrialStatus]) -> str:
    """``; ETA 5m36s of these``: when the trials that train or are evaluated have their scores, as long as others took.

    Trials that a sweep has not started are not included.
    """
    running = [trial for trial in trials if trial.state in ("training", "evaluating")]
    if not running or any(trial.state == "training" and trial.eta_seconds is None for trial in running):
        return ""
    took = [trial.eval_seconds for trial in trials if trial.eval_seconds is not None]
    evaluate = statistics.median(took) if took else 0.0
    training = [Left(trial.eta_seconds or 0.0, evaluate) for trial in running if trial.state == "training"]
    seconds = eta(training, slots=max(1, len(training)), waiting=[evaluate] * (len(running) - len(training)))
    return f"; ETA {'' if took else 'over '}{duration(seconds)} for running trials"


def _table(trials: list[TrialStatus], names: dict[str, str]) -> TextTable:
    texts: dict[str, list[str]] = {
        "trial": [trial.config.trial_id for trial in trials],
        "": ["\n".join(textwrap.wrap(names[trial.config.trial_id], _LABEL_WIDTH)) for trial in trials],
        "state": [trial.state for trial in trials],
    }
    numbers = {
        "step": [f"{trial.step}/{trial.config.iterations}" for trial in trials],
        "loss": [_or_dash(trial.loss, "{:.3f}".format) for trial in trials],
        "views/s": [_or_dash(trial.views_per_second, "{:,.0f}".format) for trial in trials],
        "ETA": [_or_dash(trial.eta_seconds, duration) for trial in trials],
        "last\nupdate": [_or_dash(trial.seconds_ago, duration) for trial in trials],
    }
    return TextTable([TextColumn(name, cells, right=name in numbers) for name, cells in (texts | numbers).items()])


def _reasons(trials: list[TrialStatus], storage: str | Location) -> list[str]:
    """Return lines: where each trial runs, why it failed or stopped, and what continues it."""
    lines = [f"{trial.config.trial_id} {where}" for trial in trials if (where := _where(trial))]
    failed = [trial for trial in trials if trial.error]
    lines += [f"{trial.config.trial_id} failed: {trial.error}{trial.log and f'; log: {trial.log}'}" for trial in failed]
    lines += [trial.stopped_early for trial in trials if trial.stopped_early]
    scores = f"`mdssl probe TRIAL_ID{place_flags(storage)}` scores it (a sweep that has it does so, too)"
    left = [trial for trial in trials if trial.state == "stopped" and not trial.stopped_early]
    groups = {True: f"trained, without scores; {scores}", False: "interrupted, and resumed by the same command"}
    for is_unscored, text in groups.items():
        if found := [trial.config.trial_id for trial in left if trial.unscored == is_unscored]:
            lines.append(f"{text}: {some_of(found, 8)}")
    return lines


def _labels(trials: list[TrialStatus]) -> dict[str, str]:
    mixtures = {trial.config.trial_id: trial.mixture for trial in trials}
    return labels((trial.config for trial in trials), mixtures)


def _where(trial: TrialStatus) -> str:
    """``on gpu3 (NVIDIA H200, 4 workers), claimed by head:4711 (lambda_grid)``"""
    parts = []
    if trial.host:
        workers = f", {trial.workers} workers" if trial.workers and trial.workers > 1 else ""
        was = "" if trial.state == "training" else "was "
        parts.append(f"{was}on {trial.host} ({trial.device}{workers})")
    if trial.holder:
        parts.append(f"claimed by {trial.holder}" + (f", which {trial.lost}" if trial.lost else ""))
    return ", ".join(parts)


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)
