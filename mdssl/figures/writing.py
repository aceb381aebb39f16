"""A folder of figures: all that a leaderboard or a trial can give, or those that are named."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console

from mdssl.errors import InputError, check_name
from mdssl.figures.entry import Gallery
from mdssl.figures.gallery import gallery
from mdssl.figures.saving import FORMATS, to_bytes
from mdssl.figures.trial_gallery import trial_gallery
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.files import file_of
from mdssl.leaderboard.opening import results_in
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_file
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.terminal import Terminal

_INDENT = 9
"""Of captions: they stand below the files' names."""


def write_figures(
    storage: str | Location,
    output: str | Location,
    *,
    names: Sequence[str] = (),
    formats: Sequence[str] = ("svg",),
    width: float | None = None,
    trial_id: str | None = None,
    console: Console | None = None,
) -> list[Location]:
    """Write figures, print file, title and caption of each, and say why others cannot be drawn.

    The files themselves bear title, caption and words for who does not see them.

    Args:
        storage: where results live.
        output: the folder for the files; a figure of ours that is there is replaced.
        names: kinds of figures, or names of single ones; all where empty.
        formats: of `mdssl.figures.saving.FORMATS`.
        width: inches; what suits each figure where None.
        trial_id: figures of this trial instead of those of the leaderboard.

    Returns:
        The files.

    Raises:
        ValueError: a name or a format that there is not, no such trial, nothing that can be drawn, or a file of
            somebody else with a figure's name, before anything is written; ``output`` cannot be written; or a figure of
            ``names`` cannot be drawn, after the others were.
    """
    console = console or Terminal()
    if not formats:
        raise InputError(f"no format of a figure is named; allowed: {', '.join(FORMATS)}.")
    for suffix in formats:
        check_name("format of a figure", suffix, FORMATS)
    found = _of_board(storage) if trial_id is None else _of_trial(storage, trial_id)
    known = [*dict.fromkeys(entry.figure for entry in found.entries), *found.absent]
    known += [entry.name for entry in found.entries if entry.name not in known]
    for name in names:
        check_name("figure", name, known)
    output = Location.of(output)
    output.check_writable("--output")
    wanted = [entry for entry in found.entries if not names or {entry.figure, entry.name} & set(names)]
    for entry in wanted:
        for suffix in formats:
            check_file(output / f"{entry.name}.{suffix}")
    files = []
    for number, entry in enumerate(wanted, start=1):
        figure = entry.draw() if width is None else entry.draw(width=width)
        words = {"title": entry.title, "description": f"{entry.caption} {entry.alt}"}
        for suffix in formats:
            file = output / f"{entry.name}.{suffix}"
            file.write_bytes(to_bytes(figure, suffix, **words))
            files.append(file)
            console.print(
                f"{number:3}/{len(wanted)}  {file}  {entry.title}", markup=False, highlight=False, soft_wrap=True
            )
        indent = dict(initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT)
        caption = textwrap.fill(entry.caption, max(console.width, 40), **indent)
        console.print(caption, markup=False, highlight=False, soft_wrap=True)
    if names:
        _refuse_absent({kind: reason for kind, reason in found.absent.items() if kind in names})
        return files
    for kind, reason in found.absent.items():
        console.print(f"not drawn: {kind}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return files


def _of_board(storage: str | Location) -> Gallery:
    board = leaderboard.read(results_in(storage))
    if board.empty:
        raise InputError(f"the leaderboard in {storage} is empty: run a sweep, or give another --storage.")
    found = gallery(board, storage)
    reasons = set(found.absent.values())
    if not found.entries and len(reasons) == 1:
        raise InputError(f"no figure of {storage} can be drawn: {reasons.pop()}")
    return found


def _of_trial(storage: str | Location, trial_id: str) -> Gallery:
    # Checks that it is an id, and no path.
    row_file = file_of(storage, trial_id)
    trial_dir = trial_dir_in(results_in(storage), trial_id)
    if not row_file.exists() and not trial_dir.exists():
        raise InputError(
            f"there is no trial {trial_id} in {storage}; `mdssl leaderboard` lists those that there are, and --storage "
            "names another place."
        )
    return trial_gallery(trial_dir)


def _refuse_absent(reasons: dict[str, str]) -> None:
    if reasons:
        said = "; ".join(f"{kind}: {reason.rstrip('.')}" for kind, reason in reasons.items())
        raise InputError(f"not drawn: {said}.")
