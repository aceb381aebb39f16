"""Mutation tests: which mutants are made, and which tests run for each."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from line_record import LineRecord, statement_at
from line_trace import VARIABLE
from mutants import REPOSITORY, ROOMS, known_equivalent, mutants_of

from mdssl.errors import check_number

SOURCE = """
LIMIT = 2

def inner(x):
    return x < LIMIT

def outer(x):
    return inner(x, low=1)
"""


def test_mutants_of_a_file():
    assert [mutant.diff(SOURCE) for mutant in mutants_of("m.py", SOURCE)] == [
        ("LIMIT = 2", "LIMIT = 3"),
        ("return x < LIMIT", "return None"),
        ("return x < LIMIT", "return x <= LIMIT"),
        ("return inner(x, low=1)", "return None"),
        ("return inner(x, low=1)", "return inner(x, )"),
        ("return inner(x, low=1)", "return inner(x, low=2)"),
    ]
    # No test can notice these.
    assert [mutant.after for mutant in mutants_of("m.py", "zip(max(a, b), c, strict=True)")] == [
        "pass", "c, max(a, b)",
    ]  # fmt: skip


def test_tests_of_a_statement_start_with_those_of_its_own_file(tmp_path):
    executed = {
        "tests/a/test_b.py::slow": (50, {("mdssl/a/m.py", 5)}),
        "tests/a/test_m.py::one": (9, {("mdssl/a/m.py", 5)}),
        "tests/c/test_c.py::one": (1, {("mdssl/a/m.py", 5)}),
        "tests/a/test_m.py::two": (1, {("mdssl/a/m.py", 8), ("mdssl/a/other.py", 5)}),
        "tests/a/test_m_limits.py::one": (1, set()),
    }
    (tmp_path / "record").write_bytes(pickle.dumps(executed))
    record = LineRecord(tmp_path / "record")
    assert record.tests("mdssl/a/m.py", SOURCE, 5, most=59) == ["tests/a/test_m.py::one", "tests/a/test_b.py::slow"]
    assert record.tests("mdssl/a/m.py", SOURCE, 8, most=59) == ["tests/a/test_m.py::two"]
    assert sorted(record.tests("mdssl/a/m.py", SOURCE, 2, most=62)) == sorted(executed), "a test may read LIMIT alone"


LOOP = """
def loop(values):
    for value in sorted(
        values,
    ):
        if value:
            print(
                value
            )
"""


@pytest.mark.parametrize(("line", "statement"), [(2, (0, sys.maxsize)), (4, (3, 5)), (6, (6, 6)), (8, (7, 9))])
def test_statement_has_all_its_lines_without_its_body(line, statement):
    assert statement_at(line, LOOP) == statement


@pytest.mark.parametrize("room", ROOMS)
def test_mutated_files_exist(room):
    assert list(REPOSITORY.glob(f"mdssl/{room}"))


def test_equivalent_mutants_are_still_mutants():
    known = known_equivalent()
    texts = {file: Path(REPOSITORY, file).read_text() for file, *_ in known}
    made = {(file, *mutant.diff(text)) for file, text in texts.items() for mutant in mutants_of(file, text)}
    assert known <= made


def test_processes_record_the_lines_that_they_execute(tmp_path):
    code = "from mdssl.errors import check_number; check_number('x', 1, low=0)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {VARIABLE: str(tmp_path)}, check=True)
    (file,) = tmp_path.iterdir()
    first = check_number.__code__.co_firstlineno
    assert {f"mdssl/errors.py {first + line}" for line in (2, 3)} <= set(file.read_text().splitlines())
