"""Choose λ1, λ2 and clustering of each method for a comparison of methods or of numbers of domains."""

from __future__ import annotations

import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.errors import InputError
from mdssl.figures.scores import CLUSTERING
from mdssl.tables.pareto import selection_score
from mdssl.tables.select import best_by_validation
from mdssl.tables.statistics import over_seeds

PAPERS_LAMBDAS = (0.9, 0.1)
"""λ1 and λ2 that section 3.5 of the paper chooses and table 3 uses."""


def chosen_lambdas(rows: pd.DataFrame, by: str = "method") -> tuple[float, float]:
    """Return the λ1 and λ2 that most values of ``by`` have, whatever their scores; of several, the paper's nearest."""
    pairs = rows.groupby(["lambda1", "lambda2"]).agg(kinds=(by, "nunique"), trials=("trial_id", "nunique"))
    nearness = [-sum(abs(own - paper) for own, paper in zip(pair, PAPERS_LAMBDAS, strict=True)) for pair in pairs.index]
    return pairs.assign(nearness=nearness).sort_values(["kinds", "nearness", "trials"], kind="stable").index[-1]


def best_lambdas(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the λ1 and λ2 with the best validation score, mean over seeds of those of `best_by_validation`.

    Raises:
        ValueError: no trial has a validation score on all datasets that most trials have.
    """
    ranked = best_by_validation(rows).dropna(subset="val")
    if ranked.empty:
        raise InputError(
            "no λ1 and λ2 are the best: no trial has a validation score on each dataset that most trials have; "
            "`mdssl probe` adds it."
        )
    means = over_seeds(ranked.merge(rows.drop_duplicates("trial_id"), on="trial_id"), ["lambda1", "lambda2"], "val")
    best = means.iloc[means["mean"].argmax()]
    return best["lambda1"], best["lambda2"]


def at_lambdas(rows: pd.DataFrame, lambdas: tuple[float, float]) -> pd.Series:
    """Which rows have these λ1 and λ2."""
    return (rows["lambda1"] == lambdas[0]) & (rows["lambda2"] == lambdas[1])


def one_of_each_method(rows: pd.DataFrame, mixture: str) -> tuple[pd.DataFrame, str]:
    """Select one λ1 and λ2 for a comparison of methods, and the most frequent clustering of each clustered method.

    If all scores have a validation score, λ1 and λ2 are the best of each method by that score. Otherwise they are the
    same for all methods, and not selected by score.

    Returns:
        The rows of ``mixture`` that remain, with those of other mixtures; and a sentence on the choice, which is empty
        without MDSSL.
    """
    weighs_domains = [name for name, method in METHODS.items() if method.weighs_domains]
    is_compared = (rows["train_mixture"] == mixture) & rows["method"].isin(weighs_domains)
    if not is_compared.any():
        return rows, ""
    compared, keep = rows[is_compared], ~is_compared
    by_score = selection_score(compared) == "val_top1"
    of_all = chosen_lambdas(compared)
    found: dict[str, str] = {}
    for method, group in compared.groupby("method"):
        lambdas = best_lambdas(group) if by_score else of_all
        group = group[at_lambdas(group, lambdas)]
        if group.empty:
            continue
        clustering = [name for name in CLUSTERING if name in group]
        if clustering:
            numbers = group.groupby(clustering, dropna=False, sort=False).ngroup()
            group = group[numbers == numbers.mode().iloc[0]]
        keep |= rows.index.isin(group.index)
        found[METHODS[str(method)].label] = f"λ1 = {lambdas[0]:g}, λ2 = {lambdas[1]:g}"
    if len(set(found.values())) == 1:
        found = {METHODS["mdssl"].label: next(iter(found.values()))}
    choice = "the best by validation score" if by_score else "not selected by score"
    return rows[keep], f" {'; '.join(f'{label} at {at}' for label, at in found.items())} ({choice})."
