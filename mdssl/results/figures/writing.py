"""A folder of figures: all that a leaderboard or a trial can give, or those that are named."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mdssl.errors import check_name
from mdssl.results import leaderboard
from mdssl.results.figures.gallery import gallery
from mdssl.results.figures.saving import FORMATS, to_bytes
from mdssl.results.figures.trial_gallery import trial_gallery
from mdssl.results.row_files import file_of
from mdssl.storage import Location
from mdssl.terminal import Terminal


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
    """Write figures, print a line for each file, and say why others cannot be drawn.

    Args:
        storage: where results live.
        output: the folder for the files; one that is there is replaced.
        names: kinds of figures, or names of single ones; all where empty.
        formats: of `mdssl.results.figures.saving.FORMATS`.
        width: inches; what suits each figure where None.
        trial_id: figures of this trial instead of those of the leaderboard.

    Returns:
        The files.

    Raises:
        ValueError: a name or a format that there is not, before anything is written; ``output`` cannot be written.
    """
    console = console or Terminal()
    for suffix in formats:
        check_name("format of a figure", suffix, FORMATS)
    if trial_id is None:
        found = gallery(leaderboard.read(storage), storage)
    else:
        # Checks that it is an id, and no path.
        file_of(storage, trial_id)
        found = trial_gallery(Location.of(storage) / "trials" / trial_id)
    known = [*dict.fromkeys(entry.figure for entry in found.entries), *found.absent]
    known += [entry.name for entry in found.entries if entry.name not in known]
    for name in names:
        check_name("figure", name, known)
    output = Location.of(output)
    output.check_writable("--output")
    wanted = [entry for entry in found.entries if not names or {entry.figure, entry.name} & set(names)]
    files = []
    for number, entry in enumerate(wanted, start=1):
        figure = entry.draw() if width is None else entry.draw(width=width)
        for suffix in formats:
            file = output / f"{entry.name}.{suffix}"
            file.write_bytes(to_bytes(figure, suffix))
            files.append(file)
            console.print(
                f"{number:3}/{len(wanted)}  {file}  {entry.title}", markup=False, highlight=False, soft_wrap=True
            )
    for kind, reason in found.absent.items():
        if not names or kind in names:
            console.print(f"not drawn: {kind}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return files
