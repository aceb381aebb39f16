"""The report of a storage as a live page: `mdssl dashboard` serves it, and renews it as the storage changes.

The first page is built at once and again after each change. Figures follow it, and the page of a trial is built when it
is asked for. All files lie in a temporary folder.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from mdssl.errors import InputError
from mdssl.leaderboard.files import trial_ids
from mdssl.report.build import Content, Unfinished, write_index, write_trial
from mdssl.report.curves import update_curves
from mdssl.report.folder import BOARD, Folder, digest
from mdssl.report.pictures import draw_board, draw_trials
from mdssl.storage.location import Location
from mdssl.storage.notes import NOTES
from mdssl.storage.trial_dir import LEADERBOARD, trial_dir_in
from mdssl.terminal import printable

CHECK_SECONDS = 5.0
"""Interval between looks at the storage. Building pages takes at most a third of the time, and so does drawing."""


class Dashboard:
    """The pages of a storage, kept up to date by `follow` in a thread of its own."""

    def __init__(self, storage: Location, folder: Folder, unfinished: Unfinished | None = None):
        """Build the first page, without figures and curves.

        Raises:
            ValueError: a file of the leaderboard is invalid.
        """
        self._storage, self._folder, self._unfinished = storage, folder, unfinished
        self._turns = _Turns()
        self._stamps = self._current_stamps()
        self._drawn = ""
        self._content = self._build()

    @property
    def version(self) -> str:
        """Identifies what the first page shows."""
        return self._folder.version_of("index.html")

    def page(self, path: str) -> bytes | None:
        """The content of the file ``path`` of the report; None where it has none of this name."""
        content = self._content
        of_trial = re.fullmatch(r"trials/([0-9a-f]{12})\.html", path)
        if of_trial and of_trial[1] in content.place:
            with self._turns:
                list(draw_trials(self._storage, self._folder, [of_trial[1]]))
                write_trial(self._folder, content, of_trial[1])
        # Nothing but what the report has written, whatever the path is.
        try:
            return self._folder.at(path).read_bytes() if self._folder.version_of(path) else None
        except FileNotFoundError:
            # Its trial was deleted at this moment.
            return None

    def update(self) -> bool:
        """Build the first page again if the storage has changed, with the former figures, which `draw` renews."""
        stamps = self._current_stamps()
        if stamps == self._stamps:
            return False
        self._content = self._build()
        self._stamps = stamps
        return True

    def draw(self) -> None:
        """Draw curves and figures if a row has changed since they were drawn."""
        rows = self._stamps[0]
        if rows == self._drawn:
            return
        update_curves(self._storage, self._folder, self._content.board)
        self._write_index(self._content)
        draw_board(self._content.board, self._storage, self._folder, self._turns)
        self._write_index(self._content)
        self._drawn = rows

    def follow(self, say: Callable[[str], None]) -> None:
        """`update` and `draw` for ever. A storage that cannot be read is reported, and tried again."""
        problem, draw_at = "", float("-inf")
        while True:
            started = updated = time.monotonic()
            try:
                self.update()
                updated = time.monotonic()
                if updated >= draw_at:
                    self.draw()
                problem = ""
            except (OSError, InputError) as error:
                if str(error) != problem:
                    say(f"the page was not renewed: {printable(str(error))}")
                problem = str(error)
            # The next figures are later than the next rows, which take less time.
            if updated >= draw_at:
                draw_at = 3 * time.monotonic() - 2 * updated
            time.sleep(max(CHECK_SECONDS, 2 * (updated - started)))

    def _build(self) -> Content:
        content = Content(self._storage, self._unfinished)
        self._write_index(content)
        return content

    def _write_index(self, content: Content) -> None:
        with self._turns:
            figures: list[Any] = self._folder.pictures.get(BOARD, {"pictures": []})["pictures"]
            self._folder.remove_others(set(content.trial_ids), {picture["file"] for picture in figures})
            write_index(self._folder, content, live=True)

    def _current_stamps(self) -> tuple[str, str]:
        """The first changes whenever a row does, the second whenever a tag, a note or a file of a trial without rows
        does, and once a minute while there are such trials, whose processes may have died."""
        rows = {name: (info.size, info.mtime_ns) for name, info in (self._storage / LEADERBOARD).listing().items()}
        scored = {PurePosixPath(name).stem for name in rows}
        without = [trial_id for trial_id in trial_ids(self._storage) if trial_id not in scored]
        listings = {trial_id: trial_dir_in(self._storage, trial_id).listing() for trial_id in without}
        files = {
            trial_id: {name: info.mtime_ns for name, info in found.items() if not name.startswith("claim-beat")}
            for trial_id, found in listings.items()
        }
        notes = (self._storage / NOTES).names()
        return digest(rows), digest(files, notes, time.time() // 60 if files else 0)


class _Turns:
    """A lock of those who write pages or draw, for neither may happen twice at a time. Who leaves it waits a moment, so
    that a visitor's page comes before the next of many figures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        time.sleep(0.02)
