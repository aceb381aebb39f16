"""The folder of a report: its files, and a digest of the source of each."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import NotRequired, TypedDict

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, check_file, check_replaceable

MARKER = "report.json"
"""Marks a folder as a report, and stores the state of `Folder`."""
BOARD = "board"
"""Key in `Folder.pictures` of the figures of the whole leaderboard."""
_MADE_BY = "mdssl report"
_TABLES = ("ledger.csv", "leaderboard.csv")
_SUBFOLDERS = ("trials", "figures")
REPORT = FolderKind(
    what="a report",
    marker=MARKER,
    is_marker=lambda content: isinstance(content, dict) and content.get("made_by") == _MADE_BY,
    files=(MARKER, "index.html", *_TABLES, *(f"{name}/*" for name in _SUBFOLDERS)),
    setting="--output",
)
_OF_A_TRIAL = re.compile(r"([0-9a-f]{12})(\.html|-.+\.(svg|png))")


class Picture(TypedDict, total=False):
    """A picture on a page, with its kind of figure and its size in pixels; or ``problem``, of damaged files."""

    file: str
    kind: str
    width: int
    height: int
    title: str
    caption: str
    alt: str
    problem: str


class Drawn(TypedDict):
    """Pictures, the digest of their source, and for the leaderboard why figures are absent, by kind."""

    made_from: str
    pictures: list[Picture]
    absent: NotRequired[dict[str, str]]


class Folder:
    """Writes the files of a report that are missing or outdated.

    Attributes:
        written: number of files written.
        removed: number of files removed.
        pictures: by trial, and by `BOARD`.
        curves: by trial, the version of its rows and its curves as JSON (`mdssl.report.curves`).
    """

    def __init__(self, place: str | Location, *, storage: str):
        """Open a folder that is new, empty or has an earlier report of ``storage``.

        Raises:
            ValueError: it has other files, the report of another storage, or cannot be written.
        """
        self.place, self.storage = Location.of(place), storage
        self.written = self.removed = 0
        try:
            state = json.loads((self.place / MARKER).read_bytes())
        except (FileNotFoundError, ValueError):
            state = None
        is_new = not REPORT.is_marker(state)
        if is_new:
            check_replaceable(self.place, replace(REPORT, files=()))
            state = {"storage": storage, "announced": _TABLES}
        if state.get("storage") != storage:
            # Its pages would be removed, because their trials are not in this storage.
            raise InputError(
                f"output {str(self.place)!r} contains the report of {state.get('storage')}, not of {storage}; nothing "
                "in it was changed. Give another --output, or delete it."
            )
        self.place.check_writable("--output", what="folder of the report")
        there = {f"{name}/{file}" for name in _SUBFOLDERS for file in (self.place / name).names()}
        there |= set(self.place.names())
        # CSV files contain no mark of ours: after an interruption they are recognized by this list.
        self._announced = set(state.get("announced", ()))
        self._made_from = {path: key for path, key in state.get("files", {}).items() if path in there}
        self.pictures: dict[str, Drawn] = state.get("pictures", {})
        self.curves: dict[str, list[str]] = state.get("curves", {})
        if is_new:
            self.save_state()

    def has(self, path: str, made_from: str) -> bool:
        """Whether ``path`` exists and was made from ``made_from``."""
        return self._made_from.get(path) == made_from

    def version_of(self, path: str) -> str:
        """Return the digest of the source of ``path``; empty if the report has no such file."""
        return self._made_from.get(path, "")

    def has_pictures(self, key: str, subfolder: str, made_from: str) -> bool:
        """Whether the `pictures` of ``key`` exist and were made from ``made_from``."""
        known = self.pictures.get(key)
        if known is None or known["made_from"] != made_from:
            return False
        files = [picture["file"] for picture in known["pictures"] if "file" in picture]
        return all(self.has(f"{subfolder}/{f}", made_from) for f in files)

    def write(self, path: str, data: bytes, made_from: str | None = None) -> None:
        """Write ``path`` unless it exists and was made from ``made_from``, by default ``data``."""
        made_from = made_from or digest(data)
        if not self.has(path, made_from):
            self.check(path)
            self.at(path).write_bytes(data)
            self.note(path, made_from)

    def check(self, path: str) -> None:
        """Raise ``InputError`` if ``path`` exists and was not written by this report."""
        if path not in self._made_from and path not in self._announced:
            check_file(self.at(path))

    def note(self, path: str, made_from: str) -> None:
        """Record that another function wrote the file ``path``."""
        self._made_from[path] = made_from
        self.written += 1

    def at(self, path: str) -> Location:
        return self.place / path

    def remove_others(self, trial_ids: set[str], figures: set[str]) -> None:
        """Remove the report's files of other trials, and other figures."""
        for path in list(self._made_from):
            folder, _, name = path.rpartition("/")
            of_trial = _OF_A_TRIAL.fullmatch(name)
            is_gone = of_trial and of_trial[1] not in trial_ids if folder == "trials" else name not in figures
            if folder in _SUBFOLDERS and is_gone:
                self.remove(path)
        kept = trial_ids | {BOARD}
        self.pictures = {key: known for key, known in self.pictures.items() if key in kept}

    def remove(self, path: str) -> None:
        """Remove ``path`` if it is a file of the report."""
        if self._made_from.pop(path, None):
            self.at(path).delete()
            self.removed += 1

    def save_state(self) -> None:
        state = {"made_by": _MADE_BY, "storage": self.storage, "files": self._made_from, "pictures": self.pictures}
        state["curves"] = self.curves
        state["announced"] = sorted(self._announced - set(self._made_from))
        (self.place / MARKER).write_bytes(json.dumps(state, indent=1).encode())


def digest(*parts: object) -> str:
    """32 hex digits that identify ``parts``: bytes, or values that JSON can express."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:32]
