"""Means over evaluation datasets, of scores and of differences: over the same datasets for all that is compared.

All views take them from here. A difference is subtracted dataset by dataset and then averaged; it is rounded where it
is shown, once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean, the same float whatever the order; NaN where a value is NaN or there is none."""
    values = list(values)
    return math.fsum(values) / len(values) if values else float("nan")


def row_means(values: pd.DataFrame, counted: pd.DataFrame) -> pd.Series:
    """Of each row the `mean` of those ``values`` that are ``counted``, a DataFrame of booleans of the same shape."""
    pairs = zip(values.to_numpy(dtype=float), counted.to_numpy(dtype=bool), strict=True)
    return pd.Series([mean(row[chosen].tolist()) for row, chosen in pairs], index=values.index, dtype=float)


def common_datasets(scores: pd.DataFrame, *, untrained: np.ndarray, baseline: np.ndarray) -> list[str]:
    """The datasets that means are over: those on which most trained trials, and all baselines, have a score.

    So a score that few have takes nothing from the others; a trial that lacks one of these scores has no mean. An
    encoder without any score counts for nothing, and untrained ones count where no other is there.

    Args:
        scores: a row per trial and a column per dataset; NaN where there is no score.
        untrained, baseline: booleans by row: encoders that nothing was trained for, and what others are compared with.
    """
    has = scores.notna().to_numpy()
    has_some = has.any(axis=1)
    compared = has_some & ~untrained if (has_some & ~untrained).any() else has_some
    if not compared.any():
        return []
    chosen = (2 * has[compared].sum(axis=0) > compared.sum()) & has[has_some & baseline].all(axis=0)
    return list(scores.columns[chosen])


def left_out(datasets: Iterable[str], common: list[str], of: str = "") -> list[str]:
    """A note where means are not over all ``datasets``; ``of`` says which trials' means, if not all."""
    others = [name for name in datasets if name not in common]
    if not others:
        return []
    are = f"are over {', '.join(common)}" if common else "do not exist"
    return [f"averages{of} {are}; left out, as not enough trials have a score: {', '.join(others)}"]
