"""Fixtures for tests of claims: a trial, both kinds of storage, and short heartbeat intervals."""

import pytest

from mdssl.storage import claim as claims
from mdssl.storage.location import Location


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(claims, "DEAD_SECONDS", 1.0)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.05)


@pytest.fixture(params=["local", "objects"])
def kind(request):
    return request.param


@pytest.fixture
def trial_dir(tmp_path):
    return Location.of(tmp_path / "trials" / "0123456789ab")
