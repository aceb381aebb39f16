import os

import pytest


@pytest.fixture
def storage(tmp_path, monkeypatch) -> str:
    # Hundreds of files that nobody needs after a power cut: on a busy disk waiting for it takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return str(tmp_path / "results")
