"""The pictures of a report: figures of the leaderboard, and curves, confusions and nearest neighbors of each trial.

Drawing a trial takes some tenths of a second. A trial is therefore drawn again only after its files have changed, and
many trials are drawn by several processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pandas as pd

from mdssl.errors import InputError
from mdssl.report.confusion import draw_confusions
from mdssl.report.folder import BOARD, Drawn, Folder, Picture, digest
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import CONFUSION, FORMER_NEIGHBORS, NEIGHBORS, trial_dir_in

FILES = ("metrics.parquet", "clusters.parquet", CONFUSION, *NEIGHBORS, *FORMER_NEIGHBORS)
"""Files of a trial that its pictures show."""
DRAWING_VERSION = 6
"""Increase it if the same files would give other pictures or records."""
PARALLEL_TRIALS = 24
"""Several processes, which take two seconds to start, draw this number of trials or more."""

_PIXELS_PER_INCH = 130
"""Text of 7 points then has the size of the page's text."""
_NEIGHBORS_NAMED = 3
"""Neighbors in each row of the text alternative."""
NO_LOCK = nullcontext()


def draw_trials(storage: Location, folder: Folder, trial_ids: list[str]) -> Iterator[str]:
    """Draw the trials with changed files into ``folder.pictures[trial_id]`` and the subfolder ``trials``.

    Yields:
        Each trial id, when its pictures are up to date.
    """
    now = _versions([trial_dir_in(storage, trial_id) for trial_id in trial_ids], FILES)
    made_from = {trial_id: digest(DRAWING_VERSION, found) for trial_id, found in zip(trial_ids, now, strict=True)}
    changed = [id for id in trial_ids if not folder.has_pictures(id, "trials", made_from[id])]
    yield from set(trial_ids) - set(changed)
    for trial_id, pictures in _draw_all(storage.uri, folder.place.uri, changed):
        for picture in pictures:
            if "file" in picture:
                folder.note(f"trials/{picture['file']}", made_from[trial_id])
        folder.pictures[trial_id] = {"made_from": made_from[trial_id], "pictures": pictures}
        yield trial_id


def draw_board(
    board: pd.DataFrame, storage: Location, folder: Folder, lock: AbstractContextManager[Any] = NO_LOCK
) -> Drawn:
    """Draw the figures of the leaderboard if it, or a saved representation, has changed.

    Args:
        lock: held while a figure is drawn, by threads that draw at the same time.

    Returns:
        ``pictures``, in the subfolder ``figures``; and ``absent``, the reason for each figure that cannot be drawn.
    """
    trials = sorted(board["trial_id"].unique())
    representations = _versions([trial_dir_in(storage, trial_id) / "representations" for trial_id in trials])
    content = board.to_json(orient="split", date_format="iso")
    made_from = digest(DRAWING_VERSION, content, list(zip(trials, representations, strict=True)))
    if folder.has_pictures(BOARD, "figures", made_from):
        return folder.pictures[BOARD]
    from mdssl.figures import gallery, save

    found = gallery(board, storage)
    pictures = []
    for entry in found.entries:
        path = f"figures/{entry.name}.svg"
        with lock:
            folder.check(path)
            figure = entry.draw()
            save(figure, folder.at(path))
            folder.note(path, made_from)
        pictures.append(_picture(entry, f"{entry.name}.svg", figure))
    folder.pictures[BOARD] = {"made_from": made_from, "pictures": pictures, "absent": dict(found.absent)}
    return folder.pictures[BOARD]


def _versions(places: list[Location], names: Iterable[str] | None = None) -> list[dict[str, tuple[int, int | None]]]:
    """List, for each folder, size and modification time of its files ``names``, by default all."""

    def version(place: Location) -> dict[str, tuple[int, int | None]]:
        return {
            name: (info.size, info.mtime_ns) for name, info in place.listing().items() if not names or name in names
        }

    return in_threads(version, places)


def _draw_all(storage: str, output: str, trial_ids: list[str]) -> Iterator[tuple[str, list[Picture]]]:
    if len(trial_ids) < PARALLEL_TRIALS:
        yield from ((trial_id, _draw(storage, output, trial_id)) for trial_id in trial_ids)
        return
    # Not fork: Arrow has threads, and a fork would inherit their locks without them.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        running = {pool.submit(_draw, storage, output, trial_id): trial_id for trial_id in trial_ids}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _draw(storage: str, output: str, trial_id: str) -> list[Picture]:
    """Draw one trial's pictures into the report's folder."""
    from mdssl.figures import save, trial_gallery

    trial_dir, pages = trial_dir_in(storage, trial_id), Location.of(output) / "trials"
    pictures = []
    try:
        for entry in trial_gallery(trial_dir).entries:
            file = f"{trial_id}-{entry.name}.svg"
            figure = entry.draw()
            save(figure, pages / file)
            pictures.append(_picture(entry, file, figure))
        pictures += draw_confusions(trial_dir, pages, trial_id)
        pictures += _neighbors(trial_dir, pages, trial_id)
    except (ValueError, KeyError) as error:
        # A damaged file is reported on the trial's page, and does not end the report.
        pictures.append({"problem": f"{trial_dir} cannot be drawn: {error}"})
    return pictures


def _picture(entry: Any, file: str, figure: Any) -> Picture:
    width, height = (round(_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    of_file = Picture(file=file, kind=entry.figure, width=width, height=height)
    return of_file | Picture(title=entry.title, caption=entry.caption, alt=entry.alt)


def _neighbors(trial_dir: Location, pages: Location, trial_id: str) -> list[Picture]:
    """Return the trial's sheet of nearest training images, if it has one."""
    for png, record in (NEIGHBORS, FORMER_NEIGHBORS):
        try:
            sheet, content = (trial_dir / png).read_bytes(), json.loads((trial_dir / record).read_bytes())
            break
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise InputError(f"{trial_dir / record} is damaged: {error}") from error
    else:
        return []
    file = f"{trial_id}-neighbors.png"
    (pages / file).write_bytes(sheet)
    # Width and height in the header of a PNG.
    width, height = (int.from_bytes(sheet[start : start + 4], "big") for start in (16, 20))
    caption = "Each row is a test image, followed by the training images nearest to it in the encoder's feature space."
    rows = [
        f"{row['class'] or 'An image'} of {row['dataset']}: "
        + ", ".join(
            f"{neighbor['class'] or 'an image'} of {neighbor['dataset']} ({neighbor['similarity']:.2f})"
            for neighbor in (row.get("neighbors") or row["neighbours"])[:_NEIGHBORS_NAMED]
        )
        for row in content["rows"]
    ]
    return [
        Picture(
            file=file,
            width=width,
            height=height,
            title="Nearest training images",
            caption=" ".join([caption, *content["in_words"]]),
            alt=f"Nearest, with cosine similarity: {'. '.join(rows)}.",
        )
    ]
