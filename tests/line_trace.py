"""Trace the lines of mdssl that a process executes; for `line_record`, but without imports that cost seconds."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Line = tuple[str, int]
"""A line of code: file and number."""
VARIABLE = "MDSSL_LINE_RECORD"
"""Processes with this environment variable, a folder, write the lines that they execute to a file there."""


def trace_lines(repository: Path, add: Callable[[Line], None]) -> None:
    """Call ``add`` with each line of ``repository`` that this process executes from now on."""
    start = f"{repository}/"

    def trace(frame, event, argument):
        path = frame.f_code.co_filename
        if not path.startswith(start):
            return None
        file = path.removeprefix(start)

        def trace_line(frame, event, argument):
            if event == "line":
                add((file, frame.f_lineno))
            return trace_line

        return trace_line

    threading.settrace(trace)
    sys.settrace(trace)


def record(package: ModuleType) -> None:
    """Write each line of ``package`` that this process executes to a file at once, so that a kill loses none."""
    executed = set[Line]()
    file = os.open(Path(os.environ[VARIABLE], str(os.getpid())), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(line: Line) -> None:
        if line not in executed:
            executed.add(line)
            os.write(file, f"{line[0]} {line[1]}\n".encode())

    trace_lines(Path(package.__file__).parents[1], add)
