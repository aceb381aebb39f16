"""The looks of figures, `Figure`, which keeps the look in which it was drawn, and `style_context`, which chooses one.

Text has 7 points, which is legible in a column of print and on a page. matplotlib styles can change its size and font.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib import style as matplotlib_style
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.transforms import Bbox

from mdssl.errors import InputError, check_name

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, FAINT = "#1a1a1a", "#5f5f5f"
SMALL = "small"
"""Size of ticks and small print: 5/6 of that of other text."""
LOOKS = ("report", "paper")
"""report has notes below the panels; paper leaves them to the caption."""

_STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    # DejaVu Sans comes with matplotlib. Verdana, for SVG viewers without it, has the same widths.
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
_NEAR = 0.02
"""Inches by which a label may exceed the edge of the figure."""
_DEFAULTS = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}


class Look(NamedTuple):
    """Whether there are notes below the panels, and the settings of matplotlib's styles, which replace ours."""

    notes: bool
    settings: dict[Any, Any]


REPORT = Look(notes=True, settings={})
_LOOK: ContextVar[Look] = ContextVar("look", default=REPORT)


def look_of(*names: str) -> Look:
    """The look of ``names``: one of `LOOKS`, styles of matplotlib such as ``seaborn-v0_8-paper``, ``.mplstyle`` files.

    Later styles replace settings of earlier ones. Without one of `LOOKS` it is ``report``.

    Raises:
        ValueError: an unknown name, a file that cannot be read, or both of `LOOKS`.
    """
    chosen = [name for name in dict.fromkeys(names) if name in LOOKS]
    if len(chosen) > 1:
        raise InputError(f"styles {' and '.join(chosen)} cannot be combined; give one of them.")
    settings: dict[Any, Any] = {}
    for name in names:
        if name in LOOKS:
            continue
        if not name.endswith(".mplstyle"):
            check_name("style", name, [*LOOKS, *matplotlib_style.library], hint="Files of styles end in .mplstyle.")
            settings |= matplotlib_style.library[name]
            continue
        try:
            # A path relative to the home folder, as in a shell.
            file = Path(name).expanduser()
            settings |= matplotlib.rc_params_from_file(file, fail_on_error=True, use_default_template=False)
        except (OSError, ValueError) as error:
            raise InputError(f"style file {name} cannot be read: {' '.join(str(error).split())}.") from error
    if settings.get("text.usetex"):
        raise InputError(
            "the styles set text.usetex, but these figures do not use LaTeX: add `text.usetex: False` in a file behind "
            "them, --style STYLE plain.mplstyle."
        )
    used = {key: value for key, value in settings.items() if not key.startswith("backend")}
    return Look("paper" not in chosen, used)


@contextmanager
def style_context(*names: str) -> Iterator[None]:
    """Draw figures in the look of ``names``, see `look_of`: ``with style_context("paper", "serif.mplstyle"): …``."""
    token = _LOOK.set(look_of(*names))
    try:
        yield
    finally:
        _LOOK.reset(token)


@contextmanager
def styled(look: Look | None = None) -> Iterator[None]:
    """Apply ``look``, by default that of `style_context`, instead of the notebook's; also a decorator."""
    settings: dict[Any, Any] = {**_DEFAULTS, **_STYLE, **(look or _LOOK.get()).settings}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Names in scripts that DejaVu lacks: an SVG keeps them as text, other formats show boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Figure(MatplotlibFigure):
    """A figure without pyplot. A notebook shows it as the value of a cell; `mdssl.figures.save` saves it."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.look = _LOOK.get()
        super().__init__(*args, **kwargs)

    def draw(self, renderer: Any) -> None:
        # Ticks are created here.
        with styled(self.look):
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        # Reset the layout. It starts from the previous one, and the bytes would differ each time.
        for axis in self.axes:
            spot = axis.get_subplotspec()
            if spot is not None:
                axis.set_subplotspec(spot)
        settings: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0} | kwargs
        with styled(self.look):
            super().savefig(*args, **settings)

    def get_tightbbox(self, *args: Any, **kwargs: Any) -> Bbox:
        """Return the box to save, in inches: the figure, or a larger box where a label would be cut off."""
        own, drawn = self.bbox_inches, super().get_tightbbox(*args, **kwargs)
        reaches = [drawn.x0 < -_NEAR, drawn.y0 < -_NEAR, drawn.x1 > own.x1 + _NEAR, drawn.y1 > own.y1 + _NEAR]
        return Bbox.union([own, drawn]) if any(reaches) else own

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return the PNG that Jupyter shows; all its front ends keep PNG in a saved notebook."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        # Displayed at half its size, which is sharp on screens of high density.
        width, height = (round(inches * 100) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}
