"""The validation score of a sweep's trials over pairs of the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.tri import Triangulation

from mdssl.errors import InputError
from mdssl.figures import style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import draw_best, drawn, each_sweep, first_group, is_number, label_axis, tried

MOST_PAIRS = 6
LEAST_TRIALS = 6


class Pair(NamedTuple):
    """Two settings, the mean ``val`` of the trials at each pair of their values, and triangles between these."""

    x: str
    y: str
    means: pd.DataFrame
    triangles: np.ndarray


class Contours(NamedTuple):
    pairs: list[Pair]
    best: pd.Series
    note: str


def setting_contours(board: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Validation top-1 over pairs of numeric settings of a sweep: linear interpolation between trials.

    Only trials of the most frequent method are shown. Where several share a pair of values, their mean is shown; the
    other settings differ from trial to trial.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it; of several sweeps, the one with most trials is drawn.
        width: of the figure, inches.

    Raises:
        ValueError: fewer than `LEAST_TRIALS` trials have a validation score, or no two numeric settings differ
            independently.
    """
    return _draw(_contours(first_group(each_sweep(board))), width)


def _contours(group: SettingsGroup) -> Contours:
    # At the same values another method has another score, so a mean of both would describe neither.
    trials, names, note = tried(group, "a contour map", LEAST_TRIALS, one_method=True)
    numbers = [name for name in names if is_number(trials[name])]
    pairs = [pair for x, y in combinations(numbers, 2) if (pair := _pair(trials, x, y))]
    if not pairs:
        raise InputError(
            "a contour map needs two settings with numbers that differ independently, but the "
            f"trials differ in {', '.join(numbers) or 'none'}."
        )
    more = f" {len(pairs) - MOST_PAIRS} more pairs are not shown." if len(pairs) > MOST_PAIRS else ""
    return Contours(pairs[:MOST_PAIRS], trials.iloc[trials["val"].argmax()], f"{note}{more}")


def _pair(trials: pd.DataFrame, x: str, y: str) -> Pair | None:
    """Return None if the values are on one line."""
    means = trials[[x, y, "val"]].astype(float).groupby([x, y])["val"].mean().reset_index()
    places = np.stack([drawn(means[name]) for name in (x, y)], axis=1)
    # Scaled alike, because the triangulation would be of slivers.
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-12)
    if len(means) < 4 or np.linalg.matrix_rank(places - places.mean(axis=0), tol=1e-6) < 2:
        return None
    return Pair(x, y, means, Triangulation(*places.T).triangles)


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Contours, Words]]:
    found = _contours(group)
    named = [f"{style.setting_name(pair.x)} and {style.setting_name(pair.y)}" for pair in found.pairs]
    at = ", ".join(
        f"{style.setting_name(name)} {style.setting(found.best[name])}"
        for name in dict.fromkeys(name for pair in found.pairs for name in (pair.x, pair.y))
    )
    words = Words(
        title=f"Validation score over pairs of settings, sweep {group.name}",
        caption=f"Validation top-1 on held-out training images, mean over datasets, interpolated linearly between "
        f"trials (points). {found.note} The star is the best trial. In each panel, the other settings "
        "differ from trial to trial.",
        alt=f"Contour maps over {'; '.join(named)}. The best, {found.best['val']:.1f} %, is at {at}.",
        name=file_name(group.name),
    )
    yield found, words


@style.styled()
def _draw(found: Contours, width: float = style.PAGE) -> style.Figure:
    figure, axes = style.panels(
        len(found.pairs), width=width, height=1.9, per_row=min(len(found.pairs), max(1, int(width / 2.2)))
    )
    values = np.concatenate([pair.means["val"] for pair in found.pairs])
    levels = np.linspace(values.min(), max(values.max(), values.min() + 0.1), 11)
    for axis, pair in zip(axes, found.pairs, strict=True):
        x, y = drawn(pair.means[pair.x]), drawn(pair.means[pair.y])
        mesh = Triangulation(x, y, pair.triangles)
        filled = axis.tricontourf(mesh, pair.means["val"], levels=levels, cmap="cividis", extend="neither")
        axis.scatter(x, y, s=5, color="white", edgecolor=style.INK, linewidth=0.4, zorder=2)
        best = (pair.means[pair.x] == found.best[pair.x]) & (pair.means[pair.y] == found.best[pair.y])
        draw_best(axis, x[best], y[best], edge="white")
        axis.grid(False)
        # Points on the border are drawn whole.
        axis.use_sticky_edges = False
        axis.margins(0.04)
        label_axis(axis.xaxis, pair.x, pair.means[pair.x])
        label_axis(axis.yaxis, pair.y, pair.means[pair.y])
    figure.colorbar(filled, ax=axes, label="validation top-1 (%)", fraction=0.05, format="%.1f")
    style.note(figure, style.plain(f"{found.note} Interpolated linearly between the points; the star is the best."))
    return figure


CONTOURS = FigureKind("contours", _find, _draw, each_sweep)
