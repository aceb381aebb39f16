"""Figures of a grid of λ1 and λ2: curves over each (figure 3 of the paper), and heat maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mdssl.errors import InputError, check_name
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words
from mdssl.figures.scores import SettingsGroup, in_order, over_seeds

LAMBDAS = ["lambda1", "lambda2"]
MOST_CURVES = len(style.COLORS)
"""Curves over λ2 in a panel."""
MOST_DATASETS = 6
"""Evaluation datasets in a figure of curves."""
MOST_HEATMAPS = 12
"""Evaluation datasets of a mixture that get a heat map."""


class Curves(NamedTuple):
    """Rows over λ1 at λ2 = 0, and rows over λ2, empty where that λ was not varied; by dataset the mean top-1 of SimCLR
    on the union."""

    over1: pd.DataFrame
    over2: pd.DataFrame
    union: pd.Series
    datasets: list[str]

    def on(self, datasets: list[str]) -> Curves:
        over1, over2 = (rows[rows["eval_dataset"].isin(datasets)] for rows in (self.over1, self.over2))
        return Curves(over1, over2, self.union, datasets)

    def counts(self) -> list[int]:
        """Number of seeds of each point."""
        return [n for rows in (self.over1, self.over2) for n in over_seeds(rows, ["eval_dataset", *LAMBDAS])["n"]]


class Heatmap(NamedTuple):
    """Means over seeds on one dataset; ``cells`` has a row per λ1, the highest first, and a column per λ2."""

    dataset: str
    means: pd.DataFrame
    cells: pd.DataFrame
    union: pd.Series

    def ties(self) -> int:
        """Number of cells that are the best to the decimal that is shown."""
        return int(self.means["mean"].map("{:.1f}".format).eq(f"{self.means['mean'].max():.1f}").sum())

    def note(self) -> str:
        low, high = self.means["n"].min(), self.means["n"].max()
        seeds = "One seed" if high == 1 else f"Means over {high if low == high else f'{low} to {high}'} seeds"
        ties = self.ties()
        return f"{seeds}. Framed: {'the best' if ties == 1 else f'the best {ties}, equal to one decimal'}."


def lambda_curves(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder", width: float = style.PAGE
) -> style.Figure:
    """Figure 3: top-1 against λ1 at λ2 = 0, and against λ2 at each λ1. A row of panels per evaluation dataset.

    The figure in the paper labels its axis −λ1; here it is λ1. The two panels of a dataset share a scale; datasets do
    not, because they differ more than λ changes them.

    Args:
        board: the leaderboard, as `mdssl.leaderboard.board.read` returns it, or some of its rows.
        mixture: the training mixture; required where there are several.
        features: the layer that was scored.
        width: of the figure, inches.

    Raises:
        ValueError: neither λ has two values; λ2 was varied at more λ1 than colors distinguish; or rows differ in more
            than λ and the seed.
    """
    return _draw_curves(_curves(board, mixture, features), width)


def lambda_heatmap(
    board: pd.DataFrame,
    eval_dataset: str,
    *,
    mixture: str | None = None,
    features: str = "encoder",
    width: float | None = None,
) -> style.Figure:
    """Top-1 on one dataset over the grid of λ1 and λ2: means over seeds. All cells that are best to the decimal that is
    shown are framed. Trials without a score on the dataset, such as failed ones, have empty cells, so all maps of a
    grid align.

    Args:
        board, mixture, features: as for `lambda_curves`.
        eval_dataset: the dataset of the scores.
        width: of the figure, inches; by default as wide as its columns need.

    Raises:
        ValueError: there are no such scores, or rows differ in more than λ and the seed.
    """
    mdssl, union, mixture = _grid(board, mixture, features, "a lambda heat map")
    check_name("evaluation dataset", eval_dataset, in_order(mdssl["eval_dataset"], mixture))
    return _draw_heatmap(_heatmap(mdssl, union, eval_dataset, scores.unscored(board)), width)


def _grid(board: pd.DataFrame, mixture: str | None, features: str, what: str) -> tuple[pd.DataFrame, pd.Series, str]:
    """The rows of MDSSL on one mixture, by dataset the mean top-1 of SimCLR on its union, and the mixture."""
    rows = scores.select(board, features)
    mdssl = rows[rows["method"] == "mdssl"]
    if mdssl.empty:
        raise InputError(f"{what} needs trials of method mdssl, and the leaderboard has none.")
    mixture = scores.one_mixture(mdssl, mixture)
    rows = rows[rows["train_mixture"] == mixture]
    mdssl, union = rows[rows["method"] == "mdssl"], rows[rows["method"] == "simclr"]
    scores.refuse_mixed(mdssl, what, varies=LAMBDAS)
    scores.refuse_mixed(pd.concat([mdssl, union]), what, varies=("method", *LAMBDAS))
    return mdssl, union.groupby("eval_dataset")["top1"].mean(), mixture


def _curves(board: pd.DataFrame, mixture: str | None, features: str = "encoder") -> Curves:
    rows, union, mixture = _grid(board, mixture, features, "lambda curves")
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
    return Curves(over1, over2, union, in_order([*over1["eval_dataset"], *over2["eval_dataset"]], mixture))


def _find_curves(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Curves, Words]]:
    rows, remark = group.rows, ""
    mdssl = rows["method"] == "mdssl"
    levels = np.sort(rows.loc[mdssl & (rows["lambda2"] != 0), "lambda1"].unique())
    if len(levels) > MOST_CURVES:
        some = style.evenly(levels, MOST_CURVES)
        rows = rows[~mdssl | (rows["lambda2"] == 0) | rows["lambda1"].isin(some)]
        remark = f" Curves over λ2 are at {len(some)} of {len(levels)} values of λ1."
    for mixture, curves in scores.each_mixture(rows, _curves):
        count = len(curves.datasets)
        for part, first in enumerate(range(0, count, MOST_DATASETS), start=1):
            own = curves.on(curves.datasets[first : first + MOST_DATASETS])
            of = f", datasets {first + 1} to {first + len(own.datasets)}" if count > MOST_DATASETS else ""
            words = Words(
                title=f"Top-1 against λ1 and λ2, trained on {mixture}{of}",
                caption="Corresponds to figure 3 of the paper, with λ1 on the axis instead of −λ1. Each dataset has "
                f"its own scale. {scores.seeds_note(own.counts())}{remark}",
                alt=style.in_words("Top-1 in percent on", [_ranges(own, dataset) for dataset in own.datasets]),
                name=(group.label(mixture), str(part) if part > 1 else ""),
            )
            yield own, words


def _ranges(curves: Curves, dataset: str) -> str:
    ranges = []
    for rows, greek, other in ((curves.over1, "λ1", "λ2"), (curves.over2, "λ2", "λ1")):
        means = over_seeds(rows[rows["eval_dataset"] == dataset], LAMBDAS)
        means = means.rename(columns={"lambda1": "λ1", "lambda2": "λ2"})
        if len(means):
            high = means.loc[means["mean"].idxmax()]
            means = means[means[other] == high[other]]
            low = means.loc[means["mean"].idxmin()]
            ranges.append(
                f"over {greek} from {low['mean']:.1f} at {greek} = {low[greek]:g} to {high['mean']:.1f} at "
                f"{greek} = {high[greek]:g} (at {other} = {high[other]:g})"
            )
    return f"{dataset}: {', '.join(ranges)}{_union_in_words(curves.union, dataset)}."


def _union_in_words(union: pd.Series, dataset: str) -> str:
    return f"; SimCLR on the union has {union[dataset]:.1f} %" if dataset in union else ""


@style.styled()
def _draw_curves(curves: Curves, width: float = style.PAGE) -> style.Figure:
    shown = {name: rows for name, rows in zip(LAMBDAS, (curves.over1, curves.over2), strict=True) if len(rows)}
    figure, axes = style.panels(
        len(curves.datasets) * len(shown), width=width, height=1.15, per_row=len(shown), sharex=True
    )
    handles: dict[str, object] = {}
    for row, dataset in enumerate(curves.datasets):
        left, *_ = of_row = axes[row * len(shown) : (row + 1) * len(shown)]
        for axis, (name, rows) in zip(of_row, shown.items(), strict=True):
            axis.sharey(left)
            own = rows[rows["eval_dataset"] == dataset]
            if name == "lambda1":
                _draw_curve(axis, own, name, color=style.INK, marker="h", linestyle="-")
            else:
                for number, level in enumerate(sorted(rows["lambda1"].unique(), reverse=True)):
                    line = _draw_curve(axis, own[own["lambda1"] == level], name, **style.line(number))
                    handles.setdefault(f"λ1 = {level:g}", line)
            if dataset in curves.union:
                look = dict(color=style.FAINT, linestyle=style.DOTTED, linewidth=1, zorder=1)
                handles["SimCLR on the union"] = axis.axhline(curves.union[dataset], **look)
            axis.tick_params(labelleft=axis is left)
        left.set_ylabel("top-1 (%)")
        left.set_title(style.dataset_label(dataset, int(width / len(shown) * 12)), loc="left")
        # At least two points high, so that half a point of noise does not look like an effect.
        low, high = left.get_ylim()
        if high - low < 2:
            low = max((low + high) / 2 - 1, -0.06)
            left.set_ylim(low, low + 2)
        style.no_negative(left)
    for axis, name in zip(axes[-len(shown) :], shown, strict=True):
        axis.set_xlabel("λ1, at λ2 = 0" if name == "lambda1" else "λ2")
        values = sorted({*curves.over1[name], *curves.over2[name]})
        # Ticks at the values themselves, if there is room for their labels.
        if len(values) <= 4 and np.diff(values).min(initial=np.inf) >= 0.2 * (values[-1] - values[0]):
            axis.set_xticks(values, [f"{value:g}" for value in values])
        else:
            axis.locator_params(axis="x", nbins=4)
    style.legend(figure, dict(sorted(handles.items(), key=lambda item: item[0].startswith("SimCLR"))))
    style.note(figure, scores.seeds_note(curves.counts()) + (" Dots are seeds." if max(curves.counts()) > 1 else ""))
    return figure


def _draw_curve(axis: Axes, rows: pd.DataFrame, name: str, **line: object) -> Line2D:
    """Draw means over seeds, a band of one standard deviation, and the seeds."""
    means = over_seeds(rows, [name]).sort_values(name)
    (drawn,) = axis.plot(means[name], means["mean"], **line)
    if means["n"].max() > 1:
        low, high = means["mean"] - means["std"], means["mean"] + means["std"]
        axis.fill_between(means[name].astype(float), low, high, color=line["color"], alpha=0.15, linewidth=0)
        dots = dict(linestyle="none", marker=".", markersize=2.5, color=line["color"], alpha=0.7)
        axis.plot(rows[name], rows["top1"], **dots)
    return drawn


def _heatmap(mdssl: pd.DataFrame, union: pd.Series, dataset: str, without: pd.DataFrame) -> Heatmap:
    """The heat map of ``dataset``, with empty cells for those trials of ``without``, rows that have no score."""
    means = over_seeds(mdssl[mdssl["eval_dataset"] == dataset], LAMBDAS)
    first = mdssl.iloc[0]
    without = without[(without["method"] == "mdssl") & (without["train_mixture"] == first["train_mixture"])]
    planned = pd.concat([mdssl[LAMBDAS], scores.unscored_like(without, first)[LAMBDAS]])
    lambda1, lambda2 = (np.sort(planned[name].dropna().unique()) for name in LAMBDAS)
    cells = means.pivot(index="lambda1", columns="lambda2", values="mean")
    return Heatmap(dataset, means, cells.reindex(index=lambda1[::-1], columns=lambda2), union)


def _find_heatmaps(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Heatmap, Words]]:
    def read(rows: pd.DataFrame, mixture: str) -> tuple[pd.DataFrame, pd.Series, str]:
        grid = _grid(rows, mixture, "encoder", "a lambda heat map")
        if len(grid[0][LAMBDAS].drop_duplicates()) < 2:
            raise InputError(
                "a lambda heat map needs trials of method mdssl with two pairs of lambda1 and lambda2: "
                "python sweeps/lambda_grid.py."
            )
        return grid

    for mixture, (mdssl, union, _) in scores.each_mixture(group.rows, read):
        datasets = in_order(mdssl["eval_dataset"], mixture)
        others = len(datasets[MOST_HEATMAPS:])
        for dataset in datasets[:MOST_HEATMAPS]:
            heatmap = _heatmap(mdssl, union, dataset, group.unscored)
            means, ties = heatmap.means, heatmap.ties()
            low, high = means.loc[means["mean"].idxmin()], means.loc[means["mean"].idxmax()]
            rank = "the best" if ties == 1 else f"one of {ties} that are the best to one decimal"
            words = Words(
                title=f"Top-1 on {dataset} over λ1 and λ2, trained on {mixture}",
                caption=heatmap.note() + (f" {others} more datasets have no heat map." if others else ""),
                alt=f"Heat map of {len(means)} cells: top-1 on {dataset} from {low['mean']:.1f} % at "
                f"λ1 = {low['lambda1']:g}, λ2 = {low['lambda2']:g} to {high['mean']:.1f} % at "
                f"λ1 = {high['lambda1']:g}, λ2 = {high['lambda2']:g}, {rank}{_union_in_words(union, dataset)}.",
                name=(group.label(mixture), dataset),
            )
            yield heatmap, words


@style.styled()
def _draw_heatmap(heatmap: Heatmap, width: float | None = None) -> style.Figure:
    cells, values = heatmap.cells, heatmap.cells.to_numpy(dtype=float)
    rows, columns = values.shape
    width = width or min(max(3.3, 0.9 + 0.42 * columns), style.PAGE)
    figure, (axis,) = style.panels(1, width=width, height=min(0.5 + 0.26 * rows, 8))
    # Cells without a score are light grey, which is no color of the map.
    colors = matplotlib.colormaps["cividis"].with_extremes(bad="#f2f2f2")
    image = axis.imshow(np.ma.masked_invalid(values), cmap=colors, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(columns), [f"{value:g}" for value in cells.columns])
    axis.set_yticks(range(rows), [f"{value:g}" for value in cells.index])
    axis.tick_params(length=0)
    axis.set_xlabel("λ2")
    axis.set_ylabel("λ1")
    axis.set_title(style.dataset_label(heatmap.dataset, int(width * 12), before="top-1 (%) on "), loc="left")
    highest = f"{np.nanmax(values):.1f}"
    has_numbers = columns * 0.3 + 0.7 <= width and rows <= 40
    if not has_numbers:
        figure.colorbar(image, ax=axis, label="top-1 (%)", fraction=0.05)
    for (row, column), value in np.ndenumerate(values):
        is_best = f"{value:.1f}" == highest
        if is_best:
            frame = dict(fill=False, edgecolor=style.COLORS[1], linewidth=2, zorder=3, clip_on=False)
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
        if has_numbers:
            # White where it has more contrast than black (WCAG 2).
            luminance = np.dot(np.power(image.cmap(image.norm(value))[:3], 2.2), (0.2126, 0.7152, 0.0722))
            color = style.FAINT if np.isnan(value) else "white" if luminance < 0.18 else style.INK
            text = dict(ha="center", va="center", color=color, weight="bold" if is_best else "normal")
            size = style.SMALL if columns > 10 and not np.isnan(value) else None
            axis.text(column, row, "–" if np.isnan(value) else f"{value:.1f}", fontsize=size, **text)
    union = heatmap.union.get(heatmap.dataset)
    baseline = "" if union is None else f"SimCLR on the union: {union:.1f}. "
    style.note(figure, f"{baseline}{heatmap.note()}{' –: no score.' if np.isnan(values).any() else ''}")
    return figure


CURVES = FigureKind("lambda-curves", _find_curves, _draw_curves)
HEATMAPS = FigureKind("lambda-heatmap", _find_heatmaps, _draw_heatmap)
