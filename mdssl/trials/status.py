"""The state of every trial, from the storage alone: on any machine, without Ray, during sweeps or after them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.config.presets import place_flags
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.files import results_in, trial_ids
from mdssl.leaderboard.names import mixture_of
from mdssl.storage import trial_log
from mdssl.storage.claim import DEAD_SECONDS, holder_of
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import stop_request, stopped_early, trial_dir_in
from mdssl.trials.describe import State, duration
from mdssl.trials.eta import views_of

STATES: tuple[State, ...] = ("failed", "stopped", "training", "evaluating", "finished")
"""In the order of display: trials that need attention first."""


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """One trial.

    Attributes:
        config: what it is.
        state: ``failed``, ``stopped`` (no living process works on it: it was interrupted, and its sweep resumes it when
            started again, or ``unscored`` is set, or ``stopped_early`` is not empty), ``training``, ``evaluating``
            (its encoder is trained and being scored) or ``finished`` (it has its scores). Trials that were not started
            are not listed.
        mixture: its domains as tables show them, with what sets them apart from the published datasets.
        step: steps done at the last checkpoint.
        loss, views_per_second: of the last report before that; None before the first.
        scores: evaluation datasets with a finished score.
        eval_seconds: how long the scores of a finished trial took together; None of others, and if it is not known.
        seconds_ago: since its last update, by this machine's clock; None of a finished trial.
        error: why it failed, its first line.
        unscored: whether it is trained completely but has no scores, and no living process makes them; its state is
            ``stopped``.
        stopped_early: where a scheduler or `mdssl stop` ended it, in words; empty of any other trial.
        holder: the process that has it, as host:pid and sweep; for a nested trial, the one that started its workers.
        lost: why the process that has it no longer works on it: ``died``, or ``has not responded for 10m00s`` (it did
            not renew its claim, by this machine's clock); empty while it lives.
        host, device, workers: where it trains, or did last.
        log: the folder of what its processes logged, empty where there is none.
    """

    config: TrialConfig
    state: State
    mixture: str = ""
    step: int = 0
    loss: float | None = None
    views_per_second: float | None = None
    scores: int = 0
    eval_seconds: float | None = None
    seconds_ago: float | None = None
    error: str = ""
    unscored: bool = False
    stopped_early: str = ""
    holder: str = ""
    lost: str = ""
    host: str = ""
    device: str = ""
    workers: int | None = None
    log: str = ""

    @property
    def eta_seconds(self) -> float | None:
        """Seconds of training that are left at the speed of the last report; None where nothing trains."""
        if self.state != "training" or not self.views_per_second:
            return None
        return views_of(self.config, self.config.iterations - self.step) / self.views_per_second


def trial_statuses(storage: str | Location, unreadable: list[str] | None = None) -> list[TrialStatus]:
    """List all trials in the storage, those that need attention first.

    Args:
        unreadable: gets a message for each trial that cannot be read, and the others are listed.

    Raises:
        InputError: the storage does not exist, or a file of the leaderboard is invalid; without ``unreadable`` also for
            a trial whose files are damaged or of a newer version of this package.
    """
    place = results_in(storage)
    of_trial = dict(list(leaderboard.with_settings(leaderboard.read(place)).groupby("trial_id")))

    def read(trial_id: str) -> TrialStatus | None:
        try:
            return trial_status(place, trial_id, of_trial.get(trial_id))
        except InputError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
            return None

    found = in_threads(read, dict.fromkeys([*map(str, of_trial), *trial_ids(place)]))
    trials = [trial for trial in found if trial]
    # The variants of its domains are recorded when a trial ends. Other trials on the same images give them before.
    known = {trial.config.data_fingerprint: trial.mixture for trial in trials if trial.mixture}
    trials = [
        replace(trial, mixture=trial.mixture or known.get(trial.config.data_fingerprint, trial.config.train_mixture))
        for trial in trials
    ]
    return sorted(trials, key=lambda trial: STATES.index(trial.state))


def trial_status(storage: Location, trial_id: str, rows: pd.DataFrame | None = None) -> TrialStatus | None:
    """The status of the trial with these ``rows``, None if it has none; None for a folder that is no trial's."""
    scores = 0 if rows is None else int((rows["status"] == "finished").groupby(rows["eval_dataset"]).any().sum())
    folder, error, mixture = trial_dir_in(storage, trial_id), "", ""
    if rows is not None:
        config = _config(f"trial {trial_id} on the leaderboard", json.loads(rows["config_json"].iloc[0])["trial"])
        failed, mixture = rows[rows["status"] == "failed"], rows["train_mixture"].iloc[0]
        if failed.empty and scores:
            took = rows["eval_seconds"].sum(min_count=1)
            done = dict(step=config.iterations, scores=scores, mixture=mixture)
            return TrialStatus(config=config, state="finished", eval_seconds=None if pd.isna(took) else took, **done)
        error = "" if failed.empty else _first_line(failed["error"].iloc[0])
    else:
        settings = _read(folder / "config.json", json.loads)
        if settings is None:
            return None
        config = _config((folder / "config.json").uri, settings)
    ended = _read(folder / "training.json", json.loads) or {}
    written = {name: (info.mtime_ns or 0) / 1e9 for name, info in folder.listing().items()}
    last = _read(folder / "metrics.parquet", _last_row) or {}
    run = _read(folder / "run.json", json.loads) or {}
    step = ended["step"] if ended.get("status") in ("failed", "stopped") else last.get("step", 0)
    if ended.get("status") == "failed":
        error = error or _first_line(ended["error"])
    early = stopped_early(trial_id, ended) if ended.get("status") == "stopped" else ""
    if early and stop_request(folder).name in written:
        retry = f"`mdssl retry {trial_id}{place_flags(storage)}`"
        early += f" by `mdssl stop`; after {retry} the same command trains it further"
    if "variants" in ended:
        mixture = mixture or mixture_of(config.train_mixture, ended["variants"])
    state: State = "stopped"
    lost = ""
    if holder := holder_of(folder):
        renewed = max((at for name, at in written.items() if name.startswith("claim")), default=time.time())
        silent = time.time() - renewed
        if holder.is_gone():
            lost = "died"
        elif silent > DEAD_SECONDS:
            lost = f"has not responded for {duration(silent)}"
        else:
            # A trial that failed before is being tried again.
            state, error, early = "evaluating" if ended.get("status") == "finished" else "training", "", ""
            step = last.get("step", 0)
    state = "failed" if error else state
    return TrialStatus(
        config=config,
        state=state,
        mixture=mixture,
        step=step,
        loss=last.get("loss"),
        views_per_second=last.get("views_per_second"),
        scores=scores,
        seconds_ago=max(0.0, time.time() - max(written.values())) if written else None,
        error=error,
        unscored=state == "stopped" and ended.get("status") == "finished",
        stopped_early=early,
        holder=str(holder or ""),
        lost=lost,
        host=run.get("host", ""),
        device=run.get("device", ""),
        workers=run.get("workers"),
        log=(folder / trial_log.FOLDER).uri if trial_log.FOLDER in written else "",
    )


def _config(where: str, settings: dict[str, Any]) -> TrialConfig:
    try:
        return TrialConfig.from_dict(settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _read(file: Location, parse: Callable[[bytes], Any]) -> Any:
    """Apply ``parse`` to the content of a file; None if it does not exist.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return parse(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"{file} is damaged ({error}); delete it, and the same sweep writes a new one.") from error


def _last_row(data: bytes) -> dict[str, Any]:
    rows = pq.read_table(io.BytesIO(data)).to_pylist()
    return rows[-1] if rows else {}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
