"""The log of a trial, in its folder: log records, warnings and output of its processes.

Each process that works on a trial (training, driver, probe, and those after a restart) writes a file of its own::

    logs/20261123T193002.123-train-gpu3-4711.txt

`read` merges them by the time at the start of each entry.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any, TextIO

from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError
from mdssl.storage.append_file import AppendFile
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.terminal import printable

FOLDER = "logs"
FOLLOW_SECONDS = 2.0
_ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z )", re.MULTILINE)
"""The start of an entry, which may have several lines."""


@contextmanager
def kept_log(trial_dir: Location, process: str, *, errors_only: bool = False) -> Iterator[None]:
    """Within the context, save the output and log records of this process: INFO of mdssl, WARNING of others.

    An exception that leaves the context is saved with its traceback. Without entries there is no file.

    Args:
        process: its part in the trial, e.g. ``train``.
        errors_only: for all but the first of several workers.
    """
    host, began = socket.gethostname()[:80], datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    name = f"{began}-{process}-{host}-{os.getpid()}.txt"
    ours, root = logging.getLogger("mdssl"), logging.getLogger()
    level, streams = ours.level, (sys.stdout, sys.stderr)
    with AppendFile(trial_dir / FOLDER / name) as file:
        handler = _Handler(file, f"{process}@{host}:{os.getpid()}")
        handler.setLevel(logging.ERROR if errors_only else logging.INFO)
        root.addHandler(handler)
        if not errors_only:
            ours.setLevel(min(ours.getEffectiveLevel(), logging.INFO))
            tees = _Tee(sys.stdout, handler), _Tee(sys.stderr, handler)
            sys.stdout, sys.stderr = tees
        try:
            yield
        except Exception:
            # To this file only: the code that catches the exception reports it to the user.
            handler.handle(
                logging.LogRecord(__name__, logging.ERROR, "", 0, "ended by an error:", (), exc_info=sys.exc_info())
            )
            raise
        finally:
            if not errors_only:
                sys.stdout, sys.stderr = streams
                for tee in tees:
                    tee.end_line()
            root.removeHandler(handler)
            ours.setLevel(level)


def read(trial_dir: Location) -> str:
    """The entries of a trial in the order of time; empty if there are none."""
    return _in_order(_entries(trial_dir))


def print_log(storage: str | Location, trial_id: str, *, follow: bool = False) -> None:
    """Print the log of a trial, and with ``follow`` new entries until Ctrl-C.

    Raises:
        InputError: the storage has no log of the trial.
    """
    check_trial_id(trial_id)
    trial_dir = trial_dir_in(storage, trial_id)
    shown = _entries(trial_dir)
    if not shown and not (follow and trial_dir.names()):
        raise InputError(
            f"trial {trial_id!r} has no log in {trial_dir / FOLDER}; `mdssl status` and `mdssl leaderboard` list the "
            "trials of a storage; --storage selects another one."
        )
    print(printable(_in_order(shown)), end="", flush=True)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        now = _entries(trial_dir)
        new = {name: entries[len(shown.get(name, ())) :] for name, entries in now.items()}
        print(printable(_in_order(new)), end="", flush=True)
        shown = now


def _entries(trial_dir: Location) -> dict[str, list[str]]:
    """By file, without a last entry that is still being written."""
    folder = trial_dir / FOLDER
    found = {}
    for name in folder.names():
        if not name.endswith(".txt"):
            continue
        text = (folder / name).read_bytes().decode(errors="replace")
        found[name] = [entry for entry in _ENTRY.split(text) if entry.endswith("\n")]
    return found


def _in_order(entries: dict[str, list[str]]) -> str:
    return "".join(sorted((entry for own in entries.values() for entry in own), key=lambda entry: entry.split(" ")[0]))


class _Handler(logging.Handler):
    def __init__(self, file: AppendFile, who: str):
        super().__init__()
        self.file, self.who = file, who

    def filter(self, record: logging.LogRecord) -> bool:
        # Ray Train lowers the root's level to DEBUG.
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] == "mdssl"

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record), record.levelname, record.created)

    def put(self, text: str, kind: str, seconds: float | None = None) -> None:
        at = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.file.write(f"{stamp} {self.who} {kind} {text}\n".encode(errors="replace"))


class _Tee:
    """A wrapper of a stream that also writes complete lines to a log; it leaves the rest to the stream."""

    def __init__(self, stream: TextIO, handler: _Handler):
        self._stream, self._handler, self._begun = stream, handler, ""

    def write(self, text: str) -> int:
        count = self._stream.write(text)
        if _comes_from_logging():
            return count  # the handler has saved it
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            # A progress bar redraws its line: only the last state is saved.
            if line := line.rstrip("\r").rpartition("\r")[2].rstrip():
                self._handler.put(line, "PRINT")
        return count

    def end_line(self) -> None:
        """Save an unfinished line."""
        if self._begun.strip():
            self._handler.put(self._begun.rpartition("\r")[2], "PRINT")
        self._begun = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _comes_from_logging() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
