"""Change one place of the source at a time, run the tests of that file, and list the changes that no test notices.

    python tests/mutants.py [--sample N] [--seed S] [--minutes M] [--only TEXT]

The changes (mutants): comparisons, arithmetic, constants, negated conditions, deleted statements, swapped arguments,
dropped keyword arguments. Two copies of the repository are tested in parallel. Exit code 1 if more than 5 % survive.
Mutants that change nothing anyone could see are listed, with the reason, in tests/equivalent_mutants.txt.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
ALLOWED_SHARE = 0.05
PROCESSES = 2

PRETRAIN, EVALUATE = "tests/pretrain/test_", "tests/evaluate/test_"
LOOP = [f"{PRETRAIN}loop.py", f"{PRETRAIN}faults.py"]
TESTS = {
    "mdssl/pretrain/augment.py": [f"{PRETRAIN}augment.py"],
    "mdssl/pretrain/checkpoint.py": LOOP,
    "mdssl/pretrain/kmeans.py": [f"{PRETRAIN}kmeans.py"],
    "mdssl/pretrain/loop.py": [*LOOP, f"{PRETRAIN}pseudo_domains.py"],
    "mdssl/pretrain/loss.py": [f"{PRETRAIN}loss.py"],
    "mdssl/pretrain/model.py": [f"{PRETRAIN}model.py"],
    "mdssl/pretrain/optim.py": [f"{PRETRAIN}optim.py"],
    "mdssl/pretrain/pretrained.py": [f"{PRETRAIN}pretrained.py"],
    "mdssl/pretrain/progress.py": LOOP,
    "mdssl/pretrain/pseudo_domains.py": [f"{PRETRAIN}pseudo_domains.py"],
    "mdssl/pretrain/step.py": [f"{PRETRAIN}step.py"],
    "mdssl/pretrain/trial_files.py": LOOP,
    "mdssl/pretrain/weights_file.py": [f"{PRETRAIN}pretrained.py"],
    "mdssl/evaluate/classifier.py": [f"{EVALUATE}probe.py"],
    "mdssl/evaluate/evaluate.py": [f"{EVALUATE}evaluate.py"],
    "mdssl/evaluate/features.py": [f"{EVALUATE}features.py"],
    "mdssl/evaluate/knn.py": [f"{EVALUATE}knn.py"],
    "mdssl/evaluate/probe.py": [f"{EVALUATE}probe.py"],
    "mdssl/evaluate/sgd.py": [f"{EVALUATE}probe.py"],
    "mdssl/data/mixture.py": [f"{PRETRAIN}step.py", f"{PRETRAIN}loop.py"],
    "mdssl/sweep/grid.py": ["tests/sweep/test_grid.py"],
    "mdssl/trials/rows.py": ["tests/trials/test_rows.py", "tests/sweep/test_grid.py"],
    "mdssl/sweep/paper_plan.py": ["tests/sweep/test_paper_plan.py"],
    "mdssl/config/presets.py": ["tests/config/test_presets.py"],
}
"""Which tests must notice a change of a file."""

IMPORTED_FIRST = (
    "pytest", "torch", "torchvision.transforms.v2.functional", "pandas", "pyarrow.parquet",
    "safetensors.torch", "scipy.optimize", "sklearn.cluster", "sklearn.linear_model", "sklearn.metrics",
    "sklearn.neighbors", "rich.live", "PIL.Image",
)  # fmt: skip
"""Slow to import: imported once, before the processes that test are forked."""

OPERATORS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip


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
        """The first line before and after."""
        lines = text.splitlines()[self.line - 1], self.applied(text).splitlines()[self.line - 1]
        return lines[0].strip(), lines[1].strip()


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        # Columns of an ast count bytes.
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
            # Parentheses around the operands stay.
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
            match node.args:
                case [first, second, *_] if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred):
                    (start, middle), (after, end) = span(first), span(second)
                    yield replaced(node, text[after:end] + text[middle:after] + text[start:middle], start, end)
            for keyword in node.keywords:
                start, end = span(keyword)
                end += len(text[end:]) - len(text[end:].lstrip(", "))
                yield replaced(node, "", start, end)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node``, without type annotations, docstrings, log lines and the wording of messages."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                continue
            if isinstance(child, ast.Expr) and (
                isinstance(child.value, ast.Constant | ast.Yield)
                or ast.unparse(child).startswith(("log.", "warnings.", "print("))
            ):
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _code(child)


def run_tests(copy: Path, tests: list[str], log: Path) -> None:
    """Run ``tests`` in ``copy``, in this process, which ends with pytest's exit code."""
    os.setsid()
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    marks = "not (ray or ddp or long or cluster or gpu or slow)"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marks, f"--basetemp={copy}-temporary"]
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        import pytest

        code = pytest.main([*options, *tests])
    os._exit(int(code))


class Tester:
    """A copy of the repository, in which one mutant is tested at a time."""

    def __init__(self, folder: Path):
        self.copy, self.log = folder / "repository", folder / "log.txt"
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for name in names.splitlines():
            if (REPOSITORY / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / name, self.copy / name)
        self.process: multiprocessing.Process | None = None

    def start(self, file: str, text: str, seconds: float, mutant: Mutant | None = None) -> None:
        self.file, self.text, self.mutant = file, text, mutant
        (self.copy / file).write_text(mutant.applied(text) if mutant else text)
        self.process = multiprocessing.get_context("fork").Process(
            target=run_tests, args=(self.copy, TESTS[file], self.log)
        )
        self.began, self.limit = time.monotonic(), seconds
        self.process.start()

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.began > self.limit

    def end(self) -> int:
        """The exit code of the tests; what still runs of them ends."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.seconds, code = time.monotonic() - self.began, self.process.exitcode
        self.process = None
        (self.copy / self.file).write_text(self.text)
        return code


def known_equivalent() -> set[tuple[str, str, str]]:
    """The mutants that no test can notice: file, line before, line after."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    return {tuple(line.split(" | ")[:3]) for line in lines if line and not line.startswith("#")}


def chosen_mutants(arguments: argparse.Namespace) -> tuple[dict[str, str], list[Mutant]]:
    """The files' texts, and the mutants to test in the order of testing."""
    texts = {file: (REPOSITORY / file).read_text() for file in TESTS if arguments.only in file}
    equivalent = known_equivalent()
    found = [mutant for file, text in texts.items() for mutant in mutants_of(file, text)]
    found = [mutant for mutant in found if (mutant.file, *mutant.diff(texts[mutant.file])) not in equivalent]
    random.Random(arguments.seed).shuffle(found)
    return texts, found[: arguments.sample]


def each_in_parallel(testers: list[Tester], jobs: Iterator[tuple]) -> Iterator[Tester]:
    """Testers as they end what ``jobs`` gives them, `Tester.start`'s arguments."""
    while True:
        for tester in testers:
            if tester.process is None and (job := next(jobs, None)):
                tester.start(*job)
        running = [tester for tester in testers if tester.process]
        if not running:
            return
        wait([tester.process.sentinel for tester in running], timeout=1)
        yield from (tester for tester in running if tester.is_late or not tester.process.is_alive())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, metavar="N", help="how many mutants to test")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of mutants")
    parser.add_argument("--minutes", type=float, default=25, help="after which no further mutant is begun")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path contains this")
    arguments = parser.parse_args()
    texts, mutants = chosen_mutants(arguments)
    for name in IMPORTED_FIRST:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mdssl-mutants-") as folder:
        testers = [Tester(Path(folder) / str(number)) for number in range(PROCESSES)]
        try:
            return test_mutants(texts, mutants, testers, 60 * arguments.minutes)
        finally:
            for tester in testers:
                if tester.process:
                    tester.end()


def test_mutants(texts: dict[str, str], mutants: list[Mutant], testers: list[Tester], seconds: float) -> int:
    began = time.monotonic()
    usual = {}
    for tester in each_in_parallel(testers, ((file, text, 600.0) for file, text in texts.items())):
        if tester.end():
            print(f"the tests of {tester.file} fail without any change:\n{tester.log.read_text()[-3000:]}")
            return 2
        usual[tester.file] = tester.seconds
        print(f"{tester.file}: its tests take {tester.seconds:.0f} s", flush=True)
    jobs = (
        (mutant.file, texts[mutant.file], 3 * usual[mutant.file] + 20, mutant)
        for mutant in mutants
        if time.monotonic() - began < seconds
    )
    survivors, tested = [], 0
    mutants_began = time.monotonic()
    try:
        for tester in each_in_parallel(testers, jobs):
            late, code, mutant = tester.process.is_alive(), tester.end(), tester.mutant
            tested += 1
            if code == 0 and not late:
                survivors.append(mutant)
                show(mutant, texts[mutant.file])
            per_mutant = (time.monotonic() - mutants_began) / tested
            left = min(per_mutant * (len(mutants) - tested), max(0, began + seconds - time.monotonic()))
            if sys.stdout.isatty() or tested % 20 == 0:
                line = f"{tested} of {len(mutants)} mutants, {len(survivors)} survived, ETA {left / 60:.0f} min"
                print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted")
    share = len(survivors) / max(tested, 1)
    print(f"\n{tested} mutants tested, {len(survivors)} survived ({share:.1%})")
    for mutant in sorted(survivors):
        show(mutant, texts[mutant.file])
    return int(share > ALLOWED_SHARE)


def show(mutant: Mutant, text: str) -> None:
    before, after = mutant.diff(text)
    print(f"{mutant.file}:{mutant.line}\n    - {before}\n    + {after}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
