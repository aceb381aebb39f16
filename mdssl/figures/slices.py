"""The validation score of a sweep's trials over each setting in which they differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from mdssl.figures import style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import draw_best, drawn, each_sweep, first_group, is_number, label_axis, tried

MOST_PANELS = 12
LEAST_TRIALS = 4


class Slices(NamedTuple):
    trials: pd.DataFrame
    names: list[str]
    note: str


def setting_slices(board: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Validation top-1 over each setting in which the trials of a sweep differ. A panel per setting, a point per trial.

    The other settings differ from point to point.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it; of several sweeps, the one with most trials is drawn.
        width: of the figure, inches.

    Raises:
        ValueError: fewer than `LEAST_TRIALS` trials have a validation score, or they differ in no setting.
    """
    return _draw(_slices(first_group(each_sweep(board))), width)


def _slices(group: SettingsGroup) -> Slices:
    trials, names, note = tried(group, "a figure of slices", LEAST_TRIALS)
    more = f" {len(names) - MOST_PANELS} more settings are not shown." if len(names) > MOST_PANELS else ""
    return Slices(trials, names[:MOST_PANELS], f"{note}{more}")


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Slices, Words]]:
    found = _slices(group)
    best = found.trials.iloc[found.trials["val"].argmax()]
    at = ", ".join(f"{style.setting_name(name)} {style.setting(best[name])}" for name in found.names)
    words = Words(
        title=f"Validation score over each setting, sweep {group.name}",
        caption=f"Validation top-1 on held-out training images, mean over datasets. {found.note} A point is a trial, "
        "and the star is the best; the other settings differ from point to point.",
        alt=f"{len(found.names)} panels: {', '.join(map(style.setting_name, found.names))}. Validation top-1 from "
        f"{found.trials['val'].min():.1f} to {found.trials['val'].max():.1f} %; the best is at {at}.",
        name=file_name(group.name),
    )
    yield found, words


@style.styled()
def _draw(found: Slices, width: float = style.PAGE) -> style.Figure:
    figure, axes = style.panels(len(found.names), width=width, height=1.5)
    trials = found.trials
    best = int(trials["val"].argmax())
    for axis, name in zip(axes, found.names, strict=True):
        values = trials[name]
        if is_number(values):
            places = drawn(values)
            label_axis(axis.xaxis, name, values)
        else:
            categories = sorted(values.dropna().astype(str).unique())
            places = values.astype(str).map({text: float(number) for number, text in enumerate(categories)})
            axis.set_xticks(range(len(categories)), [style.wrapped(text, 12) for text in categories])
            axis.set_xlim(-0.6, len(categories) - 0.4)
            axis.set_xlabel(style.plain(style.setting_name(name)))
        axis.scatter(places, trials["val"], s=10, alpha=0.6, color=style.COLORS[0], linewidth=0)
        draw_best(axis, places[[best]], trials["val"][[best]], edge=style.INK)
    low, high = trials["val"].min(), trials["val"].max()
    margin = 0.08 * max(high - low, 0.1)
    for axis in axes:
        axis.set_ylim(low - margin, high + margin)
        spot = axis.get_subplotspec()
        axis.set_ylabel("validation top-1 (%)" if spot and spot.is_first_col() else "")
    style.note(figure, style.plain(f"{found.note} The star is the best. Other settings differ from point to point."))
    return figure


SLICES = FigureKind("slices", _find, _draw, each_sweep)
