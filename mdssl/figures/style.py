"""How all figures look, and `Figure`, which keeps that look wherever it is drawn.

Sizes are those of print: type of 7 points is read at the width of a column as at that of a page. Colours are Okabe and
Ito's, without their yellow, which is invisible on paper; a marker, a line style or a hatch says the same once more, for
readers in greyscale.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from mdssl.data.builtin import BUILTIN
from mdssl.terminal import printable

COLUMN, PAGE = 3.3, 7.0
"""Widths in inches: of a column of print, and of a page."""

INK, FAINT, PAPER = "#1a1a1a", "#5f5f5f", "white"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette, in the order of use."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----")

METHODS = {
    "alone": ("SimCLR, one domain", "#BBBBBB"),
    "simclr": ("SimCLR, union", "#56B4E9"),
    "mdssl": ("MDSSL", "#D55E00"),
    "mdssl-clustered": ("MDSSL, clustered", "#009E73"),
    "mdssl-robust": ("MDSSL, robust clustering", "#CC79A7"),
}
"""By method what it is called and its colour; ``alone`` is SimCLR on a single domain."""

SIZE, SMALL = 7, 6
"""Of type, in points."""

_LOOK = {
    "font.family": "sans-serif",
    # The first comes with matplotlib. Of the others Verdana has its widths, where a reader's machine lacks it.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Geneva", "sans-serif"],
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "legend.fontsize": SIZE,
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
    # Text that stays text is selected, searched and read aloud, and is a third of the bytes of its outlines. The price
    # is that the reader's fonts draw it; the families above keep its widths.
    "svg.fonttype": "none",
    # A fixed salt, and no dates: the same figure is the same bytes.
    "svg.hashsalt": "mdssl",
    "pdf.fonttype": 42,
}
_DEFAULTS = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}


@contextmanager
def look() -> Iterator[None]:
    """Our look, whatever style the notebook around has chosen. ``@look()`` stands above each function that draws."""
    with matplotlib.rc_context({**_DEFAULTS, **_LOOK}), warnings.catch_warnings():
        # Of names in scripts that DejaVu lacks: an SVG keeps them as text, and other files show boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Figure(MatplotlibFigure):
    """A figure without pyplot. A notebook shows it where it is the value of a cell; `mdssl.figures.save` saves
    it."""

    def draw(self, renderer: Any) -> None:
        # Ticks are made as late as here.
        with look():
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        # From where they were at first: a layout begins at the one before, and would differ a little each time.
        for axis in self.axes:
            if axis.get_subplotspec() is not None:
                axis.set_subplotspec(axis.get_subplotspec())
        with look():
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """What Jupyter shows: PNG, because all of its front ends keep that in a saved notebook."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        # Half its pixels, and so sharp where a screen has two for each.
        width, height = (round(inches * 100) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def panels(
    count: int, *, width: float, height: float, per_row: int | None = None, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` inches with ``count`` panels, each ``height`` inches high, side by side as far as they fit.

    Args:
        per_row: how many stand side by side; by default two in a column, and four on a page.
        sharex: whether panels have one x axis, drawn under the lowest.
    """
    if per_row is None:
        per_row = min(count, max(1, int(width / 1.6)))
        # As equal as rows can be: six are 3 + 3, not 4 + 2.
        per_row = -(-count // -(-count // per_row))
    rows = -(-count // per_row)
    figure = Figure(figsize=(width, rows * height + 0.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
    axes = figure.subplots(rows, per_row, squeeze=False, sharex="col" if sharex else False).flatten().tolist()
    for empty in axes[count:]:
        empty.remove()
    for axis in axes[:count]:
        axis.grid(True, axis="y")
    return figure, axes[:count]


def plain(text: object) -> str:
    """``text`` of others as it is drawn: no mathematics between dollar signs, no control characters, one line."""
    return printable(" ".join(str(text).split())).replace("$", r"\$")


def wrapped(text: object, characters: int, lines: int = 3) -> str:
    """``text`` in lines of at most so many characters, broken at its joints where it has some; the rest is cut off."""
    # A zero-width space is a joint that nobody sees.
    joints = str(text).replace("+", "+\u200b").replace("_", "_\u200b").replace("-", "-\u200b")
    pieces = " ".join(joints.split()).replace("\u200b", " \u200b").split(" ")
    found = [""]
    for piece in pieces:
        glue = "" if piece.startswith("\u200b") or not found[-1] else " "
        piece = piece.lstrip("\u200b")
        while len(piece) > characters:
            head, piece = piece[:characters], piece[characters:]
            found += [head] if found[-1] else []
            found[-1] = head
        if len(found[-1]) + len(glue) + len(piece) <= characters:
            found[-1] += glue + piece
        else:
            found.append(piece)
    if len(found) > lines:
        found = [*found[: lines - 1], found[lines - 1][: characters - 1] + "…"]
    return "\n".join(plain(line) for line in found)


def no_negative(axis: Axes) -> None:
    """No ticks below zero, where nothing can be; what is drawn at zero is whole."""
    low, high = axis.get_ylim()
    if low < 0:
        high = max(high, 1)
        axis.set_ylim(-0.03 * high, high)


def dataset_label(name: str, characters: int = 24, *, before: str = "") -> str:
    """The name of a dataset, in lines, the first of which begins with ``before``; those of the built-in domains say
    that they are made-up."""
    label = wrapped(before + name, characters, lines=4 if before else 3)
    if name not in BUILTIN:
        return label
    fits = len(label.split("\n")[-1]) + len(" (made-up)") <= characters
    return f"{label}{' ' if fits else chr(10)}(made-up)"


def note(figure: Figure, text: str) -> None:
    """Small print below the panels, in as many lines as it takes; the figure grows by them."""
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 20))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=FAINT)
    figure.set_figheight(figure.get_figheight() + 0.11 * len(lines))


def legend(figure: Figure, handles: list[Any], labels: list[str]) -> None:
    """One legend for all panels, above them, in as few rows as fit; the figure grows by them."""
    if not labels:
        return
    # In inches: a character of this size, and a handle with its gaps.
    widths = [0.054 * max(len(line) for line in label.split("\n")) + 0.5 for label in labels]
    for rows in range(1, len(labels) + 1):
        columns = -(-len(labels) // rows)
        # Filled column by column, each as wide as its longest.
        if sum(max(widths[first : first + rows]) for first in range(0, len(widths), rows)) <= figure.get_figwidth():
            break
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0.3, borderaxespad=0)
    figure.set_figheight(figure.get_figheight() + 0.15 * rows)
