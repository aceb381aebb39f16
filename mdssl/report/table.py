"""The report's table: a row for each trial and way of scoring it, its scores by evaluation dataset side by side."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from mdssl.tables.sweep_table import sweep_table

NOTHING = "–"
"""A cell without a value."""

_HEADERS = {
    "train_mixture": "mixture",
    "lambda1": "λ1",
    "lambda2": "λ2",
    "temperature": "τ",
    "num_clusters": "K",
    "epsilon": "ε",
}
_AT_THE_END = ("status", "hours", "error")


@dataclass(frozen=True)
class Heading:
    """A column.

    Attributes:
        name: its name in the leaderboard.
        text: what stands above it.
        kind: ``setting``, ``score`` (of one evaluation dataset), ``mean`` or ``other``.
        numeric: whether its cells stand at the right and are sorted as numbers.
    """

    name: str
    text: str
    kind: str
    numeric: bool


@dataclass(frozen=True)
class TableRow:
    """``cells`` are in the order of the columns; ``best`` has the numbers of those that no other row exceeds.

    ``anchor`` is the row's id on the page. A trial's first row is the one that its own page links to.
    """

    trial_id: str
    anchor: str
    cells: tuple[str, ...]
    best: frozenset[int]


@dataclass(frozen=True)
class ReportTable:
    columns: tuple[Heading, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    def choices(self, name: str) -> list[str]:
        """The different cells of a column, for a list to choose from; none where there is no such column."""
        places = [place for place, column in enumerate(self.columns) if column.name == name]
        return sorted({row.cells[place] for place in places for row in self.rows}, key=_as_people_count)


def report_table(rows: pd.DataFrame) -> ReportTable:
    """All trials of a leaderboard.

    A trial that was scored by two probes, or on two layers, has a row for each; one without any score has one as well.
    The columns are those of `mdssl.tables.sweep_table.sweep_table`, over all mixtures, and training hours. What holds
    the same for all, as a status of ``finished``, has none.

    Args:
        rows: the leaderboard with all settings (`mdssl.leaderboard.board.with_settings`).
    """
    mixtures = sorted(set(rows["train_mixture"]) - {""})
    datasets = sorted(rows["eval_dataset"].dropna().unique())
    scored = rows[rows["status"] == "finished"]
    ways = sorted(set(zip(scored["features"], scored["probe"], strict=True)))
    parts, notes = [], []
    for features, probe in ways or [("encoder", "lbfgs")]:
        of_way = scored[(scored["features"] == features) & (scored["probe"] == probe)]
        own = [name for name in datasets if name in set(of_way["eval_dataset"])] if ways else datasets
        part = sweep_table(rows, mixtures=mixtures, datasets=own, features=features, probe=probe)
        by = f"{probe} probe on {features} features: " if len(ways) > 1 else ""
        notes += [f"{by}{note}." for note in part.attrs["notes"]]
        unscored = set() if parts else set(rows["trial_id"]) - set(scored["trial_id"])
        part = part[part.index.isin(set(of_way["trial_id"]) | unscored)]
        parts.append(part.assign(features=features, probe=probe) if len(ways) > 1 else part)
    table = pd.concat(parts)
    # A dataset that the first way does not score stands among the others all the same.
    names = [name for name in table if name not in datasets]
    before = names.index("seen")
    table = table.reindex(columns=[*names[:before], *datasets, *names[before:]])
    of_trial = rows.drop_duplicates("trial_id").set_index("trial_id").reindex(table.index)
    if "seed" not in table:
        table.insert(table.columns.get_loc("lambda2") + 1, "seed", of_trial["seed"])
    for name in ("probe", "features"):
        if name in table:
            table.insert(table.columns.get_loc("seed") + 1, name, table.pop(name))
    table["hours"] = of_trial["train_seconds"] / 3600
    return _rendered(table, set(datasets), notes)


def short_date(at: datetime | None) -> str:
    """``2026-11-23 14:05``, in UTC."""
    return NOTHING if pd.isna(at) else f"{at:%Y-%m-%d %H:%M}"


def setting_text(value: object) -> str:
    """A setting as the pages write it."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(item) for item in value) or NOTHING
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and np.isnan(value)):
        return NOTHING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _rendered(table: pd.DataFrame, datasets: set[str], notes: list[str]) -> ReportTable:
    names = [name for name in table if name not in _AT_THE_END and (name in datasets or table[name].notna().any())]
    at_the_end = {"status": (table["status"] != "finished").any(), "error": table["error"].notna().any()}
    names += [name for name in _AT_THE_END if at_the_end.get(name, True)]
    before_means = names.index("vs simclr") if "vs simclr" in names else len(names)
    headings, columns, best = [], [], []
    for place, name in enumerate(names):
        values = table[name]
        numeric = pd.api.types.is_numeric_dtype(values)
        is_mean = name in ("seen", "unseen", "vs simclr") and place <= before_means
        kind = "score" if name in datasets else "mean" if is_mean else "other" if name in _AT_THE_END else "setting"
        headings.append(Heading(name, _HEADERS.get(name, name).replace("_", " "), kind, bool(numeric)))
        columns.append([_cell(name, kind, value) for value in values])
        shown = values.round(1) if kind in ("score", "mean") else None
        best.append(set() if shown is None else set(np.flatnonzero(shown == shown.max()).tolist()))
    rows, times = [], Counter()
    for number, (trial_id, cells) in enumerate(zip(table.index, zip(*columns, strict=True), strict=True)):
        times[trial_id] += 1
        anchor = f"trial-{trial_id}" + (f"-{times[trial_id]}" if times[trial_id] > 1 else "")
        leading = frozenset(place for place, of_column in enumerate(best) if number in of_column)
        rows.append(TableRow(trial_id, anchor, cells, leading))
    return ReportTable(tuple(headings), tuple(rows), tuple(notes))


def _cell(name: str, kind: str, value: object) -> str:
    if pd.isna(value) or value == "":
        return NOTHING
    if name == "vs simclr":
        return f"{round(value, 1) + 0.0:+.1f}"
    if kind in ("score", "mean"):
        return f"{value:.1f}"
    if name == "hours":
        # Untrained encoders took none.
        return NOTHING if not value else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    if isinstance(value, str):
        # Fingerprints are the only long ones, and their first digits tell them apart.
        return value[:8] if re.fullmatch("[0-9a-f]{12,}", value) else value
    return f"{value:g}"


def _as_people_count(text: str) -> tuple[bool, float, str]:
    try:
        return (text == NOTHING, float(text), text)
    except ValueError:
        return (text == NOTHING, 0.0, text)
