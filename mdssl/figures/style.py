"""Colors, panels, legends and labels of all figures.

Colors are those of Okabe and Ito, without yellow, which is invisible on paper. Markers, line styles and hatches repeat
what colors show, for readers in grayscale.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mdssl.config import methods
from mdssl.data.builtin import BUILTIN
from mdssl.figures.look import FAINT, SMALL, Figure
from mdssl.figures.look import INK as INK
from mdssl.figures.look import styled as styled
from mdssl.terminal import printable

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: of a column of print, and of a page."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DOTTED = (0, (1, 1))
LINES = ("-", (0, (5, 1.5)), DOTTED, (0, (5, 1.5, 1, 1.5)))
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----")

_ALONE = replace(methods.METHODS["simclr"], name="alone", label="SimCLR, one domain", color="#BBBBBB")
METHODS = {"alone": _ALONE} | {name: method for name, method in methods.METHODS.items() if method.trains}
"""Methods that train; ``alone`` is SimCLR on a single domain."""

MOST_NAMES = 8
"""Number of datasets that a note or an alternative text lists."""


def scale() -> float:
    """Return the size of text in units of 7 points, for which lengths in inches are made."""
    return float(matplotlib.rcParams["font.size"]) / 7


def fits(inches: float) -> int:
    """Number of characters that fit into ``inches``."""
    return int(inches * 12.5 / scale())


def panels(
    count: int, *, width: float, height: float, per_row: int | None = None, sharex: bool = False, square: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``width`` inches with ``count`` panels, each ``height`` inches high, more with larger text.

    Args:
        per_row: panels in a row; by default at most two in a column of print, and four on a page.
        sharex: whether the panels of a column share the x axis, drawn below the lowest.
        square: whether panels keep their aspect ratio, for which the layout must reserve space.
    """
    if per_row is None:
        per_row = equal_rows(count, int(width / 1.6 / scale()))
    rows = -(-count // per_row)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03, compress=square)
    figure = Figure(figsize=(width, (rows * height + 0.2) * scale()), layout=layout)
    axes = figure.subplots(rows, per_row, squeeze=False, sharex="col" if sharex else False).flatten().tolist()
    for empty in axes[count:]:
        empty.remove()
    for axis in axes[:count]:
        axis.grid(True, axis="y")
    return figure, axes[:count]


def equal_rows(count: int, most: int) -> int:
    """Return the length of equal rows of ``count`` items, at most ``most`` each: six are 3 + 3, not 4 + 2."""
    rows = -(-count // max(most, 1))
    return -(-count // rows)


def outer_labels(axes: list[Axes], x: str, y: str) -> None:
    """Label the left and lower panels only."""
    for number, axis in enumerate(axes):
        spot = axis.get_subplotspec()
        assert spot is not None
        axis.set_ylabel(y if spot.is_first_col() else "")
        axis.set_xlabel(x if number + spot.get_gridspec().ncols >= len(axes) else "")


def no_negative(axis: Axes, highest: float = float("inf")) -> None:
    """Limit the y axis to the values that exist, from 0 to ``highest``, with a margin for markers."""
    low, high = axis.get_ylim()
    if high > 1.03 * highest:
        high = 1.03 * highest
        axis.set_ylim(low, high)
    if low < 0:
        high = max(high, 1)
        axis.set_ylim(-0.03 * high, high)


def line(number: int) -> dict[str, Any]:
    """Color, marker and line style of the curve with this number."""
    return dict(color=COLORS[number], marker=MARKERS[number], linestyle=LINES[number % len(LINES)])


def evenly(values: Sequence[Any] | np.ndarray, most: int) -> list[Any]:
    """Return at most ``most`` of ``values``, evenly from the first to the last."""
    if not len(values):
        return []
    return [values[place] for place in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def plain(text: object) -> str:
    """``text`` as one line to draw: no mathematics between dollar signs, no control characters."""
    return printable(" ".join(str(text).split())).replace("$", r"\$")


def setting_name(name: str) -> str:
    """Return the name of a setting as axes and captions show it."""
    short = {"lambda1": "λ1", "lambda2": "λ2", "train_mixture": "mixture"}
    return short.get(name, name.replace("_", " "))


def setting(value: object) -> str:
    """Return the value of a setting as text."""
    return f"{value:g}" if isinstance(value, float | np.floating) else plain(value)


class _AtJoints(textwrap.TextWrapper):
    """Also breaks lines after plus signs, underscores and hyphens, but not at no-break spaces."""

    wordsep_re = re.compile(r"( +)|(?<=[+_-])")


def wrapped(text: object, characters: int, lines: int = 3) -> str:
    """Break ``text`` into at most ``lines`` lines of ``characters``, and cut off the rest."""
    found = _AtJoints(characters).wrap(str(text)) or [""]
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: characters - 1] + "…"]
    return "\n".join(plain(line) for line in found)


def dataset_label(name: str, characters: int = 24, *, before: str = "") -> str:
    """``before`` and the name of a dataset in lines; built-in domains are marked as synthetic."""
    label = wrapped(before + name, characters, lines=4 if before else 3)
    if name not in BUILTIN:
        return label
    fits = len(label.split("\n")[-1]) + len(" (synthetic)") <= characters
    return f"{label}{' ' if fits else chr(10)}(synthetic)"


def note(figure: Figure, text: str) -> None:
    """Add small print below the panels and enlarge the figure by its lines, if the look has notes."""
    if not figure.look.notes:
        return
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 20 / scale()))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=FAINT)
    figure.set_figheight(figure.get_figheight() + 0.11 * scale() * len(lines))


def legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Add one legend above all panels, in as few rows as possible, and enlarge the figure by them.

    Args:
        handles: what matplotlib drew, by label.
    """
    if not handles:
        return
    # In inches: characters, and a handle with its gaps.
    widths = [(0.054 * max(len(line) for line in label.split("\n")) + 0.5) * scale() for label in handles]
    for rows in range(1, len(widths) + 1):
        # It is filled column by column, each as wide as its longest label.
        if sum(max(widths[first : first + rows]) for first in range(0, len(widths), rows)) <= figure.get_figwidth():
            break
    box: dict[str, Any] = dict(loc="outside upper left", ncols=-(-len(widths) // rows), borderpad=0.3, borderaxespad=0)
    figure.legend(list(handles.values()), list(handles), **box)
    figure.set_figheight(figure.get_figheight() + 0.15 * scale() * rows)


def time_unit(hours: pd.Series) -> tuple[str, int]:
    """Return a unit for ``hours``, and the number of units in an hour."""
    return ("hours", 1) if hours.max() >= 0.5 else ("minutes", 60)


def names_or_number(datasets: Sequence[str]) -> str:
    """Return the names of the datasets, or their number if they are many."""
    return ", ".join(datasets) if len(datasets) <= MOST_NAMES else f"{len(datasets)} datasets"


def in_words(what: str, by_dataset: Sequence[str]) -> str:
    """Return an alternative text: ``what`` and a sentence for each of the first datasets."""
    more = len(by_dataset) - MOST_NAMES
    return " ".join([what, *by_dataset[:MOST_NAMES], *([f"And {more} more datasets."] if more > 0 else [])])
