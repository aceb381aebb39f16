"""A storage with trials in several states."""

import pytest
from control_parts import A, B, C, add
from factories import failed, row, stopped


@pytest.fixture
def board(storage):
    """A finished, a stopped and a failed trial."""
    add(storage, A, [row("svhn", lambda2=0.1), row("cifar10", lambda2=0.1)])
    add(storage, B, [stopped("svhn", lambda2=0.2, sweep="other")], "stopped")
    add(storage, C, [failed(lambda2=0.3)], "failed")
    return storage
