"""Helpers that write rows of the paper's models and print tables."""

import io

import pandas as pd
from factories import row
from rich.console import Console

from mdssl.leaderboard.board import write_rows

FOUR = "stl10+svhn+cifar100+cifar10"
"""Table 1's domains in an order that is not the paper's."""
SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}
MDSSL = {"method": "mdssl", "lambda1": 1.0, "lambda2": 0.1, "train_mixture": FOUR}


def write(storage: str, number: int, scores: dict[str, float], **changes) -> str:
    """Write a finished trial with these top-1 scores; returns its id."""
    trial_id = f"{number:012x}"
    write_rows(storage, trial_id, [row(name, top1=score, **changes) for name, score in scores.items()])
    return trial_id


def shown(function, table: pd.DataFrame) -> list[str]:
    out = io.StringIO()
    function(table, Console(file=out, width=80))
    return out.getvalue().splitlines()
