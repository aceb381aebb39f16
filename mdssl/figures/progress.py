"""The best validation score of each sweep over the cost of its trials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from mdssl.config.methods import UNTRAINED
from mdssl.errors import InputError
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import first_group, trials_of, whole_board
from mdssl.tables.compare import common_datasets
from mdssl.tables.pareto import training_hours

MOST_SWEEPS = len(style.COLORS)
"""Number of sweeps in a figure."""


class Progress(NamedTuple):
    """By sweep, its trials in the order of their first scores, with ``hours``, the cost up to their end, and ``best``,
    the best validation score so far; the datasets of the mean; and the unit of the hours, ``GPU-`` or empty."""

    sweeps: dict[str, pd.DataFrame]
    datasets: list[str]
    unit: str


def sweep_progress(board: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Best validation score so far over the training time of all trials so far. A line per sweep, a point per trial.

    Trials that were stopped early or failed count with their time.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it, of sweeps with the same evaluation datasets.
        width: of the figure, inches.

    Raises:
        ValueError: no sweep on one device has two trials with a validation score, or the sweeps have different
            evaluation datasets.
    """
    found = _progress(first_group(whole_board(board)))
    if len(found) > 1:
        named = "; ".join(", ".join(one.datasets) for one in found)
        raise InputError(
            f"the sweeps have validation scores on different datasets: {named}. Keep sweeps with the same datasets."
        )
    return _draw(found[0], width)


def _progress(group: SettingsGroup) -> list[Progress]:
    """Return the progress of the sweeps for each set of evaluation datasets."""
    rows = group.every_row
    by_datasets: dict[tuple[str, ...], dict[str, pd.DataFrame]] = {}
    for sweep, own in rows.groupby("sweep", sort=False):
        scored = own[own["val_top1"].notna() & ~own["method"].isin(UNTRAINED)]
        if scored["trial_id"].nunique() < 2:
            continue
        datasets = common_datasets(scored.groupby(["trial_id", "eval_dataset"])["val_top1"].first().unstack())
        try:
            trials = trials_of(SettingsGroup(own, 0, "", own[:0]))
            cost = training_hours(trials).fillna(0).cumsum()
        except InputError:
            continue
        trials = trials.assign(hours=cost, best=trials["val"].astype(float).cummax().ffill())
        by_datasets.setdefault(tuple(datasets), {})[str(sweep)] = trials
    if not by_datasets:
        raise InputError(
            "the best score over time needs a sweep on one device, with two trials that have validation scores."
        )
    found = []
    for names, sweeps in by_datasets.items():
        largest = dict(sorted(sweeps.items(), key=lambda item: -len(item[1]))[:MOST_SWEEPS])
        on_gpu = any((trials["gpu_hours"] > 0).any() for trials in largest.values())
        found.append(Progress(largest, list(names), "GPU-" if on_gpu else ""))
    return found


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Progress, Words]]:
    found = _progress(group)
    for one in found:
        listed = [
            f"{sweep}: {trials['val'].max():.1f} % after {trials['hours'].iloc[-1]:.2g} h and {len(trials)} trials"
            for sweep, trials in one.sweeps.items()
        ]
        words = Words(
            title="Best validation score over training time",
            caption=f"{_note(one)} The time is that of all trials of a sweep so far, including those that were stopped "
            "early or failed.",
            alt=f"A line per sweep. {'; '.join(listed)}.",
            name=file_name("+".join(one.datasets)) if len(found) > 1 else "",
        )
        yield one, words


def _note(progress: Progress) -> str:
    over = style.names_or_number(progress.datasets)
    return f"Validation top-1 is of held-out training images, mean over {over}. A point is a trial."


@style.styled()
def _draw(progress: Progress, width: float = style.PAGE) -> style.Figure:
    unit, factor = style.time_unit(pd.concat([trials["hours"] for trials in progress.sweeps.values()]))
    figure, (axis,) = style.panels(1, width=width, height=2.0)
    handles: dict[str, Any] = {}
    for number, (sweep, trials) in enumerate(progress.sweeps.items()):
        hours = trials["hours"] * factor
        look = style.line(number)
        marker = look.pop("marker")
        (handles[style.plain(sweep)],) = axis.step(hours, trials["best"], where="post", **look)
        axis.scatter(hours, trials["val"], s=7, marker=marker, color=look["color"], alpha=0.45, linewidth=0)
    axis.set_xlabel(f"training of all trials so far ({progress.unit}{unit}{'' if progress.unit else ' on a CPU'})")
    axis.set_ylabel("validation top-1 (%)")
    style.no_negative(axis)
    style.legend(figure, handles)
    style.note(figure, style.plain(f"{_note(progress)} {scores.span([len(handles)], 'One sweep', '{} sweeps')}."))
    return figure


PROGRESS = FigureKind("sweep-progress", _find, _draw, whole_board)
