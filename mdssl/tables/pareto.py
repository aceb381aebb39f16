"""Pareto fronts: the trials that no other trial beats in two objectives at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdssl.config.methods import UNTRAINED
from mdssl.errors import InputError, check_name
from mdssl.tables.baseline import find_baselines, incomplete_baselines
from mdssl.tables.compare import counted_scores
from mdssl.tables.select import SELECTED_ON_TEST
from mdssl.tables.statistics import row_means
from mdssl.tables.sweep_table import sweep_table

MEANS = ("seen", "unseen", "average")
COST = "hours"
"""The objective that is better where it is smaller."""


def pareto_front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) bool: whether no other trial beats this one, i.e. costs no more, scores no less, and is not equal.

    Trials that are equal in both are all on the front. A null never is.
    """
    pairs, place = np.unique(np.stack([costs, -scores], axis=1), axis=0, return_inverse=True)
    # Ascending costs, and at each the best first: a pair is on the front if it beats all before it.
    best_before = np.fmin.accumulate(np.append(np.inf, pairs[:-1, 1]))
    front = (pairs[:, 1] < best_before) & ~np.isnan(pairs[:, 0])
    return front[place.ravel()]


def training_hours(trials: pd.DataFrame) -> pd.Series:
    """Return GPU-hours of each trial, or hours on a CPU times workers; null if no training time is recorded.

    Raises:
        ValueError: the trials ran on several devices, whose hours cannot be compared.
    """
    trials = trials.astype({"train_seconds": float, "gpu_hours": float, "num_workers": float})
    devices = sorted(trials["device"].dropna().unique())
    if len(devices) > 1:
        raise InputError(
            f"hours on several devices cannot be compared: {', '.join(devices)}. Keep the rows of one "
            f"(`mdssl leaderboard`: --where 'device={devices[0]}')."
        )
    on_cpu = trials["train_seconds"] / 3600 * trials["num_workers"].fillna(1)
    return trials["gpu_hours"].where(trials["gpu_hours"] > 0, on_cpu)


def selection_score(rows: pd.DataFrame) -> str:
    """Return the column that selects trials: ``val_top1`` if all scores of ``rows`` have it, else ``top1``."""
    scored = rows[rows["top1"].notna()]
    return "val_top1" if "val_top1" in rows and scored["val_top1"].notna().all() else "top1"


def objective_values(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the value of each objective for each trained trial.

    Args:
        rows: scores of one probe on one layer, with all settings (`mdssl.leaderboard.board.with_settings`).
        names: ``seen``, ``unseen`` (means as in `mdssl.tables.sweep_table.sweep_table`), ``average`` (the mean over
            both kinds), ``hours`` (`training_hours`), or an evaluation dataset.

    Returns:
        ``train_mixture`` and the columns ``names``, indexed by ``trial_id``; null if a trial lacks a score.
        ``attrs["by"]`` is the column of the scores, as `selection_score` chooses it; ``attrs["notes"]`` are the
        `mdssl.tables.compare.notes_on_means`.

    Raises:
        ValueError: an unknown objective, scores of several probes or layers, or hours on several devices.
    """
    rows = rows[(rows["status"] == "finished") & rows["top1"].notna() & ~rows["method"].isin(UNTRAINED)]
    datasets = sorted(rows["eval_dataset"].unique())
    for name in names:
        check_name("objective", name, [*MEANS, COST, *datasets])
    by = selection_score(rows)
    for name in ("features", "probe"):
        if rows[name].nunique() > 1:
            raise InputError(
                f"a Pareto front needs scores of one {name}, but there are several: "
                f"{', '.join(sorted(rows[name].unique()))}. Keep one, --where {name}=…."
            )
    trials = rows.drop_duplicates("trial_id").set_index("trial_id")
    values = trials[["train_mixture"]].copy()
    notes: list[str] = []
    if len(rows):
        mixtures = sorted(rows["train_mixture"].unique())
        way = {name: rows[name].iloc[0] for name in ("features", "probe")}
        # As in the table of a sweep, so that both have the same means.
        table = sweep_table(rows.assign(top1=rows[by]), mixtures=mixtures, datasets=datasets, **way)
        is_baseline = table.index.isin(incomplete_baselines(find_baselines(rows, rows, strict=False), table[datasets]))
        counted, notes = counted_scores(table[datasets], trials["train_mixture"].reindex(table.index), is_baseline)
        table["average"] = row_means(table[datasets], counted)
        values = values.join(table[[*datasets, *MEANS]])
    if COST in names:
        values[COST] = training_hours(trials)
    values = values[["train_mixture", *names]]
    values.attrs |= {"by": by, "notes": notes if set(MEANS) & set(names) else []}
    return values


def on_front(rows: pd.DataFrame, names: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Return the ``rows`` of trials on the Pareto front of two objectives; adds to ``notes`` how many these are.

    Means of different training mixtures are over different datasets, so each mixture has its own front of these.

    Raises:
        ValueError: there are not two different objectives, or as `objective_values`.
    """
    if len(names) != 2 or len(set(names)) < 2:
        raise InputError(
            f"pareto is {' '.join(names) or 'empty'}; it must be two different objectives: seen unseen, average hours, "
            "or names of evaluation datasets."
        )
    values = objective_values(rows, names)
    kept: list[str] = []
    for _, own in values.groupby("train_mixture" if set(MEANS) & set(names) else (lambda _: 0)):
        costs, scores = (own[name].to_numpy(dtype=float) for name in sorted(names, key=lambda name: name != COST))
        kept += own.index[pareto_front(costs if COST in names else -costs, scores)].tolist()
    by_test = f"test scores. {SELECTED_ON_TEST}" if values.attrs["by"] == "top1" else "validation scores (val_top1)"
    notes += [note for note in values.attrs["notes"] if note not in notes]
    notes.append(f"on the Pareto front of {' and '.join(names)}: {len(kept)} of {len(values)} trials, by {by_test}")
    return rows[rows["trial_id"].isin(kept)]
