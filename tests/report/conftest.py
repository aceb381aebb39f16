"""A stand-in for the figures of reports, and a small storage."""

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from report_board import config, stand_in_for_figures, write_trial

from mdssl.leaderboard.columns import SCHEMA
from mdssl.paper.ledger import ledger
from mdssl.report import build


@pytest.fixture(scope="module")
def figures():
    """A stand-in for `mdssl.figures` and for the ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setitem(sys.modules, "mdssl.figures", module := stand_in_for_figures())
        # No leaderboard of these tests has a model of the paper, and computing the ledger each time is slow.
        nothing = ledger(pd.DataFrame(columns=SCHEMA.names))
        patch.setattr(build, "ledger", lambda rows: nothing)
        yield module


@pytest.fixture
def small(storage, tmp_path, figures) -> tuple[str, Path]:
    """A storage with two trials, and the folder of its report."""
    write_trial(storage, config(), {"cifar10": 50.0, "svhn": 40.0})
    write_trial(storage, config(method="simclr"), {"cifar10": 45.0, "svhn": 44.0})
    figures.drawn.clear()
    return storage, tmp_path / "report"
