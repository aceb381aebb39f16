"""The trials of sweeps, for figures without means, and the settings in which they differ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from mdssl.config.methods import METHODS, UNTRAINED
from mdssl.errors import InputError
from mdssl.figures import style
from mdssl.figures.scores import (
    NO_SCORES,
    SettingsGroup,
    by_one_probe,
    count_trained,
    encoder_scores,
    probe_words,
    unscored,
)
from mdssl.tables.compare import settings_apart, settings_of
from mdssl.tables.select import NO_VALIDATION, best_by_validation

_IMAGES = ("data_fingerprint", "weights", "recipe_version", "recipe_version_clustering")
"""Settings that a search never varies."""


def by_sweep(board: pd.DataFrame) -> pd.DataFrame:
    """``board`` with the sweep of each trial: the first that wrote a row of it.

    Others, and `mdssl probe`, which has no name of a sweep, may have scored it on more datasets. Trials without any
    sweep, as of `mdssl train`, have a missing value and are in no figure by sweep. If there are no others, they have an
    empty name.
    """
    named = board["sweep"].mask(board["sweep"] == "")
    if named.isna().all():
        return board.assign(sweep="")
    by_time = board.assign(sweep=named).sort_values("finished_at", kind="stable")
    return board.assign(sweep=board["trial_id"].map(by_time.groupby("trial_id")["sweep"].first()))


def whole_board(board: pd.DataFrame) -> list[SettingsGroup]:
    """Return all trials of ``board`` as one group, whatever their settings, with scores of the most frequent probe."""
    board = by_sweep(board)
    rows = encoder_scores(board)
    if rows.empty:
        return []
    kept = by_one_probe(rows)
    return [SettingsGroup(kept, count_trained(kept), probe_words(rows), unscored(board))]


def each_sweep(board: pd.DataFrame) -> list[SettingsGroup]:
    """Return a group for each sweep of ``board``, the one with most trials first."""
    found = [
        replace(group, description=f"Sweep {sweep}, {group.description}", name=str(sweep))
        for sweep, own in by_sweep(board).groupby("sweep", sort=False)
        for group in whole_board(own)
    ]
    return sorted(found, key=lambda group: -group.trials)


def first_group(groups: list[SettingsGroup]) -> SettingsGroup:
    """Return the first of ``groups``, the one with most trials.

    Raises:
        ValueError: there is none, because the leaderboard has no scores.
    """
    if not groups:
        raise InputError(NO_SCORES)
    return groups[0]


def trials_of(group: SettingsGroup) -> pd.DataFrame:
    """Return the trained trials of ``group``, including stopped and failed ones, in the order of their first scores.

    Returns:
        A row per trial with its settings, ``trial_id``, ``status``, and ``val``, the validation score in percent.

    Raises:
        ValueError: no trial has a validation score.
    """
    rows = group.every_row
    rows = rows[~rows["method"].isin(UNTRAINED)].sort_values("finished_at", kind="stable")
    ranked = best_by_validation(rows).set_index("trial_id")
    if not ranked["val"].notna().any():
        raise InputError(NO_VALIDATION)
    order = rows["trial_id"].unique()
    # A failed score has no costs.
    rows = rows.sort_values("status", key=lambda status: status == "failed", kind="stable")
    trials = rows.drop_duplicates("trial_id").set_index("trial_id").loc[order].reset_index().drop(columns="status")
    return trials.join(ranked, on="trial_id").reset_index(drop=True)


def searched_settings(trials: pd.DataFrame) -> list[str]:
    """Return the settings, besides the seed, in which trials that have them differ, in the order of the columns."""
    apart = settings_apart(trials, missing_differs=False)
    return [name for name in settings_of(trials) if name in apart and name not in _IMAGES]


def tried(
    group: SettingsGroup, what: str, least: int, *, one_method: bool = False
) -> tuple[pd.DataFrame, list[str], str]:
    """Return the trials with a validation score, the settings in which they differ, and a note on the others.

    Baselines beside methods that weigh domains are left out: they lack settings that were searched. ``one_method``:
    keep only the trials of the most frequent method.

    Raises:
        ValueError: there are fewer than ``least`` such trials, or they differ in nothing but the seed.
    """
    every = trials_of(group)
    trials = every[every["val"].notna()]
    weighs = trials["method"].map(lambda method: METHODS[method].weighs_domains).astype(bool)
    trials = trials[weighs] if weighs.any() else trials
    baselines, others = len(weighs) - len(trials), 0
    if one_method and len(trials):
        of_one = trials[trials["method"] == trials["method"].mode()[0]]
        trials, others = of_one, len(trials) - len(of_one)
    names = searched_settings(trials.drop(columns="val"))
    if len(trials) < least or not names:
        raise InputError(
            f"{what} needs {least} trials of a sweep with validation scores that differ in a setting, but the "
            f"sweep has {len(trials)}{'' if names else ' with the same settings'}."
        )
    without = every.loc[every["val"].isna(), "status"].value_counts()
    reasons = {"stopped": "stopped early", "failed": "failed", "finished": "without a validation score"}
    listed = [f"{without[status]} {why}" for status, why in reasons.items() if status in without]
    listed += [f"{baselines} of a method without domain weights"] if baselines else []
    listed += [f"{others} of other methods"] if others else []
    note = f" Left out: {', '.join(listed)}." if listed else ""
    of = f" of {METHODS[trials['method'].iloc[0]].label}" if others else ""
    return trials.reset_index(drop=True), names, f"{len(trials)} trials{of}.{note}"


def draw_best(axis: Axes, x: pd.Series, y: pd.Series, edge: str) -> None:
    """Draw the best trial as a star."""
    axis.scatter(x, y, s=45, marker="*", color=style.COLORS[1], edgecolor=edge, linewidth=0.5, zorder=3)


def is_number(values: pd.Series) -> bool:
    """Whether a setting has an order: numbers, but not booleans."""
    values = values.dropna().infer_objects()
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def scale_of(values: pd.Series) -> str:
    """``log`` for positive numbers over a decade or more with evenly spread logarithms, else ``linear``."""
    values = values.astype(float)
    low, high = values.min(), values.max()
    if not low > 0 or high < 10 * low:
        return "linear"
    middle = np.log(values.median())
    return "log" if abs(middle - np.log(low * high) / 2) < abs(middle - np.log((low + high) / 2)) else "linear"


def drawn(values: pd.Series) -> pd.Series:
    """Return the positions of ``values`` on an axis: their decimal logarithms or the values, by `scale_of`."""
    values = values.astype(float)
    return pd.Series(np.log10(values), values.index) if scale_of(values) == "log" else values


def label_axis(axis: Axis, name: str, values: pd.Series) -> None:
    """Write the name of a setting, and where values are `drawn` as logarithms, 1, 2 and 5 times powers of ten."""
    axis.set_label_text(style.plain(style.setting_name(name)))
    if scale_of(values) == "log":
        low, high = values.astype(float).min(), values.astype(float).max()
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in ((1, 2, 5) if high < 200 * low else (1,))]
        ticks = [tick for tick in ticks if low / 1.2 <= tick <= high * 1.2]
        axis.set_ticks([math.log10(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
