"""Figures as files: SVG, PNG and PDF, whole or not at all, and the same bytes for the same figure."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.sax.saxutils import escape

from mdssl.errors import check_name
from mdssl.figures.style import Figure
from mdssl.storage.location import Location
from mdssl.storage.ownership import MADE_BY
from mdssl.terminal import printable

FORMATS = ("svg", "png", "pdf")

_SAYS = {"svg": ("Title", "Description"), "png": ("Title", "Description"), "pdf": ("Title", "Subject")}
"""By format, which metadata are a title and a description."""
_MADE_BY = {
    "svg": {"Date": None, "Creator": MADE_BY},
    "png": {"Software": MADE_BY},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": MADE_BY},
}
"""By format, what says whose the file is (`mdssl.storage.ownership.check_file`), and nothing of when it was made."""


def to_bytes(figure: Figure, suffix: str, *, title: str = "", description: str = "") -> bytes:
    """The file of ``figure``: ``svg`` (text stays text), ``png`` (200 dots an inch) or ``pdf`` (fonts embedded).

    Args:
        figure: what is drawn.
        suffix: one of `FORMATS`.
        title: one line that the file bears: the accessible name of an SVG, metadata of the others.
        description: the same in full, with what is to be seen.

    Raises:
        ValueError: another suffix.
    """
    check_name("format of a figure", suffix, FORMATS)
    buffer = io.BytesIO()
    said = zip(_SAYS[suffix], (printable(title), printable(description)), strict=True)
    figure.savefig(buffer, format=suffix, metadata=_MADE_BY[suffix] | {name: text for name, text in said if text})
    data = buffer.getvalue()
    return _with_description(data, printable(description)) if suffix == "svg" and title else data


def _with_description(svg: bytes, description: str) -> bytes:
    """One picture to a screen reader, not its many parts. Matplotlib writes the title, and the description where no
    browser looks for it."""
    svg = svg.replace(b"<svg ", b'<svg role="img" ', 1)
    element = f"\n <desc>{escape(description)}</desc>".encode()
    return re.sub(rb"</title>", lambda end: end[0] + element, svg, count=1)


def save(figure: Figure, location: str | Path | Location) -> Location:
    """Write ``figure`` to a file, in a local folder or a bucket, in the format that its suffix says.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
    """
    location = Location.of(location)
    location.write_bytes(to_bytes(figure, location.name.rpartition(".")[2].lower()))
    return location
