"""What every trial is doing, told by the storage alone: from any machine, without Ray, while sweeps run or after."""

from __future__ import annotations

import io
import json
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.opening import results_in, trial_ids
from mdssl.storage import trial_log
from mdssl.storage.claim import DEAD_SECONDS, Owner, holder_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.describe import duration, labels
from mdssl.tables.drawing import TextColumn, TextTable
from mdssl.terminal import Terminal

STATES = ("failed", "dead", "silent", "stopped", "training", "trained", "probing", "finished")
"""In the order in which they are shown: what needs somebody first."""
WATCH_SECONDS = 5.0
_READERS = 16
_LABEL_WIDTH = 20
"""Of a trial's words, which go on in the next line: all fits into 80 columns."""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial.

    Attributes:
        config: what it is.
        state: ``finished`` (it has scores), ``trained`` (its encoder waits for its scores) and ``probing`` (it gets
            them), ``training``, ``stopped`` (nobody works on it; its sweep goes on with it when started again),
            ``silent`` (whoever has it did not renew its claim for a minute, by this machine's clock), ``dead`` (whoever
            has it is known to be gone) or ``failed``.
        step: steps done at the last checkpoint.
        loss, views_per_second: of the last report before that; None before the first.
        scores: evaluation datasets with a finished score.
        seconds_ago: since its last sign of life, by this machine's clock; None of a finished trial.
        error: why it failed, its first line.
        holder: the process that has it, as host:pid and sweep; for a nested trial that which started its workers.
        host, device, workers: where it trains, or did last.
        log: the folder of what its processes logged, empty where there is none.
    """

    config: TrialConfig
    state: str
    step: int = 0
    loss: float | None = None
    views_per_second: float | None = None
    scores: int = 0
    seconds_ago: float | None = None
    error: str = ""
    holder: str = ""
    host: str = ""
    device: str = ""
    workers: int | None = None
    log: str = ""

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of training that are left at the speed of the last report; None where nothing trains."""
        if self.state != "training" or not self.views_per_second:
            return None
        domains = self.config.num_clusters if METHODS[self.config.method].finds_domains else len(self.config.domains)
        views_per_step = 2 * domains * self.config.batch_per_domain
        return (self.config.iterations - self.step) * views_per_step / self.views_per_second


def trial_statuses(storage: str | Location) -> list[TrialStatus]:
    """Every trial that the storage knows, those that need somebody first.

    Raises:
        ValueError: there is no such storage; a file of the leaderboard is not one of its own.
    """
    storage = results_in(storage)
    rows = leaderboard.read(storage)
    of_trial = dict(list(rows.groupby("trial_id")))
    names = dict.fromkeys([*of_trial, *trial_ids(storage)])
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda trial_id: _status(storage, trial_id, of_trial.get(trial_id)), names)
        return sorted(filter(None, found), key=lambda trial: STATES.index(trial.state))


def print_status(storage: str | Location, console: Console | None = None) -> None:
    """Print how many trials are in which state, a line for each that is not finished, where those are that somebody
    works on, and why what failed did.

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
            "": (["\n".join(textwrap.wrap(names[trial.config.trial_id], _LABEL_WIDTH)) for trial in shown], False),
            "state": ([trial.state for trial in shown], False),
            "step": ([f"{trial.step}/{trial.config.iterations}" for trial in shown], True),
            "loss": ([_or_dash(trial.loss, "{:.3f}".format) for trial in shown], True),
            "views/s": ([_or_dash(trial.views_per_second, "{:,.0f}".format) for trial in shown], True),
            "ETA": ([_or_dash(trial.eta_seconds, duration) for trial in shown], True),
            "seen": ([_or_dash(trial.seconds_ago, duration) for trial in shown], True),
        }
        console.print(
            TextTable([TextColumn(name, cells, right=right) for name, (cells, right) in columns.items()]), crop=False
        )
    for trial in shown:
        if trial.holder or (trial.host and trial.state != "trained"):
            console.print(f"{trial.config.trial_id} {_where(trial)}", markup=False, soft_wrap=True)
    for trial in shown:
        if trial.error:
            log = f"; log: {trial.log}" if trial.log else ""
            console.print(f"{trial.config.trial_id} failed: {trial.error}{log}", markup=False, soft_wrap=True)


def watch_status(storage: str | Location) -> None:
    """Print the status every `WATCH_SECONDS`; on a terminal in the place of the one before. Ends by Ctrl-C.

    Raises:
        ValueError: as `trial_statuses`.
    """
    console = Terminal()
    while True:
        # Whole before the one that is shown is cleared: reading takes a while.
        with console.capture() as capture:
            print_status(storage, console)
        console.clear()
        print(capture.get(), end="", flush=True)
        time.sleep(WATCH_SECONDS)


def print_json(storage: str | Location) -> None:
    """Print a list with an object for each trial: the attributes of `TrialStatus`, ``trial_id`` and ``eta_seconds``.

    Raises:
        ValueError: as `trial_statuses`.
    """
    trials = trial_statuses(storage)
    names = labels(trial.config for trial in trials)
    entries = [
        {"trial_id": trial.config.trial_id, "label": names[trial.config.trial_id], "eta_seconds": trial.eta_seconds}
        | asdict(trial)
        | {"config": trial.config.to_dict()}
        for trial in trials
    ]
    print(json.dumps(entries, indent=2))


def _where(trial: TrialStatus) -> str:
    """``on gpu3 (NVIDIA H200, 4 workers), held by head:4711 (lambda_grid)``"""
    parts = []
    if trial.host:
        workers = f", {trial.workers} workers" if trial.workers and trial.workers > 1 else ""
        was = "" if trial.state == "training" else "was "
        parts.append(f"{was}on {trial.host} ({trial.device}{workers})")
    if trial.holder:
        parts.append(f"held by {trial.holder}")
    return ", ".join(parts)


def _status(storage: Location, trial_id: str, rows: pd.DataFrame | None) -> TrialStatus | None:
    """None for a folder that is no trial's."""
    scores = 0 if rows is None else int((rows["status"] == "finished").groupby(rows["eval_dataset"]).any().sum())
    folder, error = trial_dir_in(storage, trial_id), ""
    if rows is not None:
        config = TrialConfig.from_dict(json.loads(rows["config_json"].iloc[0])["trial"])
        failed = rows[rows["status"] == "failed"]
        if failed.empty:
            return TrialStatus(config=config, state="finished", step=config.iterations, scores=scores)
        error = _first_line(failed["error"].iloc[0])
    else:
        config = _read(folder / "config.json", lambda data: TrialConfig.from_dict(json.loads(data)))
        if config is None:
            return None
    ended = _read(folder / "training.json", json.loads) or {}
    listing = folder.listing()
    last = _read(folder / "metrics.parquet", _last_row) or {}
    run = _read(folder / "run.json", json.loads) or {}
    holder = holder_of(folder)
    written = {name: (info.mtime_ns or 0) / 1e9 for name, info in listing.items()}
    step, is_trained = last.get("step", 0), ended.get("status") == "finished"
    if ended.get("status") == "failed":
        step, error = ended["step"], error or _first_line(ended["error"])
    if holder:
        renewed = max((at for name, at in written.items() if name.startswith("claim")), default=time.time())
        state = _state_of(holder, time.time() - renewed, is_trained)
        if state in ("training", "probing"):
            error = ""  # it is being tried again
    else:
        state = "trained" if is_trained else "stopped"
    return TrialStatus(
        config=config,
        state="failed" if error else state,
        step=step,
        loss=last.get("loss"),
        views_per_second=last.get("views_per_second"),
        scores=scores,
        seconds_ago=max(0.0, time.time() - max(written.values())) if written else None,
        error=error,
        holder=str(holder or ""),
        host=run.get("host", ""),
        device=run.get("device", ""),
        workers=run.get("workers"),
        log=(folder / trial_log.FOLDER).uri if trial_log.FOLDER in listing else "",
    )


def _state_of(holder: Owner, seconds: float, is_trained: bool) -> str:
    """Of a trial whose claim was renewed ``seconds`` ago."""
    if holder.is_gone():
        return "dead"
    if seconds > DEAD_SECONDS:
        return "silent"
    return "probing" if is_trained else "training"


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
