"""The pictures of a report: figures of the whole leaderboard, and of each trial its curves and nearest neighbours.

Trials' figures are drawn by the same functions as in a notebook, which takes some tenths of a second each: so they are
drawn once, by several processes where there are many, and again only when the files that they show have changed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from typing import Any

import pandas as pd

from mdssl.errors import InputError
from mdssl.report.folder import BOARD, Folder, digest
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in

FILES = ("metrics.parquet", "clusters.parquet", "neighbours.png", "neighbours.json")
"""Of a trial: what its pictures show."""
DRAWING_VERSION = 2
"""Raise it where the same files shall be drawn anew, or more is to be remembered of them."""

_PIXELS_PER_INCH = 130
"""At which type of 7 points is read on a screen as the text around it is."""
_MANY = 24
"""So many trials are worth the two seconds in which other processes start."""
_READERS = 16


def stamps(storage: Location, trial_ids: Iterable[str]) -> dict[str, str]:
    """By trial, what stands for its `FILES` as they are now: their names, sizes and times of writing."""

    def stamp(trial_id: str) -> str:
        listing = trial_dir_in(storage, trial_id).listing()
        found = {name: (listing[name].size, listing[name].mtime_ns) for name in FILES if name in listing}
        return digest(DRAWING_VERSION, found)

    trial_ids = list(trial_ids)
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(trial_ids, pool.map(stamp, trial_ids), strict=True))


def of_board(storage: Location, board: pd.DataFrame) -> str:
    """Stands for all that figures of the whole leaderboard show: its rows, and what is saved of representations."""

    def saved(trial_id: str) -> list[tuple]:
        listing = (trial_dir_in(storage, trial_id) / "representations").listing()
        return [(trial_id, name, info.size, info.mtime_ns) for name, info in listing.items()]

    with ThreadPoolExecutor(_READERS) as pool:
        representations = list(pool.map(saved, sorted(board["trial_id"].unique())))
    return digest(DRAWING_VERSION, board.to_json(orient="split", date_format="iso"), representations)


def draw_trials(storage: Location, folder: Folder, trial_ids: list[str]) -> Iterator[str]:
    """Draw the pictures of those trials whose files have changed; yields each trial when it is done.

    Afterwards ``folder.pictures[trial_id]`` has ``made_from`` and ``pictures``, a list of: ``file`` (in the folder
    ``trials``), ``width`` and ``height`` (pixels on the page), ``title``, ``caption``, ``alt``; or ``problem``, where
    the trial's files are damaged.
    """
    now = stamps(storage, trial_ids)
    changed = [trial_id for trial_id in trial_ids if not _is_drawn(folder, trial_id, now[trial_id])]
    yield from (trial_id for trial_id in trial_ids if trial_id not in set(changed))
    places = (storage.uri, folder.place.uri)
    if len(changed) < _MANY:
        drawn: Iterable = ((trial_id, _draw(*places, trial_id)) for trial_id in changed)
    else:
        drawn = _draw_at_once(places, changed)
    for trial_id, pictures in drawn:
        for picture in pictures:
            if "file" in picture:
                folder.note(f"trials/{picture['file']}", now[trial_id])
        folder.pictures[trial_id] = {"made_from": now[trial_id], "pictures": pictures}
        yield trial_id


def draw_board(board: pd.DataFrame, storage: Location, folder: Folder, made_from: str) -> dict[str, Any]:
    """Draw the figures of the whole leaderboard, unless they are there, made from the same.

    Returns:
        ``figures``, a list as that of `draw_trials`, in the folder ``figures``; and ``absent``: by figure the reason
        why this leaderboard cannot give it.
    """
    known = folder.pictures.get(BOARD, {})
    if known.get("made_from") == made_from and all(
        folder.has(f"figures/{figure['file']}", made_from) for figure in known["figures"]
    ):
        return known
    from mdssl.figures import gallery, save

    found = gallery(board, storage)
    figures = []
    for entry in found.entries:
        file = f"{entry.name}.svg"
        figure = entry.draw()
        folder.check(f"figures/{file}")
        save(figure, folder.at(f"figures/{file}"))
        folder.note(f"figures/{file}", made_from)
        figures.append(_described(entry, file, figure))
    folder.pictures[BOARD] = {"made_from": made_from, "figures": figures, "absent": dict(found.absent)}
    return folder.pictures[BOARD]


def _is_drawn(folder: Folder, trial_id: str, made_from: str) -> bool:
    known = folder.pictures.get(trial_id, {})
    files = [picture["file"] for picture in known.get("pictures", []) if "file" in picture]
    return known.get("made_from") == made_from and all(folder.has(f"trials/{file}", made_from) for file in files)


def _draw_at_once(places: tuple[str, str], trial_ids: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    # Not by forking: Arrow has threads, of which a fork would inherit the locks alone.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        waiting = {pool.submit(_draw, *places, trial_id): trial_id for trial_id in trial_ids}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw(storage: str, output: str, trial_id: str) -> list[dict[str, Any]]:
    """Draw one trial's pictures into the report's folder; in whichever process."""
    from mdssl.figures import save, trial_gallery

    trial_dir = trial_dir_in(storage, trial_id)
    pages = Location.of(output) / "trials"
    pictures = []
    try:
        for entry in trial_gallery(trial_dir).entries:
            file = f"{trial_id}-{entry.name}.svg"
            figure = entry.draw()
            save(figure, pages / file)
            pictures.append(_described(entry, file, figure))
        pictures += _neighbours(trial_dir, pages, trial_id)
    except (ValueError, KeyError) as error:
        # A file that is damaged, or lacks a column, is that trial's problem, and its page says so.
        pictures.append({"problem": f"{trial_dir} cannot be drawn: {error}"})
    return pictures


def _neighbours(trial_dir: Location, pages: Location, trial_id: str) -> list[dict[str, Any]]:
    """The contact sheet of nearest training images, where the trial has one."""
    try:
        sheet = (trial_dir / "neighbours.png").read_bytes()
        shown = json.loads((trial_dir / "neighbours.json").read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(f"{trial_dir / 'neighbours.json'} is damaged: {error}") from error
    file = f"{trial_id}-neighbours.png"
    (pages / file).write_bytes(sheet)
    # The header of a PNG begins with its size.
    width, height = (int.from_bytes(sheet[start : start + 4], "big") for start in (16, 20))
    words = {"title": "Nearest training images", "caption": " ".join([_SHEET, *shown["in_words"]])}
    words["alt"] = "Nearest, with cosine similarity: " + " ".join(_row_in_words(row) for row in shown["rows"])
    return [{"file": file, "width": width, "height": height} | words]


_SHEET = (
    "Each row begins with a test image; the training images nearest to it in the encoder's space follow, nearest first."
)
_NAMED = 3
"""Neighbours of a row that are named for those who do not see them."""


def _row_in_words(row: dict[str, Any]) -> str:
    near = [
        f"{neighbour['class'] or 'an image'} of {neighbour['dataset']} ({neighbour['similarity']:.2f})"
        for neighbour in row["neighbours"][:_NAMED]
    ]
    return f"{row['class'] or 'An image'} of {row['dataset']}: {', '.join(near)}."


def _described(entry: Any, file: str, figure: Any) -> dict[str, Any]:
    width, height = (round(_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    words = {"title": entry.title, "caption": entry.caption, "alt": entry.alt}
    return {"file": file, "width": width, "height": height} | words
