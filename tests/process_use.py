"""Find tests that start processes, by the names in their code, their fixtures and helpers, and files that start Ray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType

import pytest

TESTS = Path(__file__).parent
STARTERS = {"subprocess", "multiprocessing", "Popen", "Process", "spawn", "get_context", "sync_playwright"}


@cache
def starts_ray(file: Path) -> bool:
    return "pytest.mark.ray" in file.read_text()


@cache
def joins_the_cluster(file: Path) -> bool:
    """Whether the file uses the fixture ``cluster`` instead of its own Ray."""
    return starts_ray(file) and re.search(r"\bcluster\b", file.read_text()) is not None


def starts_processes(item: pytest.Item) -> bool:
    if item.get_closest_marker("ray"):
        return True
    fixtures = [definition.func for found in item._fixtureinfo.name2fixturedefs.values() for definition in found]
    return any(_starts(function) for function in [item.function, *fixtures])


@cache
def _starts(function: object) -> bool:
    return _mentions_a_starter(function, set())


def _mentions_a_starter(function: object, seen: set[CodeType]) -> bool:
    function = getattr(function, "__wrapped__", function)
    if isinstance(function, type):
        return any(_mentions_a_starter(method, seen) for method in vars(function).values())
    if not isinstance(function, FunctionType) or function.__code__ in seen:
        return False
    if TESTS not in Path(function.__code__.co_filename).parents:
        return False
    seen.add(function.__code__)
    names = set(_names(function.__code__))
    if names & STARTERS:
        return True
    scopes = [
        function.__globals__,
        *(vars(module) for module in map(function.__globals__.get, names) if _is_ours(module)),
    ]
    return any(_mentions_a_starter(scope[name], seen) for scope in scopes for name in names if name in scope)


def _is_ours(value: object) -> bool:
    return TESTS in Path(getattr(value, "__file__", None) or "/").parents


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
