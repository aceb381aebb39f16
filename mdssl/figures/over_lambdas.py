"""Figures of a λ grid: curves over λ1 and over λ2 (figure 3), and heat maps of both."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mdssl.errors import InputError, check_name
from mdssl.figures.recipes import unscored, unscored_like
from mdssl.figures.scores import in_order, one_mixture, over_seeds, refuse_mixed, scored, seeds_said
from mdssl.figures.style import (
    COLOURS,
    FAINT,
    INK,
    LINES,
    MARKERS,
    PAGE,
    SMALL,
    Figure,
    dataset_label,
    legend,
    look,
    no_negative,
    note,
    panels,
)

LAMBDAS = ("lambda1", "lambda2")
MOST_CURVES = len(COLOURS)
"""Curves over λ2 that a panel can hold."""


@look()
def lambda_curves(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder", width: float = PAGE
) -> Figure:
    """Figure 3: top-1 against λ1 at λ2 = 0, and against λ2 at each λ1. A row of panels per evaluation dataset.

    The paper's figure labels its axis −λ1; here it is λ1. Each dataset has a scale of its own, which its two panels
    share: what λ changes is little beside what datasets differ by.

    Args:
        board: the leaderboard, as `mdssl.leaderboard.board.read` gives it, filtered as you like.
        mixture: which training mixture; needed where there are several.
        features: the layer that was scored.
        width: of the figure, inches.

    Raises:
        ValueError: neither λ has two values; λ2 was varied at more λ1 than can be told apart; or rows differ in more
            than λ and the seed.
    """
    over1, over2, union, mixture = curve_rows(board, mixture=mixture, features=features)
    shown = [name for name, part in (("lambda1", over1), ("lambda2", over2)) if len(part)]
    levels = sorted(over2["lambda1"].unique(), reverse=True)
    rows = pd.concat([over1, over2])
    datasets = in_order(rows["eval_dataset"].unique(), mixture)
    figure, axes = panels(len(datasets) * len(shown), width=width, height=1.15, per_row=len(shown), sharex=True)
    curves: dict[str, object] = {}
    counts: list[int] = []
    for place, dataset in enumerate(datasets):
        of_row = axes[place * len(shown) : (place + 1) * len(shown)]
        for axis, name in zip(of_row, shown, strict=True):
            axis.sharey(of_row[0])
            if name == "lambda1":
                part = over1[over1["eval_dataset"] == dataset]
                found = _curve(axis, part, name, dict(color=INK, marker="h", linestyle="-"))
                counts += found[1]
            else:
                for number, level in enumerate(levels):
                    part = over2[(over2["eval_dataset"] == dataset) & (over2["lambda1"] == level)]
                    line = dict(color=COLOURS[number], marker=MARKERS[number], linestyle=LINES[number % len(LINES)])
                    found = _curve(axis, part, name, line)
                    curves.setdefault(f"λ1 = {level:g}", found[0])
                    counts += found[1]
            baseline = union.loc[union["eval_dataset"] == dataset, "top1"]
            if len(baseline):
                line = axis.axhline(baseline.mean(), color=FAINT, linestyle=(0, (1, 1)), linewidth=1, zorder=1)
                curves["SimCLR on the union"] = line
            axis.set_ylabel("top-1 (%)" if axis is of_row[0] else "")
            axis.tick_params(labelleft=axis is of_row[0])
        of_row[0].set_title(dataset_label(dataset, int(width / len(shown) * 12)), loc="left")
        _not_exaggerated(of_row[0])
    for axis, name in zip(axes[-len(shown) :], shown, strict=True):
        axis.set_xlabel("λ1, at λ2 = 0" if name == "lambda1" else "λ2")
        _mark_values(axis, sorted(rows[name].unique()))
    names = sorted(curves, key=lambda name: name.startswith("SimCLR"))
    legend(figure, [curves[name] for name in names], names)
    dots = " Dots are seeds." if max(counts) > 1 else ""
    note(figure, seeds_said(counts) + dots)
    return figure


def curve_rows(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder"
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
    """What `lambda_curves` shows: rows over λ1 at λ2 = 0, rows over λ2, those of SimCLR on the union, and the mixture.

    The first two are empty where that λ was not varied. Raises as `lambda_curves`.
    """
    rows, union, mixture = grid_rows(board, mixture, features, "lambda curves")
    over1 = rows[rows["lambda2"] == 0]
    over1 = over1 if over1["lambda1"].nunique() > 1 else over1.iloc[:0]
    over2 = rows[rows.groupby("lambda1")["lambda2"].transform("nunique") > 1]
    if over1.empty and over2.empty:
        raise InputError(
            "lambda curves need trials of method mdssl with two values of lambda1 at lambda2 = 0, or of lambda2: sweep "
            "some, python sweeps/lambda_grid.py --lambda1 1 0.9 --lambda2 0 0.1."
        )
    levels = over2["lambda1"].nunique()
    if levels > MOST_CURVES:
        raise InputError(
            f"lambda2 was varied at {levels} values of lambda1, and {MOST_CURVES} curves can be told apart. Keep "
            "some of them, board[board.lambda1.isin([…])], or draw lambda_heatmap."
        )
    return over1, over2, union, mixture


@look()
def lambda_heatmap(
    board: pd.DataFrame,
    eval_dataset: str,
    *,
    mixture: str | None = None,
    features: str = "encoder",
    width: float | None = None,
) -> Figure:
    """Top-1 on one dataset over the grid of λ1 and λ2: means over seeds, the best cell framed, or all that have the
    best score to the decimal that is shown.

    λ of trials that have no score on the dataset, failed ones among them, have their cells too: all maps of one grid
    compare.

    Args:
        board, mixture, features: as for `lambda_curves`.
        eval_dataset: whose scores.
        width: of the figure, inches; by default as wide as its columns need.

    Raises:
        ValueError: there are no such scores, or rows differ in more than λ and the seed.
    """
    rows, union, mixture = grid_rows(board, mixture, features, "a lambda heat map")
    check_name("evaluation dataset", eval_dataset, in_order(rows["eval_dataset"].unique(), mixture))
    means = over_seeds(rows[rows["eval_dataset"] == eval_dataset], LAMBDAS)
    cells = means.pivot(index="lambda1", columns="lambda2", values="mean")
    planned = pd.concat([rows, _unscored(board, rows)])
    lambda1, lambda2 = (np.sort(planned[name].dropna().unique()) for name in LAMBDAS)
    cells = cells.reindex(index=lambda1[::-1], columns=lambda2)
    width = width or min(max(3.3, 0.9 + 0.42 * cells.shape[1]), PAGE)
    figure, (axis,) = panels(1, width=width, height=min(0.5 + 0.26 * len(cells), 8))
    values = cells.to_numpy(dtype=float)
    # Near-white where nothing is: no colour of the map.
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#f2f2f2")
    image = axis.imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(cells.shape[1]), [f"{value:g}" for value in cells.columns])
    axis.set_yticks(range(len(cells)), [f"{value:g}" for value in cells.index])
    axis.tick_params(length=0)
    axis.set_xlabel("λ2")
    axis.set_ylabel("λ1")
    axis.set_title(dataset_label(eval_dataset, int(width * 12), before="top-1 (%) on "), loc="left")
    # As many as the digits that are shown do not tell apart.
    highest = f"{np.nanmax(values):.1f}"
    best = [place for place in np.ndindex(values.shape) if f"{values[place]:.1f}" == highest]
    if cells.shape[1] * 0.3 + 0.7 <= width and len(cells) <= 40:
        _write_values(axis, values, best, image)
    else:
        figure.colorbar(image, ax=axis, label="top-1 (%)", fraction=0.05)
    for row, column in best:
        frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2, zorder=3)
        # Whole at the rim of the map too.
        frame.set_clip_on(False)
        axis.add_patch(frame)
    baseline = union.loc[union["eval_dataset"] == eval_dataset, "top1"]
    said = f"SimCLR on the union: {baseline.mean():.1f}. " if len(baseline) else ""
    empty = " –: no score." if np.isnan(values).any() else ""
    note(figure, f"{said}{cells_said(means)}{empty}")
    return figure


def cells_said(means: pd.DataFrame) -> str:
    """In words, what cells of a heat map are, from the means that it shows."""
    low, high = means["n"].min(), means["n"].max()
    seeds = "One seed" if high == 1 else f"Means over {high if low == high else f'{low} to {high}'} seeds"
    ties = means["mean"].map("{:.1f}".format).eq(f"{means['mean'].max():.1f}").sum()
    return f"{seeds}. Framed: {'the best' if ties == 1 else f'the best {ties}, equal to one decimal'}."


def _unscored(board: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Of the same method, mixture and other settings as ``rows``: those of ``board`` that have no score."""
    own = board[(board["method"] == "mdssl") & (board["train_mixture"] == rows["train_mixture"].iloc[0])]
    return unscored_like(unscored(own), rows.iloc[0])


def grid_rows(
    board: pd.DataFrame, mixture: str | None, features: str, what: str
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The rows of MDSSL and of SimCLR on the union of the same mixture, and that mixture."""
    rows = scored(board, features)
    of_mdssl = rows[rows["method"] == "mdssl"]
    if of_mdssl.empty:
        raise InputError(f"{what} needs trials of method mdssl, and the leaderboard has none.")
    mixture = one_mixture(of_mdssl, mixture)
    rows = rows[rows["train_mixture"] == mixture]
    of_mdssl, union = rows[rows["method"] == "mdssl"], rows[rows["method"] == "simclr"]
    refuse_mixed(of_mdssl, what, varies=LAMBDAS)
    refuse_mixed(pd.concat([of_mdssl, union]), what, varies=("method", *LAMBDAS))
    return of_mdssl, union, mixture


def _curve(axis: Axes, part: pd.DataFrame, name: str, line: dict) -> tuple[object, list[int]]:
    """Draw means over seeds, a band of one standard deviation, and the seeds; the line, and n of each point."""
    means = over_seeds(part, [name]).sort_values(name)
    (drawn,) = axis.plot(means[name], means["mean"], **line)
    if means["n"].max() > 1:
        low, high = means["mean"] - means["std"], means["mean"] + means["std"]
        axis.fill_between(means[name].astype(float), low, high, color=line["color"], alpha=0.15, linewidth=0)
        seeds = dict(linestyle="none", marker=".", markersize=2.5, color=line["color"], alpha=0.7)
        axis.plot(part[name], part["top1"], **seeds)
    return drawn, means["n"].tolist()


def _mark_values(axis: Axes, values: list[float]) -> None:
    """Ticks where values were, if their numbers can stand side by side."""
    gaps = np.diff(values)
    if len(values) <= 4 and gaps.min(initial=np.inf) >= 0.2 * (values[-1] - values[0]):
        axis.set_xticks(values, [f"{value:g}" for value in values])
    else:
        axis.locator_params(axis="x", nbins=4)


def _not_exaggerated(axis: Axes) -> None:
    """At least two points high: half a point of noise shall not look like an effect."""
    low, high = axis.get_ylim()
    if high - low < 2:
        low = max((low + high) / 2 - 1, -0.06)
        axis.set_ylim(low, low + 2)
    no_negative(axis)


def _write_values(axis: Axes, values: np.ndarray, best: list[tuple[int, ...]], image: object) -> None:
    for place in np.ndindex(values.shape):
        value = values[place]
        if np.isnan(value):
            axis.text(place[1], place[0], "–", ha="center", va="center", color=FAINT)
            continue
        # Where white and black stand out as much as each other, by the contrast of WCAG 2.
        luminance = np.dot(np.power(image.cmap(image.norm(value))[:3], 2.2), (0.2126, 0.7152, 0.0722))
        dark = luminance < 0.18
        weight = "bold" if place in best else "normal"
        colour = "white" if dark else INK
        size = SMALL if values.shape[1] > 10 else None
        axis.text(
            place[1], place[0], f"{value:.1f}", ha="center", va="center", color=colour, weight=weight, fontsize=size
        )
