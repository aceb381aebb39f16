import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def storage(tmp_path, monkeypatch) -> str:
    # Hundreds of files that nobody needs after a power cut: on a busy disk waiting for it takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return str(tmp_path / "results")


@pytest.fixture(scope="session")
def sweep_results(tmp_path_factory) -> Path:
    """A storage with the leaderboard and the curves of a real sweep: see sweep/README.md. To be read, not written."""
    copy = tmp_path_factory.mktemp("sweep") / "results"
    shutil.copytree(Path(__file__).parent / "sweep", copy, ignore=shutil.ignore_patterns("README.md"))
    return copy
