"""Blocks of docs/leaderboard.md run in order on the results of a real sweep and print the documented output."""

import ast
import contextlib
import io
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import s3_server

from mdssl.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block."""
    return [(found[1], found[2]) for found in _BLOCK.finditer(text)]


def shown_by(code: str, names: dict) -> str:
    """Output of a notebook cell: the printed text and the value of the last line."""
    *lines, last = ast.parse(code).body
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(ast.Module(lines, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            print("" if value is None else repr(value))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    return tidy(out.getvalue())


def printed_by(console: str) -> list[tuple[str, str, str]]:
    """Each command in a block with its documented output and its actual output."""
    found = []
    for command in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        line, _, expected = command.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "mdssl"
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            assert main(arguments) == 0
        found.append((line, tidy(expected), tidy(out.getvalue())))
    return found


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


@pytest.fixture
def beside_results(sweep_results, tmp_path, monkeypatch):
    """A folder that contains ``results``. Other tests do not see the files that a block writes."""
    (tmp_path / "results").symlink_to(sweep_results)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_every_block_prints_its_documented_output(beside_results):
    found = blocks(PAGE.read_text())
    names: dict = {}
    for number, (language, content) in enumerate(found):
        if language == "python" and not re.search("s3://|mdssl.figures", content):
            result = shown_by(content, names)
            following = found[number + 1] if number + 1 < len(found) else ("", "")
            assert result == (tidy(following[1]) if following[0] == "text" else ""), content
        elif language == "console":
            for line, expected, printed in printed_by(content):
                assert printed == expected, line


def test_the_bucket_example_prints_its_documented_output(beside_results, sweep_results, bucket):
    s3_server.sync(sweep_results / "leaderboard", f"{bucket}/results/leaderboard")
    found = blocks(PAGE.read_text())
    (place,) = [number for number, (_, content) in enumerate(found) if "s3://" in content]
    result = shown_by(found[place][1].replace("s3://BUCKET", bucket), {"pd": pd})
    assert result == tidy(found[place + 1][1]) == "True"


def test_the_figure_example_draws_the_leaderboard(beside_results):
    pytest.importorskip("mdssl.figures")
    names = {"pd": pd}
    (figures,) = [content for _, content in blocks(PAGE.read_text()) if "mdssl.figures import" in content]
    exec(figures, names)
    assert names["figure"].axes
