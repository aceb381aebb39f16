"""The trials of a search or of a grid in the storage, from any sweep."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import pyarrow.parquet as pq

from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.board import read_rows
from mdssl.leaderboard.columns import Row
from mdssl.leaderboard.files import trial_ids
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.settings import SweepSettings


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial.

    Attributes:
        status: finished, stopped (ended early by a scheduler), failed, or training (no row yet, whether a process
            works on it or not).
        started_at: when it began, ISO 8601; empty without a row.
        value: the mean over the evaluation datasets of the probe's validation score at the end, percent; None of a
            trial that is not finished, or whose rows lack it.
        scores: by step, the mean over the evaluation datasets of the validation scores while it trained, percent.
    """

    config: TrialConfig
    status: Literal["finished", "stopped", "failed", "training"]
    started_at: str = ""
    value: float | None = None
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def last_score(self) -> float:
        """The newest score while it trained; minus infinity where there is none."""
        return self.scores[max(self.scores)] if self.scores else float("-inf")


class History:
    """The trials in the storage that ``belongs`` accepts, by id. Read once; `refresh` and `update` add."""

    def __init__(self, storage: Location, settings: SweepSettings, belongs: Callable[[TrialConfig], bool]):
        self.storage, self.settings, self.belongs = storage, settings, belongs
        self.trials: dict[str, Observation] = {}
        self._others: set[str] = set()
        rows = leaderboard.read(storage)
        wanted: list[tuple[str, list[Any]]] = [
            (str(trial_id), own.to_dict("records"))
            for trial_id, own in rows.groupby("trial_id")
            if self._is_own(str(trial_id), json.loads(own["config_json"].iloc[0])["trial"])
        ]
        self.trials |= in_threads(lambda each: (each[0], self._observed(*each)), wanted)
        self.refresh()

    def ordered(self) -> list[Observation]:
        """In the order in which the trials began, those without a row last. It is the same after a restart."""
        return sorted(self.trials.values(), key=lambda each: (each.started_at or "~", each.config.trial_id))

    def refresh(self) -> None:
        """Read trials that other processes have started or ended meanwhile."""
        begun = [trial_id for trial_id, known in self.trials.items() if known.status == "training"]
        new = [name for name in trial_ids(self.storage) if name not in self.trials and name not in self._others]
        configs = dict(zip(new, in_threads(self._config_of, new), strict=True))
        own = [name for name, values in configs.items() if values and self._is_own(name, values)]
        for trial_id in own + begun:
            self.update(trial_id)

    def begin(self, config: TrialConfig) -> None:
        """Note a trial that this sweep starts."""
        self.trials.setdefault(config.trial_id, Observation(config=config, status="training"))

    def update(self, trial_id: str) -> None:
        """Read one trial again."""
        rows = read_rows(self.storage, trial_id)
        self.trials[trial_id] = self._observed(trial_id, rows)

    def _config_of(self, trial_id: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((trial_dir_in(self.storage, trial_id) / "config.json").read_bytes())
            return found
        except (FileNotFoundError, ValueError):
            # It begins at this moment, or is damaged, which the trial itself reports.
            return None

    def _is_own(self, trial_id: str, values: dict[str, Any]) -> bool:
        try:
            config = TrialConfig.from_dict(values)
        except InputError:
            # Of a later version, with unknown settings.
            own = False
        else:
            own = config.trial_id == trial_id and self.belongs(config)
            if own:
                self.begin(config)
        if not own:
            self._others.add(trial_id)
        return own

    def _observed(self, trial_id: str, rows: Iterable[Row]) -> Observation:
        config, rows = self.trials[trial_id].config, list(rows)
        scores = self._scores_of(trial_id)
        statuses = {row["status"] for row in rows}
        if not rows:
            return Observation(config=config, status="training", scores=scores)
        started_at = min(str(row["started_at"]) for row in rows)
        if statuses == {"failed"} or any(row["status"] == "failed" and pd.isna(row["eval_dataset"]) for row in rows):
            return Observation(config=config, status="failed", started_at=started_at, scores=scores)
        finished = [row for row in rows if row["status"] == "finished"]
        return Observation(
            config=config,
            status="finished" if finished else "stopped",
            started_at=started_at,
            value=self._value_of(finished),
            scores=scores,
        )

    def _value_of(self, rows: list[Row]) -> float | None:
        probe, layer = self.settings.probe_config.each()[0].name, self.settings.features[0]
        found = {
            row["eval_dataset"]: row["val_top1"]
            for row in rows
            if row["probe"] == probe and row["features"] == layer and _is_number(row.get("val_top1"))
        }
        return _mean_over(self.settings.evaluate, found)

    def _scores_of(self, trial_id: str) -> dict[int, float]:
        try:
            data = (trial_dir_in(self.storage, trial_id) / "metrics.parquet").read_bytes()
        except FileNotFoundError:
            return {}
        table = pq.read_table(io.BytesIO(data))
        columns = [f"val_linear_top1/{name}" for name in self.settings.evaluate]
        if not set(columns) <= set(table.column_names):
            return {}
        rows = table.select(["step", *columns]).to_pylist()
        means = {
            row["step"]: _mean_over(columns, {key: row[key] for key in columns if _is_number(row[key])}) for row in rows
        }
        return {step: mean for step, mean in means.items() if mean is not None}


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and value == value


def _mean_over(names: Iterable[str], values: dict[str, float]) -> float | None:
    """The mean of the values of all ``names``; None if one is missing."""
    names = list(names)
    return sum(values[name] for name in names) / len(names) if set(names) <= set(values) else None
