"""The numbers of a view: one row each, or means over seeds, and one column for each value of another."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from mdssl.errors import InputError, some_of
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.tables.compare import settings_apart
from mdssl.tables.render import Measure
from mdssl.tables.statistics import over_seeds as statistics
from mdssl.tables.statistics import p_values

OF_TEST = ("top1", "top5", "balanced_accuracy", "macro_f1", "knn_top1")
"""Scores of the test split."""
SCORES = (*OF_TEST, "val_top1", "val_knn_top1", "val_linear_top1")
"""In percent, and more is better."""
MEASURED = (
    *SCORES, "top1_sd", "step", "train_seconds", "eval_seconds", "gpu_hours", "views_seen", "views_per_second",
    "peak_memory_mb", "encoder_mb", "final_loss", *MEASURE_NAMES
)  # fmt: skip
"""Columns of results, costs and measures. All others identify the row."""
MEAN = "average"
"""The column beside the datasets: each trial's mean over them, as in the paper's tables 1, 4 and 5."""

_DIFFERENCE = " vs "


def single(rows: pd.DataFrame, numbers: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, list[Measure]]:
    """Join the ``keys`` and ``numbers`` of each row; without numbers, drop duplicate rows."""
    if not len(numbers.columns):
        return rows[keys].drop_duplicates(), []
    # Each difference beside what it is of.
    names = sorted(numbers.columns, key=lambda name: list(numbers).index(name.partition(_DIFFERENCE)[0]))
    measures = [_measure(name, name) for name in names]
    renamed = numbers[names].set_axis([measure.names[0] for measure in measures], axis=1)
    return rows[keys].join(renamed), measures


def grouped(
    rows: pd.DataFrame, numbers: pd.DataFrame, keys: list[str], pivot: str | None, over_seeds: bool
) -> tuple[pd.DataFrame, list[Measure]]:
    """Return a row for each combination of ``keys``, and the ``numbers`` of its rows side by side, by ``pivot``.

    Args:
        rows: with all their settings, in the order of the table.
        numbers: with the index of ``rows``: columns of the leaderboard, and differences of these to a baseline.
        keys: columns of ``rows``.
        pivot: a column of ``rows`` whose values become columns each; None: none does.
        over_seeds: means over seeds, standard deviations, 95 % intervals of the means and numbers of seeds.

    Raises:
        ValueError: rows of one cell differ in a setting, or without ``over_seeds`` in the seed.
    """
    by = [*keys, *([pivot] if pivot else [])]
    # Failed rows have no number, and lack the layer of a score.
    _check_cells(rows[rows["status"] != "failed"], by, over_seeds)
    # Grouped by number, because missing values are keys like any other.
    number = rows.groupby(keys, dropna=False, sort=False).ngroup() if keys else pd.Series(0, rows.index)
    frame = rows.loc[~number.duplicated(), keys].set_axis(number[~number.duplicated()].to_numpy())
    places = _places(rows, pivot) if pivot else [None]
    alone = len([name for name in numbers.columns if _DIFFERENCE not in name]) == 1
    columns: dict[str, pd.Series] = {}
    measures = []
    for name in numbers.columns:
        for place in places:
            chosen = rows[pivot] == place if pivot else pd.Series(True, rows.index)
            header = _header(name, pivot, place, alone)
            measure = _measure(header, name, over_seeds)
            own = pd.DataFrame({"row": number[chosen], "value": numbers.loc[chosen, name]})
            if over_seeds:
                found = statistics(own, ["row"], "value").set_index("row")
                low, high = found["mean"] - found["half"], found["mean"] + found["half"]
                values = [found["mean"], found["std"], low, high, found["n"].astype("Int64")]
                values += [p_values(found)] if measure.difference else []
            else:
                values = [own.groupby("row")["value"].first()]
            columns |= zip(measure.names, values, strict=True)
            measures.append(measure)
    return frame.join(pd.DataFrame(columns, index=frame.index)), measures


def _check_cells(rows: pd.DataFrame, by: list[str], over_seeds: bool) -> None:
    repeated = rows.duplicated(by, keep=False) if by else pd.Series(len(rows) > 1, rows.index)
    if not repeated.any():
        return
    among = rows[repeated]
    varied = [name for name in among if name in by or among[name].nunique(dropna=False) > 1]
    found = settings_apart(among[varied], by, also=["eval_dataset"])
    if not over_seeds and not found:
        found = {"seed": some_of(among["seed"].unique(), 8)}
    # Different datasets have different images, so the dataset is named first.
    for name in sorted(found, key=lambda name: name not in ("eval_dataset", "train_mixture")):
        values = found[name]
        hint = (
            " or take means over seeds (--over-seeds)" if name == "seed" else f" or keep one of them (--where {name}=…)"
        )
        raise InputError(f"rows of one cell differ in {name}: {values}. Add {name} to columns,{hint}.")


def _measure(header: str, name: str, over_seeds: bool = False) -> Measure:
    difference = _DIFFERENCE in name
    # Not in the words of a dataset's name.
    stem = re.sub(r"( \([^()]*\))| ", lambda found: found[1] or "_", header)
    endings: tuple[str, ...] = ("",)
    if over_seeds:
        endings = ("_mean", "_sd", "_low", "_high", *(("_pairs", "_p") if difference else ("_seeds",)))
    of = name.partition(_DIFFERENCE)[0]
    return Measure(header, of, tuple(stem + ending for ending in endings), of in SCORES, difference)


def _header(name: str, pivot: str | None, place: Any, alone: bool) -> str:
    if pivot is None:
        return name
    if not isinstance(place, str):
        place = f"{pivot}={place:g}" if isinstance(place, float) else f"{pivot}={place}"
    if not alone:
        return f"{place} {name}"
    return place + re.sub("^.*?(?= vs )|^.*", "", name, count=1)


def _places(rows: pd.DataFrame, pivot: str) -> list[Any]:
    """Return the values of ``pivot`` from left to right: training datasets first, and the mean over all last."""
    values = rows[pivot].unique().tolist()
    if pivot != "eval_dataset":
        return sorted(values)
    seen = set(rows.loc[rows["seen"].fillna(False).astype(bool), pivot])
    return sorted(values, key=lambda name: (name == MEAN, name not in seen, name))
