"""Paths in the documentation exist, and a method can be added exactly as docs/extending.md says."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE_IT = """
import re, sys
from mdssl.cli.main import main

data, storage, out = sys.argv[1:]
where = ["--storage", storage]

def run(*arguments):
    assert main([*arguments, *where]) == 0, arguments

train = ["--domains", "tiny-a", "tiny-b", "--iterations", "2", "--batch-per-domain", "8", "--precision", "fp32"]
train += ["--device", "cpu", "--data", data, "--lambda1", "0.9", "--lambda2", "0.1"]
run("train", "--method", "mdssl-mine", *train)
run("train", "--method", "mdssl", *train)
from mdssl.leaderboard.board import read
from mdssl.storage.location import Location
trials = (Location.of(storage) / "trials").names()
for trial in trials:
    run("probe", trial, "--evaluate", "tiny-a", "tiny-c", "--data", data, "--device", "cpu")
board = read(storage)
mine = board[board["method"] == "mdssl-mine"]["trial_id"].iloc[0]
assert set(board["method"]) == {"mdssl", "mdssl-mine"} and len(trials) == 2
run("leaderboard")
run("leaderboard", "--baseline", "mdssl", "--sort", "method")
run("status")
run("figures", "--output", f"{out}/figures")
run("report", "--output", f"{out}/report")
run("export", mine, "--output", f"{out}/export", "--data", data)
assert "an idea of mine" in open(f"{out}/export/README.md").read()
"""


@pytest.mark.parametrize("page", ["architecture.md", "extending.md", "api.md"])
def test_paths_in_the_documentation_exist(page):
    text = (ROOT / "docs" / page).read_text()
    paths = re.findall(r"`((?:mdssl|sweeps|tests|docs)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [path for path in re.findall(r"`(\w+\.py)`", text)] == [], "a file is named without its folder"


def test_tests_in_seconds_txt_exist():
    listed = [line.partition("::") for line in (ROOT / "tests/seconds.txt").read_text().split()]
    stale = [file for file, _, test in listed if test and f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert stale == [] and all((ROOT / "tests" / file).exists() for file, _, _ in listed)


def test_method_is_added_by_the_documented_code(tiny_data, tmp_path):
    (record,) = re.findall(r"^ *```python\n(.*?)^ *```", (ROOT / "docs/extending.md").read_text(), re.M | re.S)
    shutil.copytree(ROOT / "mdssl", tmp_path / "code" / "mdssl", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "code" / "mdssl" / "config" / "methods.py"
    before, place, after = file.read_text().partition('        Method(\n            name="mdssl-clustered"')
    file.write_text(before + textwrap.indent(textwrap.dedent(record).strip() + ",\n", 8 * " ") + place + after)

    command = [sys.executable, "-c", USE_IT, tiny_data, str(tmp_path / "results"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), os.environ["PYTHONPATH"]])}
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^ *(?:[0-9a-f]{12} +)?mdssl-mine +0.9 +0.1 ", ended.stdout, re.M)
    assert "MDSSL, mine" in "".join(svg.read_text() for svg in tmp_path.glob("figures/*.svg"))
