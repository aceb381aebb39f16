import pytest
from factories import UNTRAINED, failed, row

from mdssl.leaderboard.board import write_rows

A, B, C = "a" * 12, "b" * 12, "c" * 12


@pytest.fixture
def filled(storage):
    write_rows(storage, A, [row("svhn"), row("stl10", seen=False)])
    write_rows(storage, B, [row("svhn", lambda1=1.0, seed=1), row("stl10", seen=False, lambda1=1.0, seed=1)])
    write_rows(storage, C, [row("svhn", **UNTRAINED)])
    write_rows(storage, "d" * 12, [failed()])
    return storage
