"""The report of a storage as a live page, which `mdssl dashboard` serves and updates when the storage changes.

The first page is built at the start and after each change, and then its figures are drawn. The page of a trial is built
on request. All files are in a temporary folder.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from mdssl.errors import InputError
from mdssl.leaderboard.files import trial_ids
from mdssl.report.build import Content, write_index, write_trial
from mdssl.report.curves import update_curves
from mdssl.report.folder import BOARD, Folder, digest
from mdssl.report.pictures import draw_board, draw_trials
from mdssl.storage.location import Location
from mdssl.storage.notes import NOTES
from mdssl.storage.trial_dir import LEADERBOARD, trial_dir_in
from mdssl.terminal import printable

CHECK_SECONDS = 5.0
"""Interval between checks of the storage. Building pages takes at most a third of the time, and so does drawing."""


class Dashboard:
    """The pages of a storage. `follow`, in a separate thread, keeps them up to date."""

    def __init__(self, storage: Location, folder: Folder):
        """Build the first page, without figures and curves.

        Raises:
            ValueError: a file of the leaderboard is invalid.
        """
        self._storage, self._folder = storage, folder
        self._lock = _FairLock()
        self._stamps = self._current_stamps()
        self._drawn = ""
        self._content = self._build()

    @property
    def version(self) -> str:
        """Identifies what the first page shows."""
        return self._folder.version_of("index.html")

    def page(self, path: str) -> bytes | None:
        """Return the content of the file ``path`` of the report, or None if there is no such file."""
        content = self._content
        of_trial = re.fullmatch(r"trials/([0-9a-f]{12})\.html", path)
        if of_trial and of_trial[1] in content.place:
            with self._lock:
                list(draw_trials(self._storage, self._folder, [of_trial[1]]))
                write_trial(self._folder, content, of_trial[1])
        # Only files that the report has written are served, whatever the path is.
        try:
            return self._folder.at(path).read_bytes() if self._folder.version_of(path) else None
        except FileNotFoundError:
            # The trial was deleted in the meantime.
            return None

    def update(self) -> bool:
        """Build the first page again if the storage has changed, with the former figures, which `draw` renews."""
        stamps = self._current_stamps(self._content.unscored)
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
        draw_board(self._content.board, self._storage, self._folder, self._lock)
        self._write_index(self._content)
        self._drawn = rows

    def follow(self, say: Callable[[str], None]) -> None:
        """Call `update` and `draw` in a loop. Errors are printed, and it is tried again."""
        problem, draw_at = "", float("-inf")
        while True:
            started = updated = time.monotonic()
            try:
                self.update()
                updated = time.monotonic()
                if updated >= draw_at:
                    self.draw()
                problem = ""
            except Exception as error:
                # Any: nobody would see that a defect in one figure has ended this thread.
                text = str(error) if isinstance(error, OSError | InputError) else repr(error)
                if text != problem:
                    say(f"the page could not be updated: {printable(text)}")
                problem = text
            # The next figures are later than the next rows, which take less time.
            if updated >= draw_at:
                draw_at = 3 * time.monotonic() - 2 * updated
            time.sleep(max(CHECK_SECONDS, 2 * (updated - started)))

    def _build(self) -> Content:
        content = Content(self._storage)
        self._write_index(content)
        return content

    def _write_index(self, content: Content) -> None:
        with self._lock:
            figures = self._folder.pictures[BOARD]["pictures"] if BOARD in self._folder.pictures else []
            self._folder.remove_others(set(content.trial_ids), {picture["file"] for picture in figures})
            write_index(self._folder, content, live=True)

    def _current_stamps(self, unscored: Sequence[str] = ()) -> tuple[str, str]:
        """Return a digest of the rows, and one of tags, notes and files of trials without rows, and of ``unscored``.

        While there are such trials, the second one changes once a minute, because their processes may have died.
        """
        rows = {name: (info.size, info.mtime_ns) for name, info in (self._storage / LEADERBOARD).listing().items()}
        scored = {PurePosixPath(name).stem for name in rows}.difference(unscored)
        without = [trial_id for trial_id in trial_ids(self._storage) if trial_id not in scored]
        listings = {trial_id: trial_dir_in(self._storage, trial_id).listing() for trial_id in without}
        files = {
            trial_id: {name: info.mtime_ns for name, info in found.items() if not name.startswith("claim-beat")}
            for trial_id, found in listings.items()
        }
        notes = (self._storage / NOTES).names()
        return digest(rows), digest(files, notes, time.time() // 60 if files else 0)


class _FairLock:
    """A lock for writing pages and drawing. Its holder waits a moment after the release, so that a page that was
    requested is built before the next figure is drawn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        time.sleep(0.02)
