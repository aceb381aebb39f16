"""Figures as files: SVG, PNG and PDF, with the same bytes for the same figure; and folders of them."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from rich.console import Console

from mdssl.errors import InputError, check_name
from mdssl.figures.gallery import gallery
from mdssl.figures.kind import Gallery
from mdssl.figures.look import look_of, style_context
from mdssl.figures.one_trial import trial_gallery
from mdssl.figures.style import Figure
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.files import file_of, results_in
from mdssl.storage.location import Location
from mdssl.storage.ownership import MADE_BY, check_file
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.terminal import Terminal, printable, say

_METADATA: dict[str, dict[str, str | None]] = {
    "svg": {"Date": None, "Creator": MADE_BY},
    "png": {"Software": MADE_BY},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": MADE_BY},
}
"""Metadata by format, without dates. `mdssl.storage.ownership.check_file` recognizes our files by it."""
FORMATS = tuple(_METADATA)


def to_bytes(figure: Figure, suffix: str, *, title: str = "", description: str = "") -> bytes:
    """Return the file of ``figure``: ``svg`` (text stays text), ``png`` (200 dots an inch) or ``pdf`` (fonts embedded).

    Args:
        figure: what is drawn.
        suffix: one of `FORMATS`.
        title: one line in the metadata of the file; the accessible name of an SVG.
        description: the same in full.

    Raises:
        ValueError: another suffix.
    """
    check_name("figure format", suffix, FORMATS)
    title, description = printable(title), printable(description)
    words = {"Title": title, "Subject" if suffix == "pdf" else "Description": description}
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format=suffix, metadata=_METADATA[suffix] | {name: text for name, text in words.items() if text}
    )
    data = buffer.getvalue()
    if suffix != "svg" or not title:
        return data
    # For screen readers: one picture instead of its parts, and the description where browsers look for it.
    data = data.replace(b"<svg ", b'<svg role="img" ', 1)
    element = f"</title>\n <desc>{escape(description)}</desc>".encode()
    return re.sub(rb"</title>", lambda _: element, data, count=1)


def save(figure: Figure, location: str | Path | Location) -> Location:
    """Write ``figure`` to a file, in a local folder or a bucket, in the format of its suffix.

    Raises:
        ValueError: the suffix is none of `FORMATS`.
    """
    location = Location.of(location)
    location.write_bytes(to_bytes(figure, location.name.rpartition(".")[2].lower()))
    return location


def write_figures(
    storage: str | Location,
    output: str | Location,
    *,
    names: Sequence[str] = (),
    formats: Sequence[str] = ("svg",),
    width: float | None = None,
    styles: Sequence[str] = (),
    trial_id: str | None = None,
    console: Console | None = None,
) -> list[Location]:
    """Write figures, print file, title and caption of each, and the reasons why others cannot be drawn.

    Args:
        storage: where results are.
        output: the folder for the files; earlier figures are replaced.
        names: kinds of figures, or names of single ones; all by default.
        formats: of `FORMATS`.
        width: inches; by default what suits each figure.
        styles: as for `mdssl.figures.look.look_of`.
        trial_id: draw figures of this trial instead of those of the leaderboard.

    Returns:
        The files.

    Raises:
        ValueError: before anything is written: an unknown name, format, style or trial, nothing that can be drawn, a
            file with the name of a figure that is not ours, or ``output`` cannot be written. After the others were
            written: a figure of ``names`` cannot be drawn.
    """
    console = console or Terminal()
    look_of(*styles)
    if not formats:
        raise InputError(f"no figure format is given; allowed: {', '.join(FORMATS)}.")
    for suffix in formats:
        check_name("figure format", suffix, FORMATS)
    found = _of_board(storage) if trial_id is None else _of_trial(storage, trial_id)
    known = [*(entry.figure for entry in found.entries), *found.absent, *(entry.name for entry in found.entries)]
    for name in names:
        check_name("figure", name, dict.fromkeys(known))
    output = Location.of(output)
    output.check_writable("--output", what="folder of figures")
    wanted = [entry for entry in found.entries if not names or {entry.figure, entry.name} & set(names)]
    for entry in wanted:
        for suffix in formats:
            check_file(output / f"{entry.name}.{suffix}")

    files = []
    for number, entry in enumerate(wanted, start=1):
        with style_context(*styles):
            figure = entry.draw() if width is None else entry.draw(width=width)
        for suffix in formats:
            file = output / f"{entry.name}.{suffix}"
            data = to_bytes(figure, suffix, title=entry.title, description=f"{entry.caption} {entry.alt}")
            file.write_bytes(data)
            files.append(file)
            say(console, f"{number:3}/{len(wanted)}  {file}  {entry.title}")
        say(console, textwrap.indent(textwrap.fill(entry.caption, max(console.width, 40) - 9), " " * 9))
    if names:
        reasons = [f"{kind}: {reason.rstrip('.')}" for kind, reason in found.absent.items() if kind in names]
        if reasons:
            raise InputError(f"not drawn: {'; '.join(reasons)}.")
        return files
    for kind, reason in found.absent.items():
        say(console, f"not drawn: {kind}: {reason}")
    return files


def _of_board(storage: str | Location) -> Gallery:
    board = leaderboard.read(results_in(storage, rows_only=True))
    if board.empty:
        raise InputError(f"the leaderboard in {storage} is empty: run a sweep, or give another --storage.")
    found = gallery(board, storage)
    reasons = set(found.absent.values())
    if not found.entries and len(reasons) == 1:
        raise InputError(f"no figure of {storage} can be drawn: {reasons.pop()}")
    return found


def _of_trial(storage: str | Location, trial_id: str) -> Gallery:
    # This checks that it is an id and not a path.
    row_file = file_of(storage, trial_id)
    trial_dir = trial_dir_in(results_in(storage), trial_id)
    if not row_file.exists() and not trial_dir.exists():
        raise InputError(
            f"there is no trial {trial_id} in {storage}; `mdssl leaderboard` lists the existing ones, and --storage "
            "selects another storage."
        )
    return trial_gallery(trial_dir)
