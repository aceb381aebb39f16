"""What a score costs: each trial by its training hours and its mean top-1, and the Pareto front among them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdssl.data.builtin import BUILTIN
from mdssl.errors import InputError, check_name
from mdssl.figures.scores import refuse_mixed, scored, trained
from mdssl.figures.style import (
    INK,
    MARKERS,
    METHODS,
    PAGE,
    SMALL,
    Figure,
    legend,
    look,
    no_negative,
    note,
    panels,
    plain,
)
from mdssl.tables.compare import common_datasets

_MOST_NAMES = 8
"""Datasets that the note names."""
_MARGINS = (0.08, 0.12)
"""Around the points, as shares of what they span."""


def pareto_front(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) bool: which of N trials no other beats, being no dearer and no worse, and better in one of the two.

    Of trials that are equal in both, all stand on the front. A null is never on it.
    """
    valid = ~(np.isnan(costs) | np.isnan(scores))
    order = np.lexsort((-scores, costs))
    front = np.zeros(len(costs), dtype=bool)
    best, cost_of_best = -np.inf, np.nan
    for place in order[valid[order]]:
        equal = scores[place] == best and costs[place] == cost_of_best
        if scores[place] > best or equal:
            front[place] = True
            best, cost_of_best = scores[place], costs[place]
    return front


@look()
def cost_against_score(
    board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder", width: float = PAGE
) -> Figure:
    """Top-1, mean over evaluation datasets, against what training took. A point per trial; a line for the Pareto front.

    GPU-hours, or hours on a CPU times its workers. Trials that lack one of the scores are left out.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.
        evaluate: the datasets of the mean; those that most trials have where empty.

    Raises:
        ValueError: no trained encoder has all of the scores; or trials of several devices, whose hours do not
            compare.
    """
    points = costs_and_scores(board, evaluate=evaluate, features=features)
    on_gpu = bool((points["gpu_hours"] > 0).any())
    unit, scale = ("hours", 1) if points["cost"].max() >= 0.5 else ("minutes", 60)
    unit = f"GPU-{unit}" if on_gpu else f"{unit} on a CPU"
    figure, (axis,) = panels(1, width=width, height=2.2)
    handles: dict[str, object] = {}
    for number, (method, (label, colour)) in enumerate(METHODS.items()):
        own = points[points["shown_as"] == method]
        if len(own):
            # Of a thousand trials each still shows where it stands alone.
            size, alpha = (14, 0.9) if len(points) < 200 else (6, 0.5)
            marks = dict(s=size, alpha=alpha, marker=MARKERS[number], color=colour, edgecolor=INK, linewidth=0.3)
            handles[label] = axis.scatter(own["cost"] * scale, own["score"], zorder=2, **marks)
    front = points[points["on_front"]].drop_duplicates(["cost", "score"]).sort_values("cost")
    # What the best trial reaches, more time reaches as well.
    steps = [*front["cost"] * scale, points["cost"].max() * scale], [*front["score"], front["score"].max()]
    (line,) = axis.step(*steps, where="post", color=INK, linewidth=0.9, zorder=1)
    handles["Pareto front"] = line
    axis.grid(True)
    axis.margins(x=_MARGINS[0], y=_MARGINS[1])
    no_negative(axis)
    _name_front(axis, points, front, scale, width)
    axis.set_xlabel(f"training ({unit})")
    axis.set_ylabel("top-1, mean over datasets (%)")
    legend(figure, list(handles.values()), list(handles))
    device = points["device"].dropna().unique()
    on = f" On {device[0]}." if len(device) and device[0] != "cpu" else ""
    made_up = " Built-in domains are made-up." if set(points.attrs["evaluate"]) & set(BUILTIN) else ""
    names = points.attrs["evaluate"]
    over = ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} datasets"
    note(figure, plain(f"A point is a trial. Mean over {over}.{made_up}{on}"))
    return figure


def costs_and_scores(board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder") -> pd.DataFrame:
    """A row per trained trial that has all the scores: its settings, ``cost`` (hours), ``score`` (mean top-1, percent),
    ``on_front``, and ``shown_as``, a key of `mdssl.figures.style.METHODS`. Raises as `cost_against_score`."""
    rows = timed(trained(scored(board, features)))
    found = sorted(rows["eval_dataset"].unique())
    for name in evaluate:
        check_name("evaluation dataset", name, found)
    by_dataset = rows.groupby(["trial_id", "eval_dataset"])["top1"].first().unstack()
    none = np.zeros(len(by_dataset), dtype=bool)
    evaluate = tuple(evaluate) or tuple(common_datasets(by_dataset, untrained=none, baseline=none)) or tuple(found)
    rows = rows[rows["eval_dataset"].isin(evaluate)]
    # Trials may differ in anything, for none are averaged; but not in the images that they were scored on.
    images = [name for name in ("eval_dataset", "method", "eval_fingerprint") if name in rows]
    refuse_mixed(rows[images], "cost against score", varies=("method",))
    devices = sorted(rows["device"].dropna().unique())
    if len(devices) > 1:
        raise InputError(
            f"hours on several devices are no comparison: {', '.join(devices)}. Keep one, "
            f"board[board.device == {devices[0]!r}]."
        )
    scores = rows.groupby("trial_id")["top1"].agg(["mean", "count"])
    scores = scores[scores["count"] == len(evaluate)]
    points = rows.drop_duplicates("trial_id").set_index("trial_id").loc[scores.index]
    points = points.reset_index()
    if points.empty:
        raise InputError(f"no trained encoder has scores on all of {', '.join(evaluate)}. Name fewer, evaluate=….")
    on_cpu = points["train_seconds"] / 3600 * points["num_workers"].astype(float).fillna(1)
    points["cost"] = points["gpu_hours"].where(points["gpu_hours"] > 0, on_cpu)
    points["score"] = scores["mean"].reindex(points["trial_id"]).to_numpy()
    points["on_front"] = pareto_front(points["cost"].to_numpy(dtype=float), points["score"].to_numpy(dtype=float))
    single = ~points["train_mixture"].str.contains("+", regex=False)
    points["shown_as"] = points["method"].mask(single & (points["method"] == "simclr"), "alone")
    points.attrs["evaluate"] = evaluate
    return points


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials that say how long they trained. Raises ``ValueError`` where there is none."""
    rows = rows[rows["train_seconds"] > 0]
    if rows.empty:
        raise InputError("no trial has a training time, the column train_seconds, so what a score costs is not known.")
    return rows


def _name_front(axis: Axes, points: pd.DataFrame, front: pd.DataFrame, scale: float, width: float) -> None:
    """Name trials of the front, the best first, where their names lie on no point and on no other name."""
    # Inches from the lower left corner; the layout comes later, so the axes' size is an estimate.
    places = [
        _inches(points[name], inches, margin)
        for name, inches, margin in zip(("cost", "score"), (width - 0.5, 1.8), _MARGINS, strict=True)
    ]
    named: list[tuple[float, float, float, float]] = []
    for at, trial in front[::-1].iterrows():
        label = setting_label(trial)
        x, y = (place[at] for place in places)
        length, gap = 0.052 * len(label), 0.06
        # Left of and above a point of the front there is no other, by what the front is.
        for right, start in ((True, x - gap - length), (False, x + gap)):
            box = (start, start + length, y + 0.03, y + 0.15)
            covers = (places[0] > box[0] - 0.03) & (places[0] < box[1] + 0.03)
            covers &= (places[1] > box[2]) & (places[1] < box[3] + 0.03)
            # Where the line rises to the next.
            covers |= (places[0] > x) & (places[0] < box[1] + 0.03) & points["on_front"] & (not right)
            if box[0] < 0 or box[1] > width - 0.5 or covers.any() or any(_overlap(box, other) for other in named):
                continue
            named.append(box)
            text = dict(textcoords="offset points", xytext=(-4 if right else 4, 3), ha="right" if right else "left")
            axis.annotate(plain(label), (trial["cost"] * scale, trial["score"]), fontsize=SMALL, **text)
            break


def _inches(values: pd.Series, inches: float, margin: float) -> pd.Series:
    span = max(values.max() - values.min(), 1e-9)
    return ((values - values.min()) / span + margin) / (1 + 2 * margin) * inches


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two boxes (left, right, bottom, top) share a place."""
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def setting_label(trial: pd.Series) -> str:
    """What tells a trial apart at a glance."""
    if trial["method"] == "simclr":
        return trial["train_mixture"] if trial["shown_as"] == "alone" else "SimCLR, union"
    return f"λ1 {trial['lambda1']:g}, λ2 {trial['lambda2']:g}"
