"""Trials with given scores on four datasets, and the table of their sweep."""

import io

import pandas as pd
from factories import row
from rich.console import Console

from mdssl.leaderboard.board import read, write_rows
from mdssl.tables.sweep_table import print_sweep_table, sweep_table

DATASETS = ("cifar10", "svhn", "stl10", "eurosat")
SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}


def trial(storage: str, number: int, scores: tuple[float | None, ...], **changes) -> None:
    """Write a finished trial with these top-1 scores on `DATASETS`; None is a missing score."""
    pairs = zip(DATASETS, scores, strict=True)
    write_rows(
        storage, f"{number:012x}", [row(name, top1=score, **changes) for name, score in pairs if score is not None]
    )


def table(storage: str, **changes) -> pd.DataFrame:
    asked = {"mixtures": ["cifar10+svhn"], "datasets": DATASETS} | changes
    return sweep_table(read(storage), **asked)


def printed(df: pd.DataFrame, **console) -> str:
    out = io.StringIO()
    print_sweep_table(df, Console(file=out, width=80, **console))
    return out.getvalue()
