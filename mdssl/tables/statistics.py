"""Means over seeds and datasets, with their spread: standard deviations, t-intervals, and p-values of differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
"""Confidence level of our intervals."""


def mean(values: Iterable[float]) -> float:
    """Return the arithmetic mean, equal for any order of ``values``; NaN if a value is NaN or there is none."""
    values = list(values)
    return math.fsum(values) / len(values) if values else float("nan")


def row_means(values: pd.DataFrame, counted: pd.DataFrame) -> pd.Series:
    """Return the `mean` of each row's ``values`` that are ``counted``, a DataFrame of booleans of the same shape."""
    pairs = zip(values.to_numpy(dtype=float), counted.to_numpy(dtype=bool), strict=True)
    return pd.Series([mean(row[chosen].tolist()) for row, chosen in pairs], index=values.index, dtype=float)


def over_seeds(rows: pd.DataFrame, by: Sequence[str], values: str = "top1") -> pd.DataFrame:
    """Compute statistics of ``values`` for each combination of ``by``, missing values left out.

    Returns:
        The columns ``by``; ``mean``; ``std``, the standard deviation (n - 1 in the denominator, null for one); ``sem``,
        the standard error of the mean; ``n``, the number of values; and ``half``, half the width of the t-interval of
        the mean at the level `CONFIDENCE`, null for one value.
    """
    groups = rows.groupby(list(by), dropna=False)[values]
    found = groups.agg(mean=lambda group: mean(group.dropna().tolist()), std="std", sem="sem", n="count")
    return found.assign(half=found["sem"] * _quantile(found["n"])).reset_index()


def _quantile(n: pd.Series | int) -> Any:
    """Return Student's quantile for the interval of a mean of ``n`` values."""
    # scipy.stats, which has it as well, takes seconds to import.
    from scipy.special import stdtrit

    return stdtrit(n - 1.0, (1 + CONFIDENCE) / 2)


def p_values(found: pd.DataFrame) -> pd.Series:
    """Return the p-value of each mean of `over_seeds` by the t-test against zero, corrected for the number of means.

    The correction is Holm's (1979, Scandinavian Journal of Statistics 6), which bounds the probability of any false
    rejection. Of differences to a baseline this is the paired t-test. Null for one value, and where all are zero.
    """
    from scipy.special import stdtr

    p = pd.Series(2 * stdtr(found["n"] - 1.0, -(found["mean"] / found["sem"]).abs()), index=found.index)
    ranked = p.dropna().sort_values()
    return (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1).reindex(p.index)


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Return the t-interval of the mean of ``values`` at the level `CONFIDENCE`; NaN for fewer than two."""
    known = pd.Series(list(values), dtype=float).dropna()
    center, half = mean(known.tolist()), known.sem() * _quantile(len(known))
    return center - half, center + half
