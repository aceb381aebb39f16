"""The style of all figures, and `Figure`, which always draws in this style.

Text has 7 points, which is legible in a column of print and on a page. Colors are those of Okabe and Ito, without
yellow, which is invisible on paper. Markers, line styles and hatches repeat what colors show, for readers in grayscale.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mdssl.config import methods
from mdssl.data.builtin import BUILTIN
from mdssl.terminal import printable

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: of a column of print, and of a page."""

INK, FAINT = "#1a1a1a", "#5f5f5f"
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
SMALL = 6
"""Font size in points; other text has 7."""

_STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    # DejaVu Sans comes with matplotlib. Verdana has the same widths, for readers of an SVG who lack it.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Geneva", "sans-serif"],
    "font.size": 7,
    "axes.titlesize": "medium",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    # Text that stays text can be selected, searched and read aloud, and takes a third of the bytes of outlines.
    "svg.fonttype": "none",
    # With a fixed salt and no dates, the same figure has the same bytes.
    "svg.hashsalt": "mdssl",
    "pdf.fonttype": 42,
}
_DEFAULTS = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style of our figures instead of the notebook's. ``@styled()`` decorates functions that draw."""
    with matplotlib.rc_context({**_DEFAULTS, **_STYLE}), warnings.catch_warnings():
        # Names in scripts that DejaVu lacks: an SVG keeps them as text, other formats show boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Figure(MatplotlibFigure):
    """A figure without pyplot. A notebook shows it as the value of a cell; `mdssl.figures.save` saves it."""

    def draw(self, renderer: Any) -> None:
        # Ticks are created here.
        with styled():
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        # Reset the layout. It starts from the previous one, and the bytes would differ each time.
        for axis in self.axes:
            spot = axis.get_subplotspec()
            if spot is not None:
                axis.set_subplotspec(spot)
        with styled():
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The PNG that Jupyter shows; all its front ends keep PNG in a saved notebook."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        # Half the pixels, so that it is sharp on screens with two pixels for each.
        width, height = (round(inches * 100) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def panels(
    count: int, *, width: float, height: float, per_row: int | None = None, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` inches with ``count`` panels, each ``height`` inches high.

    Args:
        per_row: panels in a row; by default at most two in a column of print, and four on a page.
        sharex: whether panels have one x axis, drawn below the lowest.
    """
    if per_row is None:
        per_row = equal_rows(count, int(width / 1.6))
    rows = -(-count // per_row)
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(width, rows * height + 0.2), layout=layout)
    axes = figure.subplots(rows, per_row, squeeze=False, sharex="col" if sharex else False).flatten().tolist()
    for empty in axes[count:]:
        empty.remove()
    for axis in axes[:count]:
        axis.grid(True, axis="y")
    return figure, axes[:count]


def equal_rows(count: int, most: int) -> int:
    """The length of equal rows of ``count`` items, at most ``most`` each: six are 3 + 3, not 4 + 2."""
    rows = -(-count // max(most, 1))
    return -(-count // rows)


def outer_labels(axes: list[Axes], x: str, y: str) -> None:
    """Labels of the left and lower panels only; each panel keeps its own scale."""
    for number, axis in enumerate(axes):
        spot = axis.get_subplotspec()
        assert spot is not None
        axis.set_ylabel(y if spot.is_first_col() else "")
        axis.set_xlabel(x if number + spot.get_gridspec().ncols >= len(axes) else "")


def no_negative(axis: Axes) -> None:
    """Remove ticks below zero, because no value is negative; markers at zero stay whole."""
    low, high = axis.get_ylim()
    if low < 0:
        high = max(high, 1)
        axis.set_ylim(-0.03 * high, high)


def line(number: int) -> dict[str, Any]:
    """Color, marker and line style of the curve with this number."""
    return dict(color=COLORS[number], marker=MARKERS[number], linestyle=LINES[number % len(LINES)])


def evenly(values: Sequence[Any] | np.ndarray, most: int) -> list[Any]:
    """At most ``most`` of ``values``, evenly from the first to the last."""
    return [values[place] for place in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def plain(text: object) -> str:
    """``text`` as one line to draw: no mathematics between dollar signs, no control characters."""
    return printable(" ".join(str(text).split())).replace("$", r"\$")


def setting(value: object) -> str:
    """The value of a setting as text."""
    return f"{value:g}" if isinstance(value, float | np.floating) else plain(value)


class _AtJoints(textwrap.TextWrapper):
    """Breaks lines behind plus signs, underscores and hyphens, too."""

    wordsep_re = re.compile(r"(\s+)|(?<=[+_-])")


def wrapped(text: object, characters: int, lines: int = 3) -> str:
    """``text`` in lines of at most so many characters. What does not fit into ``lines`` is cut off."""
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
    """Small print below the panels; the figure grows by its lines."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 20))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=FAINT)
    figure.set_figheight(figure.get_figheight() + 0.11 * len(lines))


def legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """One legend for all panels, above them, in as few rows as fit; the figure grows by them.

    Args:
        handles: what matplotlib drew, by label.
    """
    if not handles:
        return
    # In inches: characters, and a handle with its gaps.
    widths = [0.054 * max(len(line) for line in label.split("\n")) + 0.5 for label in handles]
    for rows in range(1, len(widths) + 1):
        # It is filled column by column, each as wide as its longest label.
        if sum(max(widths[first : first + rows]) for first in range(0, len(widths), rows)) <= figure.get_figwidth():
            break
    box: dict[str, Any] = dict(loc="outside upper left", ncols=-(-len(widths) // rows), borderpad=0.3, borderaxespad=0)
    figure.legend(list(handles.values()), list(handles), **box)
    figure.set_figheight(figure.get_figheight() + 0.15 * rows)


def time_unit(hours: pd.Series) -> tuple[str, int]:
    """Unit for ``hours``, and how many of it are an hour."""
    return ("hours", 1) if hours.max() >= 0.5 else ("minutes", 60)


def names_or_number(datasets: Sequence[str]) -> str:
    """The names of a few datasets, or the number of many."""
    return ", ".join(datasets) if len(datasets) <= MOST_NAMES else f"{len(datasets)} datasets"


def in_words(what: str, by_dataset: Sequence[str]) -> str:
    """An alternative text: ``what`` and a sentence for each of the first datasets."""
    more = len(by_dataset) - MOST_NAMES
    return " ".join([what, *by_dataset[:MOST_NAMES], *([f"And {more} more datasets."] if more > 0 else [])])
