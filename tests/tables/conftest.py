"""A storage with trials of several methods."""

import pytest
from factories import UNTRAINED, failed
from small_board import SIMCLR, trial

from mdssl.leaderboard.board import write_rows


@pytest.fixture
def swept(storage):
    trial(storage, 1, (70, 60, 50, 40), lambda1=0.9, lambda2=0.1)
    trial(storage, 2, (61, 62, 63, 64), lambda1=0.9, lambda2=0.0)
    trial(storage, 3, (64, 56, 48, 40), lambda1=1.0, lambda2=0.0)
    trial(storage, 4, (66, 60, 44, 42), **SIMCLR)
    trial(storage, 5, (30, 20, 25, 35), **UNTRAINED)
    write_rows(storage, "0" * 11 + "6", [failed("ValueError: the loss is nan at step 3\nTraceback", lambda1=0.95)])
    return storage
