"""Which functions of mdssl each test calls, recorded while the tests run, and so which tests can notice a change."""

from __future__ import annotations

import ast
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest

Calls = set[tuple[str, int]]
"""Functions, as (file, first line)."""


class Recorder:
    """A pytest plugin that writes the seconds of each test, and what it and its fixtures call, to ``record``."""

    def __init__(self, repository: Path, record: Path):
        self.repository, self.record = f"{repository}/", record
        self.calls: Calls = set()
        self.of_fixtures: dict[object, Calls] = {}
        self.tests: dict[str, tuple[float, Calls]] = {}

    def trace(self, frame, event, argument) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.repository):
            self.calls.add((code.co_filename.removeprefix(self.repository), code.co_firstlineno))

    @contextmanager
    def recorded(self, calls: Calls) -> Iterator[None]:
        outer, self.calls = self.calls, calls
        yield
        self.calls = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        with self.recorded(self.of_fixtures.setdefault(fixturedef, set())):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        began, own = time.monotonic(), set()
        with self.recorded(own):
            result = yield
        sys.settrace(None)
        fixtures = chain.from_iterable(item._fixtureinfo.name2fixturedefs.values())
        calls = own.union(*(self.of_fixtures.get(fixture, ()) for fixture in fixtures))
        self.tests[item.nodeid] = time.monotonic() - began, calls
        return result

    def pytest_sessionfinish(self) -> None:
        self.record.write_bytes(pickle.dumps(self.tests))


class Selection:
    """A pytest plugin that leaves out all other tests."""

    def __init__(self, tests: list[str]):
        self.tests = set(tests)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.tests]


class CallRecord:
    """What a `Recorder` has written."""

    def __init__(self, record: Path):
        self.seconds: dict[str, float] = {}
        self._tests: dict[str, dict[int, list[str]]] = {}
        for test, (seconds, calls) in pickle.loads(record.read_bytes()).items():
            self.seconds[test] = seconds
            for file, line in calls:
                self._tests.setdefault(file, {}).setdefault(line, []).append(test)

    def tests(self, file: str, text: str, line: int, most: float) -> list[str]:
        """The tests that call the innermost function that has a line of ``text``, or any of its file: the likeliest to
        notice a change first, and as many as take ``most`` seconds."""
        spans = (
            (min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        first, last = max((span for span in spans if span[0] <= line <= span[1]), default=(0, sys.maxsize))
        called = [tests for start, tests in self._tests.get(file, {}).items() if first <= start <= last]
        by_file: dict[str, list[str]] = {}
        for test in dict.fromkeys(chain.from_iterable(called)):
            by_file.setdefault(test.split("::")[0], []).append(test)
        own = Path(file.replace("mdssl", "tests", 1)).parent / f"test_{Path(file).name}"

        def rank(test_file: str) -> tuple[bool, bool, float]:
            path = Path(test_file)
            return path != own, path.parent != own.parent, sum(map(self.seconds.__getitem__, by_file[test_file]))

        found, total = [], 0.0
        for test in chain.from_iterable(by_file[test_file] for test_file in sorted(by_file, key=rank)):
            total += self.seconds[test]
            if not found or total <= most:
                found.append(test)
        return found
