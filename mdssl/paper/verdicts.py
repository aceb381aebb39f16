"""Verdicts on published numbers: equivalence within a margin, by an interval over seeds."""

from __future__ import annotations

import pandas as pd

from mdssl.paper.published import NO_COMMON_SEED, Row
from mdssl.tables.statistics import CONFIDENCE, interval

VERDICTS = {
    "agrees": "ours, made with the paper's settings, are equivalent to the published number",
    "differs": "ours, made with the paper's settings, are not equivalent to the published number",
    "cannot be told": "ours were made with the paper's settings, but have too few seeds or too large a spread",
    "different settings": "ours were trained or scored with other settings than the paper's, on other data, or with "
    "settings that differ between the scores of a mean or lead: a difference is not evidence",
    "implausible": "the published number cannot be the stated quantity, so ours cannot agree or differ",
    "not run": "this was not trained or scored yet",
}
"""Meanings by verdict, in the order of display."""

COMPARABLE = ("agrees", "differs", "cannot be told")
"""Verdicts from trials with the paper's settings; other verdicts are no evidence about the claim."""

MARGIN = 2.0
"""Points of top-1 within which ours and a published number are equivalent."""

RULE = (
    f"Agreement is equivalence. Ours agree where the {CONFIDENCE:.0%} t-interval of our mean over seeds lies within "
    f"{MARGIN:g} points of the published top-1, and differ where it lies wholly outside of them. Otherwise, and "
    "with one seed, which has no interval, agreement cannot be told: a larger spread of ours makes agreement harder. A "
    "mean over datasets, and its interval, is over the seeds that have all of its scores. A lead is paired by seed: it "
    "agrees where its interval lies on the published side of zero, and differs where it lies on the other. A cost, "
    "which has no interval, agrees within a tenth of the published."
)


def judged(line: Row, deviations: list[str], *, implausible: str) -> Row:
    """``line``, a claim of the ledger with our scores ``by_seed``, and its interval, verdict and why.

    Args:
        deviations: descriptions of our settings that differ from the paper's.
        implausible: why the published number is implausible; empty if it is plausible.
    """
    low, high = interval(line["by_seed"].values())
    if implausible:
        verdict, why = "implausible", implausible
    elif pd.isna(line["ours"]) and line["why"] != NO_COMMON_SEED:
        verdict, why = "not run", line["why"]
    elif deviations:
        verdict, why = "different settings", "; ".join(deviations)
    elif line["kind"] == "cost":
        verdict, why = ("agrees" if abs(line["difference"]) <= line["margin"] else "differs"), line["why"]
    elif pd.isna(low):
        verdict, why = "cannot be told", line["why"] or "one seed has no interval"
    else:
        verdict = _by_sign(line, low, high) if line["kind"] == "lead" else _by_margin(line, low, high)
        why = line["why"]
    return line | {"low": low, "high": high, "verdict": verdict, "why": why}


def _by_margin(line: Row, low: float, high: float) -> str:
    bottom, top = line["published"] - line["margin"], line["published"] + line["margin"]
    if bottom <= low and high <= top:
        return "agrees"
    return "differs" if high < bottom or top < low else "cannot be told"


def _by_sign(line: Row, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "cannot be told"
    return "agrees" if (low > 0) == (line["published"] > 0) else "differs"
