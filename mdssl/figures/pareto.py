"""Mean score on seen against unseen datasets, and how a Pareto front is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdssl.errors import InputError
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import searched_settings, whole_board
from mdssl.figures.style import METHODS
from mdssl.tables.pareto import objective_values, pareto_front
from mdssl.tables.select import SELECTED_ON_TEST

_MARGINS = (0.08, 0.12)
"""Around the points, as shares of their range."""
SELECTED_BY = {"val_top1": "validation top-1", "top1": "top-1"}
"""The label of an axis, by the column of the scores that select trials."""


class Points(NamedTuple):
    """Trials with ``x``, ``y``, ``on_front``, ``label``, ``shown_as``; and the column of their scores."""

    trials: pd.DataFrame
    by: str


def seen_against_unseen(board: pd.DataFrame, *, mixture: str | None = None, width: float = style.PAGE) -> style.Figure:
    """Draw mean top-1 over the datasets that a trial was trained on against that over the others. A point per trial.

    The line is the Pareto front: trials that no other trial beats in both. The scores are validation scores where all
    trials have them, else test scores.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it.
        mixture: the training mixture; required where there are several.
        width: of the figure, inches.

    Raises:
        ValueError: fewer than two trials have scores on both kinds of datasets.
    """
    rows = scores.select(board)
    return _draw(_points(rows, scores.one_mixture(rows, mixture)), width)


def named(trials: pd.DataFrame) -> pd.DataFrame:
    """``trials``, whose other columns are settings, with ``shown_as``, a key of `mdssl.figures.style.METHODS`, and
    ``label``, a short name: λ where trials differ in little else, or the id."""
    others = set(searched_settings(trials)) - {"method", "train_mixture", "lambda1", "lambda2"}
    alone = scores.is_single(trials) & (trials["method"] == "simclr")
    trials = trials.assign(shown_as=trials["method"].mask(alone, "alone"))
    label = trials["trial_id"].tolist() if others else [_label(trial) for _, trial in trials.iterrows()]
    return trials.assign(label=label)


def _label(trial: pd.Series) -> str:
    if trial["method"] == "simclr":
        return trial["train_mixture"] if trial["shown_as"] == "alone" else METHODS["simclr"].label
    return f"λ1 {trial['lambda1']:g}, λ2 {trial['lambda2']:g}"


def _points(rows: pd.DataFrame, mixture: str) -> Points:
    rows = rows[rows["train_mixture"] == mixture]
    values = objective_values(rows, ("seen", "unseen"))
    complete = values.dropna(subset=["seen", "unseen"])
    if len(complete) < 2:
        raise InputError(
            f"a Pareto front of seen and unseen datasets needs two trials on {mixture} with means of both: "
            f"{'; '.join(values.attrs['notes']) or 'no dataset is unseen, or too few trials have scores'}."
        )
    trials = rows.drop_duplicates("trial_id").set_index("trial_id").loc[complete.index].reset_index()
    trials = named(trials).assign(x=complete["seen"].to_numpy(), y=complete["unseen"].to_numpy())
    trials["on_front"] = pareto_front(-trials["x"].to_numpy(dtype=float), trials["y"].to_numpy(dtype=float))
    return Points(trials, values.attrs["by"])


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Points, Words]]:
    for mixture, points in scores.each_mixture(group.rows, _points):
        trials, front = points.trials, points.trials[points.trials["on_front"]].sort_values("x")
        listed = "; ".join(f"{one['x']:.1f} and {one['y']:.1f} % ({one['label']})" for _, one in front.iterrows())
        what = SELECTED_BY[points.by]
        of_mixture = group.rows[group.rows["train_mixture"] == mixture]
        left_out = scores.left_out(of_mixture, len(trials), "without both means")
        words = Words(
            title=f"Seen against unseen datasets, trained on {mixture}",
            caption=f"Mean {what} over the datasets that were trained on against the mean over the others. The line is "
            f"the Pareto front: trials that no other trial beats in both.{left_out}{_optimism(points)}",
            alt=f"{len(trials)} trials, mean {what} on seen datasets from {trials['x'].min():.1f} to "
            f"{trials['x'].max():.1f} %, on unseen ones from {trials['y'].min():.1f} to {trials['y'].max():.1f} %; "
            f"{len(front)} on the Pareto front: {listed}.",
            name=file_name(group.label(mixture)),
        )
        yield points, words


def _optimism(points: Points) -> str:
    return f" {SELECTED_ON_TEST}" if points.by == "top1" else ""


@style.styled()
def _draw(points: Points, width: float = style.PAGE) -> style.Figure:
    figure, (axis,) = style.panels(1, width=width, height=2.2)
    handles = draw_front(axis, points.trials, width, better="right")
    what = SELECTED_BY[points.by]
    axis.set_xlabel(f"seen datasets: mean {what} (%)")
    axis.set_ylabel(f"unseen datasets: mean {what} (%)")
    style.legend(figure, handles)
    style.note(figure, f"A point is a trial.{_optimism(points)}")
    return figure


def draw_front(axis: Axes, trials: pd.DataFrame, width: float, *, better: Literal["left", "right"]) -> dict[str, Any]:
    """Draw ``trials`` as points, the line through the Pareto front, and names of trials on it.

    Args:
        trials: with ``x``, ``y`` (more is better), ``on_front``, ``label`` and ``shown_as``.
        width: of the figure, inches.
        better: on which side ``x`` is better.

    Returns:
        Handles for a legend, by label.
    """
    handles: dict[str, Any] = {}
    # Many points are small and transparent, so that they do not cover each other.
    size, alpha = (14, 0.9) if len(trials) < 200 else (6, 0.5)
    for number, method in enumerate(METHODS.values()):
        own = trials[trials["shown_as"] == method.name]
        if len(own):
            marks: dict[str, Any] = dict(
                marker=style.MARKERS[number], color=method.color, edgecolor=style.INK, linewidth=0.3
            )
            handles[method.label] = axis.scatter(own["x"], own["y"], s=size, alpha=alpha, zorder=2, **marks)
    front = trials[trials["on_front"]].drop_duplicates(["x", "y"]).sort_values("x")
    if better == "left":
        # The line continues to the right, because more time reaches the best score, too.
        steps = [*front["x"], trials["x"].max()], [*front["y"], front["y"].max()]
    else:
        xs, ys = front["x"], front["y"]
        steps = [trials["x"].min(), *xs, xs.max()], [ys.max(), *ys, trials["y"].min()]
    where: Literal["post", "pre"] = "post" if better == "left" else "pre"
    (handles["Pareto front"],) = axis.step(*steps, where=where, color=style.INK, linewidth=0.9, zorder=1)
    axis.grid(True)
    axis.margins(x=_MARGINS[0], y=_MARGINS[1])
    style.no_negative(axis)
    _name_front(axis, trials, front, width, better)
    return handles


def _name_front(axis: Axes, trials: pd.DataFrame, front: pd.DataFrame, width: float, better: str) -> None:
    """Name trials of the front, the best first, where the name covers no point and no other name."""
    scale = style.scale()
    # Inches from the lower left corner. The layout comes later, so the size of the axes is an estimate.
    xs, ys = (
        ((trials[name] - trials[name].min()) / max(np.ptp(trials[name]), 1e-9) + margin) / (1 + 2 * margin) * inches
        for name, inches, margin in zip(("x", "y"), (width - 0.5, 1.8 * scale), _MARGINS, strict=True)
    )
    placed: list[tuple[float, float, float, float]] = []
    for at, trial in front.sort_values("y", ascending=False).iterrows():
        label, x, y = trial["label"], xs[at], ys[at]
        length, gap = 0.052 * scale * len(label), 0.06
        places = [("right", x - gap - length, -4), ("left", x + gap, 4)]
        # By definition no point is above a point of the front on the better side.
        for align, start, offset in places if better == "left" else places[::-1]:
            left, right, bottom, top = box = (start, start + length, y + 0.03, y + 0.03 + 0.12 * scale)
            covered = (xs > left - 0.03) & (xs < right + 0.03) & (ys > bottom) & (ys < top + 0.03)
            # Where the line rises to the next point.
            if align == "left" and better == "left":
                covered |= (xs > x) & (xs < right + 0.03) & trials["on_front"]
            elif align == "right" and better == "right":
                covered |= (xs < x) & (xs > left - 0.03) & trials["on_front"]
            overlaps = (left < high and low < right and bottom < t and b < top for low, high, b, t in placed)
            if left >= 0 and right <= width - 0.5 and not covered.any() and not any(overlaps):
                placed.append(box)
                text: dict[str, Any] = dict(
                    textcoords="offset points", xytext=(offset, 3), ha=align, fontsize=style.SMALL
                )
                axis.annotate(style.plain(label), (trial["x"], trial["y"]), **text)
                break


PARETO = FigureKind("pareto", _find, _draw, whole_board, by_mixture=True)
