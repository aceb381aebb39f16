"""Training time against score: each trial by its training hours and its mean top-1, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdssl.config.methods import UNTRAINED
from mdssl.data.builtin import BUILTIN
from mdssl.errors import InputError, check_name
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.style import METHODS
from mdssl.tables.compare import common_datasets, row_means
from mdssl.tables.pareto import pareto_front, training_hours

_MARGINS = (0.08, 0.12)
"""Around the points, as shares of their range."""


def cost_against_score(
    board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder", width: float = style.PAGE
) -> style.Figure:
    """Mean top-1 over evaluation datasets against training time. A point per trial; a line for the Pareto front.

    The time is GPU-hours, or hours on a CPU times workers. Trials that lack one of the scores are left out.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.
        evaluate: the datasets of the mean; by default those that most trials have.

    Raises:
        ValueError: no trained encoder has all of the scores; or trials ran on several devices, whose hours cannot be
            compared.
    """
    return _draw(costs_and_scores(board, evaluate=evaluate, features=features), width)


def costs_and_scores(board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder") -> pd.DataFrame:
    """A row per trained trial with all scores: its settings, ``cost`` (hours), ``score`` (mean top-1, percent),
    ``on_front``, and ``shown_as``, a key of `mdssl.figures.style.METHODS`. Raises as `cost_against_score`."""
    rows = scores.select(board, features)
    rows = _timed(rows[~rows["method"].isin(UNTRAINED)])
    found = sorted(rows["eval_dataset"].unique())
    for name in evaluate:
        check_name("evaluation dataset", name, found)
    by_dataset = rows.groupby(["trial_id", "eval_dataset"])["top1"].first().unstack()
    evaluate = tuple(evaluate or common_datasets(by_dataset) or found)
    rows = rows[rows["eval_dataset"].isin(evaluate)]
    # Trials may differ in any setting, because none are averaged, but not in the images that gave the score.
    images = [name for name in ("eval_dataset", "method", "eval_fingerprint") if name in rows]
    scores.refuse_mixed(rows[images], "cost against score", varies=("method",))
    hours = training_hours(rows.drop_duplicates("trial_id").set_index("trial_id"))
    complete = by_dataset[list(evaluate)].dropna()
    means = row_means(complete, complete.notna())
    points = rows.drop_duplicates("trial_id").set_index("trial_id").loc[means.index].reset_index()
    if points.empty:
        raise InputError(f"no trained encoder has scores on all of {', '.join(evaluate)}. Name fewer, evaluate=….")
    points["cost"] = hours.loc[means.index].to_numpy()
    points["score"] = means.to_numpy()
    points["on_front"] = pareto_front(points["cost"].to_numpy(dtype=float), points["score"].to_numpy(dtype=float))
    points["shown_as"] = points["method"].mask(scores.is_single(points) & (points["method"] == "simclr"), "alone")
    points.attrs["evaluate"] = evaluate
    return points


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["train_seconds"] > 0]
    if rows.empty:
        raise InputError("no trial has a training time, the column train_seconds, so what a score costs is not known.")
    return rows


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[pd.DataFrame, Words]]:
    points = costs_and_scores(scores.of_one_device(_timed(group.rows)))
    if len(points) < 2:
        raise InputError("cost against score needs two trained encoders that are scored on the same datasets.")
    front = points[points["on_front"]].sort_values("cost")
    ends = [front.iloc[0], front.iloc[-1]] if len(front) > 1 else [front.iloc[0]]
    said = " to ".join(f"{end['score']:.1f} % for {end['cost']:.2g} h ({_label(end)})" for end in ends)
    words = Words(
        title="Top-1 against training time",
        caption="Mean top-1 over evaluation datasets against training time. The line is the Pareto front: trials that "
        "no other trial beats in both.",
        alt=f"{len(points)} trials, mean top-1 from {points['score'].min():.1f} to {points['score'].max():.1f} %, "
        f"training from {points['cost'].min():.2g} to {points['cost'].max():.2g} h; {len(front)} on the Pareto front: "
        f"{said}.",
    )
    yield points, words


@style.styled()
def _draw(points: pd.DataFrame, width: float = style.PAGE) -> style.Figure:
    unit, scale = style.time_unit(points["cost"])
    unit = f"GPU-{unit}" if (points["gpu_hours"] > 0).any() else f"{unit} on a CPU"
    points = points.assign(x=points["cost"] * scale)
    figure, (axis,) = style.panels(1, width=width, height=2.2)
    handles: dict[str, object] = {}
    # Of a thousand trials each is visible where it is alone.
    size, alpha = (14, 0.9) if len(points) < 200 else (6, 0.5)
    for number, method in enumerate(METHODS.values()):
        own = points[points["shown_as"] == method.name]
        if len(own):
            marks: dict[str, Any] = dict(
                marker=style.MARKERS[number], color=method.color, edgecolor=style.INK, linewidth=0.3
            )
            handles[method.label] = axis.scatter(own["x"], own["score"], s=size, alpha=alpha, zorder=2, **marks)
    front = points[points["on_front"]].drop_duplicates(["cost", "score"]).sort_values("cost")
    # More time than that of the best trial reaches its score as well.
    steps = [*front["x"], points["x"].max()], [*front["score"], front["score"].max()]
    (handles["Pareto front"],) = axis.step(*steps, where="post", color=style.INK, linewidth=0.9, zorder=1)
    axis.grid(True)
    axis.margins(x=_MARGINS[0], y=_MARGINS[1])
    style.no_negative(axis)
    _name_front(axis, points, front, width)
    axis.set_xlabel(f"training ({unit})")
    axis.set_ylabel("top-1, mean over datasets (%)")
    style.legend(figure, handles)
    names = points.attrs["evaluate"]
    synthetic = " Built-in domains are synthetic." if set(names) & set(BUILTIN) else ""
    over = ", ".join(names) if len(names) <= style.MOST_NAMES else f"{len(names)} datasets"
    on = "".join(f" On {device}." for device in points["device"].dropna().unique()[:1] if device != "cpu")
    style.note(figure, style.plain(f"A point is a trial. Mean over {over}.{synthetic}{on}"))
    return figure


def _name_front(axis: Axes, points: pd.DataFrame, front: pd.DataFrame, width: float) -> None:
    """Name trials of the front, the best first, where the name covers no point and no other name."""
    # Inches from the lower left corner. The layout comes later, so the size of the axes is an estimate.
    xs, ys = (
        ((points[name] - points[name].min()) / max(np.ptp(points[name]), 1e-9) + margin) / (1 + 2 * margin) * inches
        for name, inches, margin in zip(("cost", "score"), (width - 0.5, 1.8), _MARGINS, strict=True)
    )
    named: list[tuple[float, float, float, float]] = []
    for at, trial in front[::-1].iterrows():
        label, x, y = _label(trial), xs[at], ys[at]
        length, gap = 0.052 * len(label), 0.06
        # By definition no point is above and left of a point of the front.
        for align, start, offset in (("right", x - gap - length, -4), ("left", x + gap, 4)):
            left, right, bottom, top = box = (start, start + length, y + 0.03, y + 0.15)
            covered = (xs > left - 0.03) & (xs < right + 0.03) & (ys > bottom) & (ys < top + 0.03)
            if align == "left":
                # Where the line rises to the next point.
                covered |= (xs > x) & (xs < right + 0.03) & points["on_front"]
            overlaps = (left < high and low < right and bottom < t and b < top for low, high, b, t in named)
            if left >= 0 and right <= width - 0.5 and not covered.any() and not any(overlaps):
                named.append(box)
                text: dict[str, Any] = dict(
                    textcoords="offset points", xytext=(offset, 3), ha=align, fontsize=style.SMALL
                )
                axis.annotate(style.plain(label), (trial["x"], trial["score"]), **text)
                break


def _label(trial: pd.Series) -> str:
    if trial["method"] == "simclr":
        return trial["train_mixture"] if trial["shown_as"] == "alone" else METHODS["simclr"].label
    return f"λ1 {trial['lambda1']:g}, λ2 {trial['lambda2']:g}"


COST = FigureKind("cost-against-score", _find, _draw)
