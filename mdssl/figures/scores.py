"""Which rows of a leaderboard a figure shows, and their means over seeds: never over anything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from mdssl.config.trial import CLUSTER_SETTINGS, UNTRAINED
from mdssl.errors import InputError, check_name
from mdssl.leaderboard import board as leaderboard
from mdssl.tables.compare import settings_apart


def scored(board: pd.DataFrame, features: str = "encoder") -> pd.DataFrame:
    """The rows of ``board`` that have a score of ``features``, with all their settings as columns.

    Failed trials and failed probes have none.

    Raises:
        ValueError: there is no such row, or the scores are of several probes.
    """
    rows = board[(board["status"] == "finished") & board["top1"].notna()]
    if rows.empty:
        raise InputError("the leaderboard has no scores yet: run a sweep, or give another --storage.")
    check_name("feature layer", features, sorted(rows["features"].dropna().unique()))
    rows = rows[rows["features"] == features]
    probes = sorted(rows["probe"].dropna().unique())
    if len(probes) > 1:
        raise InputError(
            f"the scores are of several probes: {', '.join(probes)}. Keep one, board[board.probe == {probes[0]!r}]."
        )
    return leaderboard.with_settings(rows) if "config_json" in rows else rows


def trained(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of encoders that were trained here."""
    return rows[~rows["method"].isin(UNTRAINED)]


def one_mixture(rows: pd.DataFrame, mixture: str | None) -> str:
    """``mixture``, or the only one of several domains that ``rows`` have.

    Raises:
        ValueError: it is not among them, or none is named and there are several.
    """
    found = sorted({name for name in rows["train_mixture"].unique() if "+" in name})
    if mixture is None and len(found) == 1:
        return found[0]
    if mixture is None and found:
        raise InputError(f"the leaderboard has several training mixtures: {', '.join(found)}. Name one, mixture=….")
    check_name("training mixture", mixture, found)
    return mixture


def refuse_mixed(
    rows: pd.DataFrame, what: str, *, varies: Iterable[str] = (), by: Sequence[str] = (), also: Sequence[str] = ()
) -> None:
    """Raise ``ValueError`` if ``rows`` differ in a setting that ``what`` does not show.

    Args:
        rows: as `scored` gives them.
        what: the figure, for the message.
        varies: settings that it shows; the seed always may vary.
        by: columns that tell groups apart which may differ in settings.
        also: further columns in which rows must not differ.
    """
    if rows.empty:
        return
    mixed = settings_apart(rows, ["eval_dataset", *by], also=also)
    if "method" not in by:
        # Only clustered methods have these, so between methods they differ in any case.
        of_method = settings_apart(rows, ["eval_dataset", "method", *by])
        own = {*CLUSTER_SETTINGS, "recipe_version_clustering"}
        mixed = {name: found for name, found in mixed.items() if name not in own or name in of_method}
    for name, found in mixed.items():
        if name not in varies:
            raise InputError(
                f"{what} would mix rows that differ in {name}: {found}. Keep one of them, "
                f"board = leaderboard.with_settings(board); board = board[board.{name} == …]."
            )


def over_seeds(rows: pd.DataFrame, by: Sequence[str], values: str = "top1") -> pd.DataFrame:
    """A row per group: ``mean`` and ``std`` (n - 1 in the denominator, null for one) of ``values``, and ``n`` seeds."""
    groups = rows.groupby(list(by), dropna=False)[values]
    return groups.agg(mean="mean", std="std", n="count").reset_index()


def seeds_said(counts: Iterable[int]) -> str:
    """In words, of how many seeds the means of a figure are, and what shows their spread."""
    counts = sorted(set(int(count) for count in counts))
    if counts in ([], [1]):
        return "One seed, so no spread is known."
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Means over {span} seeds ± one standard deviation."


def in_order(names: Iterable[str], mixture: str) -> list[str]:
    """Evaluation datasets with those of the training mixture first, in its order, then the unseen ones by name."""
    names = set(names)
    own = [name for name in mixture.split("+") if name in names]
    return own + sorted(names - set(own))
