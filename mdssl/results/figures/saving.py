"""Figures as files: SVG, PNG and PDF, whole or not at all, and the same bytes for the same figure."""

from __future__ import annotations

import io
from pathlib import Path

from mdssl.errors import check_name
from mdssl.results.figures.style import Figure
from mdssl.storage import Location

FORMATS = ("svg", "png", "pdf")

_NO_DATES = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}


def to_bytes(figure: Figure, suffix: str) -> bytes:
    """The file of ``figure``: ``svg`` (text stays text), ``png`` (200 dots an inch) or ``pdf`` (fonts embedded).

    Raises:
        ValueError: another suffix.
    """
    check_name("format of a figure", suffix, FORMATS)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, metadata=_NO_DATES[suffix])
    return buffer.getvalue()


def save(figure: Figure, location: str | Path | Location) -> Location:
    """Write ``figure`` to a file, in a local folder or a bucket, in the format that its suffix says.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
    """
    location = Location.of(location)
    location.write_bytes(to_bytes(figure, location.name.rpartition(".")[2].lower()))
    return location
