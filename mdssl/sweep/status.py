"""What every trial is doing, told by the storage alone: from any machine, without Ray, while sweeps run or after."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from mdssl.config import CLUSTERED, TrialConfig
from mdssl.errors import InputError
from mdssl.results import leaderboard
from mdssl.results.drawing import TextColumn, TextTable
from mdssl.storage import Location
from mdssl.sweep.describe import duration, labels
from mdssl.terminal import Terminal

STATES = ("failed", "silent", "training", "trained", "finished")
"""In the order in which they are shown: what needs somebody first."""
_SILENT_AFTER_SECONDS = 180
"""Six times the usual time between two checkpoints, each of which renews ``metrics.parquet``."""
_READERS = 16


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial.

    Attributes:
        config: what it is.
        state: ``finished`` (it has scores), ``trained`` (its encoder waits for its scores), ``training``, ``silent``
            (nothing was written for minutes: it waits, or its process is gone) or ``failed``.
        step: steps done at the last checkpoint.
        loss, views_per_second: of the last report before that; None before the first.
        scores: evaluation datasets with a finished score.
        seconds_ago: since its last sign of life, by this machine's clock; None of a finished trial.
        error: why it failed, its first line.
    """

    config: TrialConfig
    state: str
    step: int = 0
    loss: float | None = None
    views_per_second: float | None = None
    scores: int = 0
    seconds_ago: float | None = None
    error: str = ""

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of training that are left at the speed of the last report; None where nothing trains."""
        if self.state != "training" or not self.views_per_second:
            return None
        domains = self.config.num_clusters if self.config.method in CLUSTERED else len(self.config.domains)
        views_per_step = 2 * domains * self.config.batch_per_domain
        return (self.config.iterations - self.step) * views_per_step / self.views_per_second


def trial_statuses(storage: str | Location) -> list[TrialStatus]:
    """Every trial that the storage knows, those that need somebody first.

    Raises:
        ValueError: a file of the leaderboard is not one of its own.
    """
    storage = Location.of(storage)
    rows = leaderboard.read(storage)
    of_trial = dict(list(rows.groupby("trial_id")))
    names = dict.fromkeys([*of_trial, *(storage / "trials").names()])
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda trial_id: _status(storage, trial_id, of_trial.get(trial_id)), names)
        return sorted(filter(None, found), key=lambda trial: STATES.index(trial.state))


def print_status(storage: str | Location, console: Console | None = None) -> None:
    """Print how many trials are in which state, a line for each that is not finished, and why what failed did.

    Raises:
        ValueError: as `trial_statuses`.
    """
    console = console or Terminal()
    trials = trial_statuses(storage)
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"
    console.print(f"{Location.of(storage).uri}: {summary}", markup=False, soft_wrap=True)
    shown = [trial for trial in trials if trial.state != "finished"]
    if shown:
        names = labels(trial.config for trial in trials)
        columns = {
            "trial": ([trial.config.trial_id for trial in shown], False),
            "": ([names[trial.config.trial_id] for trial in shown], False),
            "state": ([trial.state for trial in shown], False),
            "step": ([f"{trial.step}/{trial.config.iterations}" for trial in shown], True),
            "loss": ([_or_dash(trial.loss, "{:.3f}".format) for trial in shown], True),
            "views/s": ([_or_dash(trial.views_per_second, "{:,.0f}".format) for trial in shown], True),
            "ETA": ([_or_dash(trial.eta_seconds, duration) for trial in shown], True),
            "last sign": ([_or_dash(trial.seconds_ago, lambda ago: f"{duration(ago)} ago") for trial in shown], True),
        }
        console.print(
            TextTable([TextColumn(name, cells, right=right) for name, (cells, right) in columns.items()]), crop=False
        )
    for trial in shown:
        if trial.error:
            console.print(f"{trial.config.trial_id} failed: {trial.error}", markup=False, soft_wrap=True)


def _status(storage: Location, trial_id: str, rows: pd.DataFrame | None) -> TrialStatus | None:
    """None for a folder that is no trial's."""
    scores = 0 if rows is None else int((rows["status"] == "finished").groupby(rows["eval_dataset"]).any().sum())
    if rows is not None:
        config = TrialConfig.from_dict(json.loads(rows["config_json"].iloc[0])["trial"])
        failed = rows[rows["status"] == "failed"]
        if len(failed):
            return TrialStatus(config=config, state="failed", scores=scores, error=_first_line(failed["error"].iloc[0]))
        return TrialStatus(config=config, state="finished", step=config.iterations, scores=scores)
    folder = storage / "trials" / trial_id
    config = _read(folder / "config.json", lambda data: TrialConfig.from_dict(json.loads(data)))
    if config is None:
        return None
    ended = _read(folder / "training.json", json.loads) or {}
    if ended.get("status") == "failed":
        return TrialStatus(config=config, state="failed", step=ended["step"], error=_first_line(ended["error"]))
    last = _read(folder / "metrics.parquet", _last_row) or {}
    written = max((info.mtime_ns or 0) for info in folder.listing().values())
    ago = max(0.0, time.time() - written / 1e9)
    running = "training" if ago < _SILENT_AFTER_SECONDS else "silent"
    return TrialStatus(
        config=config,
        state="trained" if ended else running,
        step=last.get("step", 0),
        loss=last.get("loss"),
        views_per_second=last.get("views_per_second"),
        seconds_ago=ago,
    )


def _read(file: Location, parse: Callable[[bytes], Any]) -> Any:
    """What ``parse`` makes of a file, None where it is not there.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return parse(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"{file} is damaged ({error}); delete it, and its sweep makes it anew.") from error


def _last_row(data: bytes) -> dict[str, Any]:
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows[-1] if rows else {}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)
