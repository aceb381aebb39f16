"""Figure 3 of the paper: curves over λ1 and over λ2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mdssl.errors import InputError
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup, in_order
from mdssl.tables.statistics import over_seeds

LAMBDAS = ["lambda1", "lambda2"]
MOST_CURVES = len(style.COLORS)
"""Curves over λ2 in a panel."""
MOST_DATASETS = 6
"""Evaluation datasets in a figure."""


class Curves(NamedTuple):
    """Rows by the λ that varies, lambda1 at λ2 = 0, and by dataset the mean top-1 of SimCLR on the union."""

    rows: dict[str, pd.DataFrame]
    union: pd.Series
    datasets: list[str]

    def on(self, datasets: list[str]) -> Curves:
        rows = {name: rows[rows["eval_dataset"].isin(datasets)] for name, rows in self.rows.items()}
        return Curves({name: own for name, own in rows.items() if len(own)}, self.union, datasets)

    def counts(self) -> list[int]:
        """Number of seeds of each point."""
        return [n for rows in self.rows.values() for n in over_seeds(rows, ["eval_dataset", *LAMBDAS])["n"]]


def lambda_curves(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder", width: float = style.PAGE
) -> style.Figure:
    """Figure 3: top-1 against λ1 at λ2 = 0, and against λ2 at each λ1. A row of panels per evaluation dataset.

    The axis is λ1, where the paper has −λ1. The two panels of a dataset share a scale. Datasets do not, because they
    differ by more than the effect of λ.

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


def lambda_grid(
    board: pd.DataFrame, mixture: str | None, features: str, what: str
) -> tuple[pd.DataFrame, pd.Series, str]:
    """Return the rows of MDSSL on one mixture; by dataset the mean top-1 of SimCLR on its union, over seeds that MDSSL
    has as well; and the mixture."""
    rows = scores.select(board, features)
    mdssl = rows[rows["method"] == "mdssl"]
    if mdssl.empty:
        raise InputError(f"{what} needs trials of method mdssl, and the leaderboard has none.")
    mixture = scores.one_mixture(mdssl, mixture)
    rows = rows[rows["train_mixture"] == mixture]
    mdssl, union = rows[rows["method"] == "mdssl"], rows[rows["method"] == "simclr"]
    scores.refuse_mixed(pd.concat([mdssl, union]), what, varies=("method", *LAMBDAS))
    union = union.merge(mdssl[["eval_dataset", "seed"]].drop_duplicates())
    return mdssl, union.groupby("eval_dataset")["top1"].mean(), mixture


def varied_lambdas(rows: pd.DataFrame, what: str) -> dict[str, pd.DataFrame]:
    """Return the ``rows`` of `lambda_grid` by the λ that varies among them: λ1 at λ2 = 0, and λ2 at any λ1."""
    over1 = rows[rows["lambda2"] == 0]
    over2 = rows[rows.groupby("lambda1")["lambda2"].transform("nunique") > 1]
    varied = {"lambda1": over1} if over1["lambda1"].nunique() > 1 else {}
    varied |= {"lambda2": over2} if len(over2) else {}
    if not varied:
        raise InputError(
            f"{what} needs trials of method mdssl with two values of lambda1 at lambda2 = 0, or of lambda2: run "
            "mdssl sweep lambda-grid --lambda1 1 0.9 --lambda2 0 0.1."
        )
    return varied


def _curves(board: pd.DataFrame, mixture: str | None, features: str = "encoder") -> Curves:
    rows, union, mixture = lambda_grid(board, mixture, features, "lambda curves")
    varied = varied_lambdas(rows, "a figure of lambda curves")
    levels = varied["lambda2"]["lambda1"].nunique() if "lambda2" in varied else 0
    if levels > MOST_CURVES:
        raise InputError(
            f"lambda2 was varied at {levels} values of lambda1, but only {MOST_CURVES} curves can be distinguished. "
            "Keep some of them, board[board.lambda1.isin([…])], or draw lambda_heatmap."
        )
    return Curves(varied, union, in_order(pd.concat(varied.values())["eval_dataset"], mixture))


def _find_curves(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Curves, Words]]:
    rows, remark = group.rows, ""
    is_on_curve = (rows["method"] == "mdssl") & (rows["lambda2"] != 0)
    levels = np.sort(rows.loc[is_on_curve, "lambda1"].unique())
    if len(levels) > MOST_CURVES:
        rows = rows[~is_on_curve | rows["lambda1"].isin(style.evenly(levels, MOST_CURVES))]
        remark = f" Curves over λ2 are at {MOST_CURVES} of {len(levels)} values of λ1."
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
                name=file_name(group.label(mixture), str(part) if part > 1 else ""),
            )
            yield own, words


def _ranges(curves: Curves, dataset: str) -> str:
    ranges = []
    for name, rows in curves.rows.items():
        means = over_seeds(rows[rows["eval_dataset"] == dataset], LAMBDAS)
        if len(means):
            greek, other, fixed = ("λ1", "λ2", "lambda2") if name == "lambda1" else ("λ2", "λ1", "lambda1")
            high = means.iloc[means["mean"].argmax()]
            means = means[means[fixed] == high[fixed]]
            low = means.iloc[means["mean"].argmin()]
            ranges.append(
                f"over {greek} from {low['mean']:.1f} at {greek} = {low[name]:g} to {high['mean']:.1f} at "
                f"{greek} = {high[name]:g} (at {other} = {high[fixed]:g})"
            )
    return f"{dataset}: {', '.join(ranges)}{union_in_words(curves.union, dataset)}."


def union_in_words(union: pd.Series, dataset: str) -> str:
    return f"; SimCLR on the union has {union[dataset]:.1f} %" if dataset in union else ""


@style.styled()
def _draw_curves(curves: Curves, width: float = style.PAGE) -> style.Figure:
    across = len(curves.rows)
    count = len(curves.datasets) * across
    figure, axes = style.panels(count, width=width, height=1.15, per_row=across, sharex=True)
    handles: dict[str, object] = {}
    for row, dataset in enumerate(curves.datasets):
        left, *_ = of_row = axes[row * across : (row + 1) * across]
        for axis, (name, rows) in zip(of_row, curves.rows.items(), strict=True):
            axis.sharey(left)
            own = rows[rows["eval_dataset"] == dataset]
            if name == "lambda1":
                draw_curve(axis, own, name, color=style.INK, marker="h", linestyle="-")
            levels = sorted(rows["lambda1"].unique(), reverse=True) if name == "lambda2" else []
            for number, level in enumerate(levels):
                line = draw_curve(axis, own[own["lambda1"] == level], name, **style.line(number))
                handles.setdefault(f"λ1 = {level:g}", line)
            if dataset in curves.union:
                dotted: dict[str, Any] = dict(color=style.FAINT, linestyle=style.DOTTED, linewidth=1, zorder=1)
                handles["SimCLR on the union"] = axis.axhline(curves.union[dataset], **dotted)
            axis.tick_params(labelleft=axis is left)
        left.set_ylabel("top-1 (%)")
        left.set_title(style.dataset_label(dataset, style.fits(width / across)), loc="left")
        # At least two points high, so that half a point of noise does not look like an effect.
        low, high = left.get_ylim()
        if high - low < 2:
            low = max((low + high) / 2 - 1, -0.06)
            left.set_ylim(low, low + 2)
        style.no_negative(left, highest=100)
    finish(figure, axes, curves.rows, handles, curves.counts())
    return figure


def finish(
    figure: style.Figure, axes: list[Axes], varied: dict[str, pd.DataFrame], handles: dict[str, Any], counts: list[int]
) -> None:
    """Label the lowest panels, one for each λ of ``varied``, and add the legend and a note on seeds."""
    for axis, name in zip(axes[-len(varied) :], varied, strict=True):
        axis.set_xlabel("λ1, at λ2 = 0" if name == "lambda1" else "λ2")
        values = np.sort(pd.concat(varied.values())[name].unique())
        # Ticks at the values themselves, if there is room for their labels.
        if len(values) <= 4 and np.diff(values).min(initial=np.inf) >= 0.2 * (values[-1] - values[0]):
            axis.set_xticks(values, [f"{value:g}" for value in values])
        else:
            axis.locator_params(axis="x", nbins=4)
    if max(counts) > 1:
        handles[scores.interval_label(counts)] = Patch(color=style.FAINT, alpha=0.3, linewidth=0)
    style.legend(figure, dict(sorted(handles.items(), key=lambda item: item[0].startswith(("SimCLR", "95 %")))))
    style.note(figure, scores.seeds_note(counts) + (" Dots are seeds." if max(counts) > 1 else ""))


def draw_curve(axis: Axes, rows: pd.DataFrame, name: str, values: str = "top1", **line: Any) -> Line2D:
    """Draw means of ``values`` over seeds, a band of 95 % intervals, and the seeds."""
    means = over_seeds(rows, [name], values).sort_values(name)
    (drawn,) = axis.plot(means[name], means["mean"], **line)
    if means["n"].max() > 1:
        low, high = means["mean"] - means["half"], means["mean"] + means["half"]
        axis.fill_between(means[name].astype(float), low, high, color=line["color"], alpha=0.15, linewidth=0)
        axis.plot(rows[name], rows[values], ".", markersize=2.5, color=line["color"], alpha=0.7)
    return drawn


CURVES = FigureKind("lambda-curves", _find_curves, _draw_curves, by_mixture=True)
