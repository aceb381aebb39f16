"""The wheel, installed in a new environment, runs a short version of the README's first sweep."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest

PROJECT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_wheel_runs_the_first_sweep(tmp_path):
    """Dependencies come from this environment, because torch has gigabytes; mdssl of this environment is hidden."""
    # Built from a copy, because setuptools leaves a folder build/.
    copy = tmp_path / "project"
    shutil.copytree(PROJECT / "mdssl", copy / "mdssl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(wheel, check=True)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # Python ignores .pth files in a folder that is named by a .pth file, so an editable installation is not found.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    [file] = tmp_path.glob("mdssl-*.whl")
    run(str(python), "-m", "pip", "install", "--no-deps", str(file))
    assert str(packages) in run(str(python), "-c", "import mdssl; print(mdssl.__file__)")
    command = str(python.parent / "mdssl")
    short = ["--iterations", "2", "--batch-per-domain", "8", "--lambda1", "1", "--lambda2", "0.1"]
    run(command, "sweep", "lambda-grid", *short, "--evaluate", "builtin-digits")
    board = pd.read_parquet(tmp_path / "results" / "leaderboard")
    assert set(board["method"]) == {"random", "simclr", "mdssl"} and set(board["status"]) == {"finished"}
    assert "mdssl" in run(command, "leaderboard")
    run(command, "report", "--output", "report")
    assert (tmp_path / "report" / "index.html").exists()
