"""Heat maps of scores over a grid of λ1 and λ2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from matplotlib.patches import Rectangle

from mdssl.errors import InputError, check_name
from mdssl.figures import scores, style
from mdssl.figures.curves import LAMBDAS, lambda_grid, union_in_words
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup, in_order
from mdssl.tables.select import SELECTED_ON_TEST
from mdssl.tables.statistics import over_seeds

MOST_DATASETS = 12
"""Number of evaluation datasets of a mixture that are drawn."""


class Heatmap(NamedTuple):
    """Means over seeds on one dataset; ``cells`` has a row per λ1, the highest first, and a column per λ2."""

    dataset: str
    means: pd.DataFrame
    cells: pd.DataFrame
    union: pd.Series

    def ties(self) -> int:
        """Number of cells that are the best to the decimal that is shown."""
        return int(self.means["mean"].map("{:.1f}".format).eq(f"{self.means['mean'].max():.1f}").sum())

    @property
    def baseline(self) -> float | None:
        """Mean top-1 of SimCLR on the union; None without such trials."""
        return float(self.union[self.dataset]) if self.dataset in self.union else None

    @property
    def frames_best(self) -> bool:
        """Whether the best is above the baseline to the decimal that is shown, or there is none."""
        return self.baseline is None or round(self.means["mean"].max(), 1) > round(self.baseline, 1)

    def note(self) -> str:
        seeds = scores.span(self.means["n"], "One seed", "Means over {} seeds")
        if not self.frames_best:
            return f"{seeds}. No cell is above SimCLR on the union."
        best = scores.span([self.ties()], "the best", "the best {}, equal to one decimal")
        return f"{seeds}. Framed: {best}. {SELECTED_ON_TEST}"


def lambda_heatmap(
    board: pd.DataFrame,
    eval_dataset: str,
    *,
    mixture: str | None = None,
    features: str = "encoder",
    width: float | None = None,
) -> style.Figure:
    """Draw top-1 on one dataset over the grid of λ1 and λ2: means over seeds.

    Colors diverge about SimCLR on the union, where it was scored: blue is above it, red below. Cells that are best to
    one decimal are framed, if they are above it. Trials without a score on the dataset, such as failed ones, have empty
    cells, so all maps of a grid align.

    Args:
        board, mixture, features: as for `mdssl.figures.lambda_curves`.
        eval_dataset: the dataset of the scores.
        width: of the figure, inches; by default as wide as its columns need.

    Raises:
        ValueError: there are no such scores, or rows differ in more than λ and the seed.
    """
    mdssl, union, mixture = lambda_grid(board, mixture, features, "a lambda heat map")
    check_name("evaluation dataset", eval_dataset, in_order(mdssl["eval_dataset"], mixture))
    return _draw(_heatmap(mdssl, union, eval_dataset, scores.unscored(board)), width)


def _heatmap(mdssl: pd.DataFrame, union: pd.Series, dataset: str, without: pd.DataFrame) -> Heatmap:
    """Return the heat map of ``dataset``, with empty cells for those trials of ``without``, rows that have no score."""
    means = over_seeds(mdssl[mdssl["eval_dataset"] == dataset], LAMBDAS)
    first = mdssl.iloc[0]
    without = without[(without["method"] == "mdssl") & (without["train_mixture"] == first["train_mixture"])]
    planned = pd.concat([mdssl[LAMBDAS], scores.unscored_like(without, first)[LAMBDAS]])
    lambda1, lambda2 = (np.sort(planned[name].dropna().unique()) for name in LAMBDAS)
    cells = means.pivot(index="lambda1", columns="lambda2", values="mean")
    return Heatmap(dataset, means, cells.reindex(index=lambda1[::-1], columns=lambda2), union)


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Heatmap, Words]]:
    def read(rows: pd.DataFrame, mixture: str) -> tuple[pd.DataFrame, pd.Series, str]:
        grid = lambda_grid(rows, mixture, "encoder", "a lambda heat map")
        if len(grid[0][LAMBDAS].drop_duplicates()) < 2:
            raise InputError(
                "a lambda heat map needs trials of method mdssl with two pairs of lambda1 and lambda2: "
                "run mdssl sweep lambda-grid."
            )
        return grid

    for mixture, (mdssl, union, _) in scores.each_mixture(group.rows, read):
        datasets = in_order(mdssl["eval_dataset"], mixture)
        others = len(datasets[MOST_DATASETS:])
        for dataset in datasets[:MOST_DATASETS]:
            heatmap = _heatmap(mdssl, union, dataset, group.unscored)
            means = heatmap.means
            low, high = means.iloc[means["mean"].argmin()], means.iloc[means["mean"].argmax()]
            rank = scores.span([heatmap.ties()], "the best", "one of {} that are the best to one decimal")
            diverges = (
                "" if heatmap.baseline is None else " Colors diverge about SimCLR on the union: blue is above it."
            )
            words = Words(
                title=f"Top-1 on {dataset} over λ1 and λ2, trained on {mixture}",
                caption=heatmap.note() + diverges + (f" {others} more datasets have no heat map." if others else ""),
                alt=f"Heat map of {len(means)} cells: top-1 on {dataset} from {low['mean']:.1f} % at "
                f"λ1 = {low['lambda1']:g}, λ2 = {low['lambda2']:g} to {high['mean']:.1f} % at "
                f"λ1 = {high['lambda1']:g}, λ2 = {high['lambda2']:g}, {rank}{union_in_words(union, dataset)}.",
                name=file_name(group.label(mixture), dataset),
            )
            yield heatmap, words


@style.styled()
def _draw(heatmap: Heatmap, width: float | None = None) -> style.Figure:
    cells, values = heatmap.cells, heatmap.cells.to_numpy(dtype=float)
    rows, columns = values.shape
    scale, baseline = style.scale(), heatmap.baseline
    width = width or min(max(3.3, 0.9 + 0.42 * columns) * scale, style.PAGE)
    figure, (axis,) = style.panels(1, width=width, height=min(0.5 + 0.26 * rows, 8))
    # Cells without a score are light gray, which is not a color of the map.
    colors = matplotlib.colormaps["cividis" if baseline is None else "RdBu"].with_extremes(bad="#f2f2f2")
    norm = None if baseline is None else CenteredNorm(baseline, max(np.nanmax(np.abs(values - baseline)), 0.5))
    image = axis.imshow(np.ma.masked_invalid(values), cmap=colors, norm=norm, aspect="auto")
    axis.grid(False)
    axis.set_xticks(range(columns), [f"{value:g}" for value in cells.columns])
    axis.set_yticks(range(rows), [f"{value:g}" for value in cells.index])
    axis.tick_params(length=0)
    axis.set(xlabel="λ2", ylabel="λ1")
    axis.set_title(style.dataset_label(heatmap.dataset, style.fits(width - 0.4), before="top-1 (%) on "), loc="left")
    has_numbers = (columns * 0.3 + 0.7) * scale <= width and rows <= 40
    if baseline is not None:
        # From the lowest to the highest score, with the baseline named.
        bar = figure.colorbar(image, cax=axis.inset_axes((1.02, 0, 0.05, 1)), ticks=[baseline])
        bar.ax.set_ylim(min(np.nanmin(values), baseline - 0.1), max(np.nanmax(values), baseline + 0.1))
        bar.ax.set_yticklabels([f"SimCLR,\nunion: {baseline:.1f}"])
        bar.outline.set_visible(False)
    elif not has_numbers:
        figure.colorbar(image, ax=axis, label="top-1 (%)", fraction=0.05)
    for (row, column), value in np.ndenumerate(values):
        is_best = heatmap.frames_best and f"{value:.1f}" == f"{np.nanmax(values):.1f}"
        if is_best:
            frame: dict[str, Any] = dict(fill=False, edgecolor=style.INK, linewidth=2, zorder=3, clip_on=False)
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **frame))
        if has_numbers:
            # White where it has more contrast than black (WCAG 2).
            luminance = np.dot(np.power(image.cmap(image.norm(value))[:3], 2.2), (0.2126, 0.7152, 0.0722))
            color = style.FAINT if np.isnan(value) else "white" if luminance < 0.18 else style.INK
            text: dict[str, Any] = dict(ha="center", va="center", color=color, weight="bold" if is_best else "normal")
            size = style.SMALL if columns > 10 and not np.isnan(value) else None
            axis.text(column, row, "–" if np.isnan(value) else f"{value:.1f}", fontsize=size, **text)
    of_union = "" if baseline is None else f"SimCLR on the union: {baseline:.1f}; blue is above it, red below. "
    style.note(figure, f"{of_union}{heatmap.note()}{' –: no score.' if np.isnan(values).any() else ''}")
    return figure


HEATMAPS = FigureKind("lambda-heatmap", _find, _draw, by_mixture=True)
