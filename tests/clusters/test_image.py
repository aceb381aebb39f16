"""The Dockerfile: the files that it copies and, if Docker is available, the image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
DOCKERFILE = (PROJECT / "Dockerfile").read_text()


def copied() -> set[str]:
    """The files and folders of the project that are copied into the image."""
    return {path for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()}


def test_the_build_context_holds_only_the_copied_files():
    ignored = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*" and ignored[-1] == "**/__pycache__"
    sent = {line.removeprefix("!") for line in ignored[1:-1]}
    assert copied() - {"mdssl/__init__.py"} == sent
    assert all((PROJECT / path).exists() for path in copied())


def test_the_image_copies_the_files_that_pyproject_names():
    project = (PROJECT / "pyproject.toml").read_text()
    named = re.findall(r'(?:readme|license-files) = \[?"(\w[\w.]+)"', project)
    assert {"README.md", "LICENSE"} == set(named) <= copied()


def test_the_base_image_has_the_tested_ray_version():
    pins = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().split() if "==" in line)
    assert f"ARG BASE=rayproject/ray:{pins['ray']}-py312-gpu\n" in DOCKERFILE
    job = yaml.safe_load((PROJECT / "clusters/kuberay.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_plans_a_sweep():
    docker = shutil.which("docker")
    if not docker:
        pytest.skip("there is no Docker")
    server = subprocess.run([docker, "info"], capture_output=True, text=True)
    if server.returncode:
        pytest.skip(f"Docker cannot be used: {server.stderr.strip().splitlines()[-1]}")
    build = [
        "build",
        "--build-arg",
        "BASE=python:3.12-slim",
        "--build-arg",
        "MDSSL_GIT_COMMIT=0cba2fd",
        "--tag",
        "mdssl:test",
    ]
    subprocess.run([docker, *build, str(PROJECT)], check=True)

    def run(*command: str) -> str:
        return subprocess.run(
            [docker, "run", "--rm", "mdssl:test", *command], check=True, capture_output=True, text=True
        ).stdout

    assert run("mdssl", "--version").startswith("mdssl ")
    assert run("printenv", "MDSSL_GIT_COMMIT") == "0cba2fd\n"
    assert run("id", "-u") == "1000\n"
    planned = run("python", "sweeps/lambda_grid.py", "--data", "/tmp/data", "--storage", "/tmp/results", "--dry-run")
    assert len(re.findall(r"^  [0-9a-f]{12}  ", planned, re.MULTILINE)) >= 6
