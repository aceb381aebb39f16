"""Change one place of the source at a time, run the tests that execute it, and list the changes that no test notices.

    python tests/mutants.py [--sample N] [--seed S] [--minutes M] [--only TEXT] [--record FILE]

The changes (mutants) are: other comparisons, operators and constants, negated conditions, deleted statements, swapped
arguments, and dropped keyword arguments; but not those of ``SYMMETRIC``, ``TUNING`` and ``FORM``. First the ``TESTS``
without Ray run once without a change to record the lines that each test and its processes execute. The tests of a
mutant are those that execute its statement. The exit code is 1 if more than 5 % of the mutants survive. Mutants of
lines that none of these tests executes survive, except in mdssl/sweep, where they need Ray and are skipped. Equivalent
mutants, which no test can notice, are listed with a reason in tests/equivalent_mutants.txt.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from line_record import LineRecord, Recorder, Selection

REPOSITORY = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
ALLOWED_SHARE = 0.05
ROOMS = ("config/**/*.py", "data/mixture.py", "evaluate/**/*.py", "pretrain/**/*.py", "sweep/**/*.py", "trials/**/*.py")
"""Files of mdssl/ that are mutated."""
TESTED = ("config", "data/test_host_images.py", "evaluate", "pretrain", "sweep", "trials", "test_security.py")
TESTS = [f"tests/{room}" for room in TESTED]
MARKS = "not (ray or long or cluster or gpu or slow)"
SECONDS = 90
"""Time of the tests of a mutant; the likeliest to notice it are chosen."""

IMPORTED_FIRST = (
    "torch", "torchvision.transforms.v2.functional", "pandas", "pyarrow.parquet", "safetensors.torch",
    "scipy.optimize", "sklearn.cluster", "sklearn.linear_model", "sklearn.metrics", "sklearn.neighbors", "rich.live",
    "PIL.Image", "timm",
)  # fmt: skip
"""Slow imports, which are made once before test processes are forked."""

OPERATORS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
SYMMETRIC = {"min", "max", "np.clip"}
TUNING = re.compile(r"[A-Z_]*(_SECONDS|_CHUNK_[A-Z]+) = |time\.sleep\(")
"""Waiting times and sizes of blocks, which change no result."""
FORM = {"strict", "soft_wrap", "markup", "progress", "indent", "ensure_ascii"}
"""Keyword arguments: the check of ``zip``, which only a defect of ours would fail, and how files and console look."""


class Mutant(NamedTuple):
    """A file's text in which ``before`` at ``start`` is replaced by ``after``."""

    file: str
    line: int
    start: int
    before: str
    after: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.after + text[self.start + len(self.before) :]

    def diff(self, text: str) -> tuple[str, str]:
        """The changed line before and after; the first one if there are several."""
        lines = text.splitlines()[self.line - 1], self.applied(text).splitlines()[self.line - 1]
        return lines[0].strip(), lines[1].strip()


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        # Column offsets of ast are in bytes.
        whole = text[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(whole.encode()[:column].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    def replaced(node: ast.AST, after: str, start: int | None = None, end: int | None = None) -> Mutant:
        first, last = span(node)
        first, last = first if start is None else start, last if end is None else end
        return Mutant(file, text.count("\n", 0, first) + 1, first, text[first:last], after)

    def between(node: ast.AST, left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Mutant]:
        if type(operator) in OPERATORS:
            start, end = span(left)[1], span(right)[0]
            gap = text[start:end]
            # Parentheses around the operands are kept.
            closing = len(gap) - len(gap.lstrip(" )\n"))
            opening = len(gap) - len(gap.rstrip(" (\n"))
            yield replaced(node, OPERATORS[type(operator)], start + closing, end - opening)

    for node in _code(ast.parse(text)):
        match node:
            case ast.Compare(left=left, ops=operators, comparators=others):
                for one, operator, other in zip([left, *others], operators, others, strict=False):
                    yield from between(node, one, other, operator)
            case ast.BinOp(left=left, op=operator, right=right):
                yield from between(node, left, right, operator)
            case ast.BoolOp(op=operator, values=[first, second, *_]):
                start, end = span(first)[1], span(second)[0]
                words = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
                yield replaced(node, text[start:end].replace(*words), start, end)
            case ast.Constant(value=bool(value)):
                yield replaced(node, str(not value))
            case ast.Constant(value=int(value)):
                yield replaced(node, str(value + 1))
            case ast.Constant(value=float(value)):
                yield replaced(node, str(1.5 * value or 1.0))
            case ast.UnaryOp(op=ast.USub() | ast.Not()):
                length = len("not ") if isinstance(node.op, ast.Not) else len("-")
                yield replaced(node, "", end=span(node)[0] + length)
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield replaced(test, f"not ({ast.get_source_segment(text, test)})")
            case ast.Return(value=value) if value and not isinstance(value, ast.Constant):
                yield replaced(value, "None")
            case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield replaced(node, "pass")
        if isinstance(node, ast.Call):
            two = [each for each in node.args[:2] if not isinstance(each, ast.Starred)]
            if len(two) == 2 and ast.unparse(node.func) not in SYMMETRIC:
                (start, middle), (after, end) = map(span, two)
                yield replaced(node, text[after:end] + text[middle:after] + text[start:middle], start, end)
            for keyword in [word for word in node.keywords if word.arg not in FORM]:
                start, end = span(keyword)
                end += len(text[end:]) - len(text[end:].lstrip(", "))
                yield replaced(node, "", start, end)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node`` without annotations, docstrings, assertions, log calls and texts of messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params") or getattr(node, "arg", "") in FORM:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            words = ast.unparse(child) if isinstance(child, ast.stmt) else ""
            is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant | ast.Yield)
            if is_text or TUNING.match(words) or words.startswith(("assert ", "log.", "warnings.", "print(")):
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _code(child)


def run_tests(copy: Path, tests: list[str] | None, log: Path) -> None:
    """Run ``tests`` in ``copy``, and end this process with pytest's exit code. Without ``tests``, run all fast tests,
    and record the lines that they execute beside ``copy``."""
    os.setsid()
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    options = f"-x -q -p no:cacheprovider -p pytest_timeout --basetemp={copy}-temporary".split()
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        if tests is None:
            runs = [(TESTS, Recorder(copy, copy.parent / "record"))]
        else:
            files = list(dict.fromkeys(test.split("::")[0] for test in tests))
            # The likeliest file runs alone first, because collecting the others takes seconds.
            runs = [(part, Selection(tests)) for part in (files[:1], files[1:]) if part]
        for where, plugin in runs:
            code = pytest.main([*options, "-m", MARKS, *where], [plugin])
            if code not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
                break
    os._exit(int(code))


class Tester:
    """A copy of the repository, in which one mutant is tested at a time."""

    def __init__(self, folder: Path, record: Path | None):
        self.copy, self.log = folder / "repository", folder / "log.txt"
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for name in names.splitlines():
            if (REPOSITORY / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / name, self.copy / name)
        if record and record.exists():
            shutil.copyfile(record, folder / "record")
        elif self.run(None, 3600):
            sys.exit(f"tests fail without any change:\n{self.log.read_text()[-3000:]}")
        elif record:
            shutil.copyfile(folder / "record", record)
        self.executed = LineRecord(folder / "record")

    def run(self, tests: list[str] | None, seconds: float) -> int | None:
        """The exit code of the tests, or None after ``seconds``. Their remaining processes are killed."""
        process = multiprocessing.get_context("fork").Process(target=run_tests, args=(self.copy, tests, self.log))
        process.start()
        try:
            process.join(seconds)
            return process.exitcode
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()

    def noticed(self, mutant: Mutant, text: str) -> str:
        """How tests notice a mutant: "failed", "late" or not ("no"); "ray" if only tests with Ray execute it."""
        tests = self.executed.tests(mutant.file, text, mutant.line, SECONDS)
        if not tests:
            return "ray" if mutant.file.startswith("mdssl/sweep/") else "no"
        (self.copy / mutant.file).write_text(mutant.applied(text))
        code = self.run(tests, 3 * sum(map(self.executed.seconds.__getitem__, tests)) + 60)
        (self.copy / mutant.file).write_text(text)
        log = self.log.read_text()
        if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR) and "loading conftest" not in log:
            sys.exit(f"pytest fails:\n{log[-3000:]}")
        return "late" if code is None else "no" if code in (0, pytest.ExitCode.NO_TESTS_COLLECTED) else "failed"


def known_equivalent() -> set[tuple[str, str, str]]:
    """The mutants that no test can notice: file, line before, line after."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    return {tuple(line.split(" | ")[:3]) for line in lines if line and not line.startswith("#")}


def chosen_mutants(arguments: argparse.Namespace) -> tuple[dict[str, str], list[Mutant]]:
    """Texts of the files, and the non-equivalent mutants in the order of testing."""
    paths = chain.from_iterable(REPOSITORY.glob(f"mdssl/{room}") for room in ROOMS)
    files = [str(path.relative_to(REPOSITORY)) for path in sorted(paths)]
    texts = {file: (REPOSITORY / file).read_text() for file in files if arguments.only in file}
    all_mutants = chain.from_iterable(mutants_of(file, text) for file, text in texts.items())
    equivalent = known_equivalent()
    found = [m for m in all_mutants if m.before != m.after and (m.file, *m.diff(texts[m.file])) not in equivalent]
    random.Random(arguments.seed).shuffle(found)
    return texts, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, metavar="N", help="how many mutants to test")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants")
    parser.add_argument("--minutes", type=float, default=25, help="after which no further mutant is begun")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path contains this")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keeps which lines each test executes")
    arguments = parser.parse_args()
    began = time.monotonic()
    texts, mutants = chosen_mutants(arguments)
    for name in IMPORTED_FIRST:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mdssl-mutants-") as folder:
        tester = Tester(Path(folder), arguments.record)
        print(f"{len(tester.executed.seconds)} tests take {sum(tester.executed.seconds.values()):.0f} s", flush=True)
        return test_mutants(texts, mutants, arguments.sample, tester, began + 60 * arguments.minutes)


def test_mutants(texts: dict[str, str], mutants: list[Mutant], sample: int, tester: Tester, end: float) -> int:
    survived, ways, tested, began = 0, Counter(), 0, time.monotonic()
    for mutant in mutants:
        if tested == sample or time.monotonic() > end:
            break
        way = tester.noticed(mutant, texts[mutant.file])
        ways[way] += 1
        if way == "no":
            survived += 1
            before, after = mutant.diff(texts[mutant.file])
            print(f"{mutant.file}:{mutant.line}\n    - {before}\n    + {after}", flush=True)
        tested = ways.total() - ways["ray"]
        if way != "ray" and tested % 10 == 0:
            left = min((time.monotonic() - began) / tested * (sample - tested), end - time.monotonic())
            print(f"{tested} of {sample} mutants, {survived} survived, ETA {left / 60:.0f} min", flush=True)
    share = survived / max(tested, 1)
    print(f"{tested} mutants tested, {survived} survived ({share:.1%}), {ways['late']} ran out of time")
    print(f"{ways['ray']} others were left out, as only tests with Ray execute them")
    return int(share > ALLOWED_SHARE)


if __name__ == "__main__":
    sys.exit(main())
