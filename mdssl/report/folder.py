"""The folder of a report: which files it has, and what each was made from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, check_file, check_replaceable

MARKER = "report.json"
"""Marks a folder as a report, and holds what `Folder` remembers."""
BOARD = "board"
"""What `Folder.pictures` calls the figures that are of no trial."""
_MADE_BY = "mdssl report"
REPORT = FolderKind(
    what="a report",
    marker=MARKER,
    is_marker=lambda said: isinstance(said, dict) and said.get("made_by") == _MADE_BY,
    files=(MARKER, "index.html", "ledger.csv", "leaderboard.csv", "trials/*", "figures/*"),
    setting="--output",
)
_SUBFOLDERS = ("trials", "figures")
_OF_A_TRIAL = re.compile(r"([0-9a-f]{12})(\.html|-.+\.(svg|png))")


class Folder:
    """Writes the files of a report, each only if it is not there already as it should be.

    Attributes:
        written: how many files have been written.
        removed: how many have been removed.
        pictures: by trial, and by `BOARD`, what pictures were drawn from and what they show; see
            `mdssl.report.pictures`.
    """

    def __init__(self, place: str | Location, *, storage: str):
        """Open a folder, new, empty or with an earlier report of ``storage``.

        Raises:
            ValueError: it holds something else, the report of another storage, or cannot be written.
        """
        self.place, self.storage = Location.of(place), storage
        self.written = self.removed = 0
        try:
            memory = json.loads((self.place / MARKER).read_bytes())
        except (FileNotFoundError, ValueError):
            memory = None
        if not REPORT.is_marker(memory):
            check_replaceable(self.place, replace(REPORT, files=()))
            memory = {}
        if memory and memory.get("storage") != storage:
            # Its pages would be removed, as of trials that are gone.
            raise InputError(
                f"output {str(self.place)!r} holds the report of {memory.get('storage')}, not of {storage}; nothing in "
                "it was touched. Give another --output, or delete it."
            )
        self.place.check_writable("--output")
        there = {f"{name}/{file}" for name in _SUBFOLDERS for file in (self.place / name).names()}
        there |= set(self.place.names())
        # A table has no mark: a run that is interrupted before it remembers one is known by these.
        self._announced = set(memory.get("announced", ()))
        self._made_from = {path: key for path, key in memory.get("files", {}).items() if path in there}
        self.pictures: dict[str, dict[str, Any]] = memory.get("pictures", {})
        if not memory:
            self._announced = {"ledger.csv", "leaderboard.csv"}
            # At once, so that a report that is interrupted is known as one.
            self.remember()

    def has(self, path: str, made_from: str) -> bool:
        """Whether ``path`` is there, made from what ``made_from`` stands for."""
        return self._made_from.get(path) == made_from

    def write(self, path: str, data: bytes, made_from: str | None = None) -> None:
        """Write ``path``, unless it is there, made from the same; without ``made_from`` that is its own content."""
        key = made_from or digest(data)
        if not self.has(path, key):
            self.check(path)
            self.at(path).write_bytes(data)
            self.note(path, key)

    def check(self, path: str) -> None:
        """Raise ``InputError`` if ``path`` is there and neither this report nor an interrupted run has written it."""
        if path not in self._made_from and path not in self._announced:
            check_file(self.at(path))

    def note(self, path: str, made_from: str) -> None:
        """Remember a file that somebody else has written."""
        self._made_from[path] = made_from
        self.written += 1

    def at(self, path: str) -> Location:
        return self.place / path

    def remove_others(self, trial_ids: set[str], figures: set[str]) -> None:
        """Remove pages and pictures of trials that are gone, and figures that this leaderboard no longer gives."""
        for path in list(self._made_from):
            folder, _, name = path.rpartition("/")
            of_trial = _OF_A_TRIAL.fullmatch(name)
            is_gone = of_trial and of_trial[1] not in trial_ids if folder == "trials" else name not in figures
            if folder in _SUBFOLDERS and is_gone:
                self.remove(path)
        kept = trial_ids | {BOARD}
        self.pictures = {trial_id: known for trial_id, known in self.pictures.items() if trial_id in kept}

    def remove(self, path: str) -> None:
        """Remove ``path``, one of the report's own files."""
        self.at(path).delete()
        self._made_from.pop(path, None)
        self.removed += 1

    def remember(self) -> None:
        memory = {"made_by": _MADE_BY, "storage": self.storage, "files": self._made_from, "pictures": self.pictures}
        memory["announced"] = sorted(self._announced - set(self._made_from))
        (self.place / MARKER).write_bytes(json.dumps(memory, indent=1).encode())


def digest(*parts: object) -> str:
    """32 hex digits that stand for ``parts``."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:32]
