"""Record which lines of mdssl each test executes, and select the tests that can notice a change."""

from __future__ import annotations

import ast
import os
import pickle
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from line_trace import VARIABLE, Line, trace_lines


class Recorder:
    """A pytest plugin that writes to ``record`` the duration of each test and the lines that it, its fixtures and the
    processes that they start execute."""

    def __init__(self, repository: Path, record: Path):
        self.repository, self.record = repository, record
        self.lines = set[Line]()
        self.of_fixtures: dict[object, set[Line]] = {}
        self.tests: dict[str, tuple[float, set[Line]]] = {}
        self.of_processes = record.with_name("processes")
        self.of_processes.mkdir()
        self.read = defaultdict[Path, int](int)
        os.environ[VARIABLE] = str(self.of_processes)

    @contextmanager
    def recorded(self, lines: set[Line]) -> Iterator[None]:
        outer, self.lines = self.lines, lines
        yield
        self.lines = outer
        for file in self.of_processes.iterdir():
            text = file.read_text()
            end = text.rfind("\n") + 1  # the rest is being written
            lines.update(
                (name, int(number)) for name, number in map(str.split, text[self.read[file] : end].splitlines())
            )
            self.read[file] = end

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        with self.recorded(self.of_fixtures.setdefault(fixturedef, set())):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        trace_lines(self.repository, lambda line: self.lines.add(line))
        began, own = time.monotonic(), set()
        with self.recorded(own):
            result = yield
        sys.settrace(None)
        fixtures = chain.from_iterable(item._fixtureinfo.name2fixturedefs.values())
        lines = own.union(*(self.of_fixtures.get(fixture, ()) for fixture in fixtures))
        self.tests[item.nodeid] = time.monotonic() - began, lines
        return result

    def pytest_sessionfinish(self) -> None:
        self.record.write_bytes(pickle.dumps(self.tests))


class Selection:
    """A pytest plugin that selects ``tests``."""

    def __init__(self, tests: list[str]):
        self.tests = set(tests)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.tests]


class LineRecord:
    """The record that a `Recorder` has written."""

    def __init__(self, record: Path):
        self.seconds: dict[str, float] = {}
        self._tests: dict[str, dict[int, list[str]]] = {}
        for test, (seconds, lines) in pickle.loads(record.read_bytes()).items():
            self.seconds[test] = seconds
            for file, line in lines:
                self._tests.setdefault(file, {}).setdefault(line, []).append(test)

    def tests(self, file: str, text: str, line: int, most: float) -> list[str]:
        """Tests that execute the statement at ``line`` of ``text``; for a statement outside functions, tests that
        execute any line of the file or are named after it, as they may only read its constants. The likeliest to notice
        a change come first. The tests take at most ``most`` seconds, or there is only one."""
        first, last = statement_at(line, text)
        executed = [tests for number, tests in self._tests.get(file, {}).items() if first <= number <= last]
        own = Path(file.replace("mdssl", "tests", 1)).parent / f"test_{Path(file).name}"
        if first == 0:
            executed.append([test for test in self.seconds if test.startswith(str(own.with_suffix("")))])

        def rank(test: str) -> tuple[bool, bool, bool, float]:
            path = Path(test.split("::")[0])
            return path != own, not path.stem.startswith(own.stem), path.parent != own.parent, self.seconds[test]

        found, total = [], 0.0
        for test in sorted(set(chain.from_iterable(executed)), key=rank):
            total += self.seconds[test]
            if not found or total <= most:
                found.append(test)
        return found


def statement_at(line: int, text: str) -> tuple[int, int]:
    """First and last line of the innermost statement at ``line`` without its body; outside functions, of the file."""
    spans = [(0, sys.maxsize)]
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef):
            for node in chain.from_iterable(map(ast.walk, function.body)):
                if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
                    body = getattr(node, "body", None)
                    start = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
                    spans.append((start, max(start, body[0].lineno - 1) if body else node.end_lineno))
    return max(span for span in spans if span[0] <= line <= span[1])
