"""What of a leaderboard belongs into one figure: trials that were trained and scored in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdssl.config.trial import CLUSTER_SETTINGS, UNTRAINED
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.columns import SCHEMA, SETTING_COLUMNS

PAPERS_LAMBDAS = (0.9, 0.1)
"""λ1 and λ2 that the paper's section 3.5 settles on, and that table 3 has."""

_SHOWN_BY_FIGURES = {
    *("method", "train_mixture", "num_domains", "lambda1", "lambda2", "seed", "preset", "data_fingerprint"),
    *("eval_fingerprint", "recipe_version_clustering", *CLUSTER_SETTINGS),
}
_CLUSTERING = ("recipe_version_clustering", *CLUSTER_SETTINGS)


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    rows: of the leaderboard with all settings: of these trials, scored by one probe on one version of each dataset,
        and of the untrained encoders of the same architecture.
    trials: how many were trained.
    said: in words, how.
    unscored: the rows of trials with the same settings that have no score: they failed, or their probe did.
    """

    rows: pd.DataFrame
    trials: int
    said: str
    unscored: pd.DataFrame


def recipes(board: pd.DataFrame, features: str = "encoder") -> list[Recipe]:
    """The groups of ``board``'s finished trials that differ in nothing but what figures show: method, mixture, λ, seed
    and clustering. The one with most trials first."""
    rows = board[(board["status"] == "finished") & (board["features"] == features) & board["top1"].notna()]
    if rows.empty:
        return []
    rows = leaderboard.with_settings(rows) if "config_json" in rows else rows
    settings = _hidden_settings(rows)
    without = unscored(board)
    untrained = rows["method"].isin(UNTRAINED)
    of_trained = rows[~untrained]
    groups = (
        [group for _, group in of_trained.groupby(settings, dropna=False, sort=False)] if settings else [of_trained]
    )
    groups = sorted((group for group in groups if len(group)), key=lambda group: -group["trial_id"].nunique())
    differing = [name for name in settings if of_trained[name].nunique(dropna=False) > 1]
    found = []
    for group in groups:
        first = group.iloc[0]
        same = [name for name in ("arch", "stem", "norm") if name in rows]
        floor = rows[untrained & (rows[same] == first[same]).all(axis=1)]
        group = pd.concat([group, floor])
        probes = group["probe"].value_counts()
        group = _on_latest_images(group[group["probe"] == probes.index[0]])
        trials = group.loc[~group["method"].isin(UNTRAINED), "trial_id"].nunique()
        found.append(Recipe(group, trials, _said(first, differing, probes), unscored_like(without, first)))
    return found


def unscored(board: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``board`` without a score, with all their settings."""
    rows = board[(board["status"] != "finished") | board["top1"].isna()]
    return leaderboard.with_settings(rows) if len(rows) and "config_json" in rows else rows


def unscored_like(rows: pd.DataFrame, trial: pd.Series) -> pd.DataFrame:
    """Those of ``rows`` that differ from ``trial`` in nothing but what figures show."""
    for name in _hidden_settings(rows):
        if name in trial:
            rows = rows[rows[name].isna() if pd.isna(trial[name]) else rows[name] == trial[name]]
    return rows


def _hidden_settings(rows: pd.DataFrame) -> list[str]:
    """The columns of ``rows`` that are settings which no figure shows."""
    settings = [column.name for column in SETTING_COLUMNS] + [name for name in rows if name not in SCHEMA.names]
    return [name for name in settings if name in rows and name not in _SHOWN_BY_FIGURES]


def of_one_device(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials that ran on the most frequent device with the most frequent number of workers."""
    for name in ("device", "num_workers"):
        rows = rows[rows[name].isna() | (rows[name] == rows[name].mode().iloc[0])] if rows[name].notna().any() else rows
    return rows


def mixtures(rows: pd.DataFrame) -> list[str]:
    """Training mixtures of several domains, the one with most trials first."""
    several = rows[rows["train_mixture"].str.contains("+", regex=False)]
    counts = several.groupby("train_mixture")["trial_id"].nunique()
    return list(counts.sort_values(ascending=False, kind="stable").index)


def chosen_lambdas(rows: pd.DataFrame, by: str = "method") -> tuple[float, float]:
    """The λ1 and λ2 that most of ``by`` have, among equals those nearest the paper's: chosen by no score."""
    pairs = rows.groupby(["lambda1", "lambda2"]).agg(kinds=(by, "nunique"), trials=("trial_id", "nunique"))
    distance = [
        sum(abs(own - papers) for own, papers in zip(pair, PAPERS_LAMBDAS, strict=True)) for pair in pairs.index
    ]
    order = pairs.assign(nearness=np.negative(distance)).sort_values(["kinds", "nearness", "trials"], kind="stable")
    return order.index[-1]


def at_lambdas(rows: pd.DataFrame, lambdas: tuple[float, float]) -> pd.Series:
    """Which rows have these λ1 and λ2."""
    return (rows["lambda1"] == lambdas[0]) & (rows["lambda2"] == lambdas[1])


def one_of_each_method(rows: pd.DataFrame, mixture: str) -> tuple[pd.DataFrame, tuple[float, float] | None]:
    """For a comparison of methods: at one λ1 and λ2, and of clustered methods at the most frequent clustering.

    Returns:
        The rows of ``mixture`` that stay with those of other mixtures, and λ1 and λ2; None where there is no MDSSL.
    """
    own = rows["train_mixture"] == mixture
    of_mdssl = rows[own & rows["method"].str.startswith("mdssl")]
    if of_mdssl.empty:
        return rows, None
    lambdas = chosen_lambdas(of_mdssl)
    keep = ~own | ~rows["method"].str.startswith("mdssl")
    for _, group in of_mdssl[at_lambdas(of_mdssl, lambdas)].groupby("method"):
        clustering = [name for name in _CLUSTERING if name in group]
        if clustering:
            numbers = group.groupby(clustering, dropna=False, sort=False).ngroup()
            group = group[numbers == numbers.mode().iloc[0]]
        keep |= rows.index.isin(group.index)
    return rows[keep], lambdas


def _on_latest_images(rows: pd.DataFrame) -> pd.DataFrame:
    """Where a dataset was prepared anew between two scores, only those on its latest images; of a mixture likewise."""
    rows = rows.sort_values("finished_at") if "finished_at" in rows else rows
    for name, of in (("eval_fingerprint", "eval_dataset"), ("data_fingerprint", "train_mixture")):
        if name in rows:
            latest = rows.groupby(of)[name].transform("last")
            rows = rows[rows[name].isna() | (rows[name] == latest)]
    return rows.sort_index()


def _said(trial: pd.Series, differing: list[str], probes: pd.Series) -> str:
    stem = f" ({trial['stem']} stem)" if pd.notna(trial.get("stem")) else ""
    parts = [f"{trial['arch']}{stem}"] if pd.notna(trial.get("arch")) else []
    if pd.notna(trial.get("iterations")):
        of = f" of {trial['batch_per_domain']} images a domain" if pd.notna(trial.get("batch_per_domain")) else ""
        parts.append(f"{trial['iterations']:,} steps{of}")
    said = {"arch", "stem", "iterations", "batch_per_domain", "probe", "features"}
    parts += [f"{name} {trial[name]}" for name in differing if name not in said]
    others = f" (the most frequent of {len(probes)})" if len(probes) > 1 else ""
    return ", ".join([*parts, f"{probes.index[0]} probe{others} of encoder features"])
