"""The answer of a report: the best setting of each training mixture, and what it gains over its baselines.

Settings are chosen by validation scores, and compared by test scores, so the choice does not flatter the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.tables.baseline import find_baselines
from mdssl.tables.compare import latest_images, paired, settings_of, settings_to_show
from mdssl.tables.select import best_by_validation, shown
from mdssl.tables.statistics import interval, mean, over_seeds, row_means

BASELINE, FLOOR = "simclr", "random"
"""The method that settings are compared with, and that of the untrained encoder."""


class Difference(NamedTuple):
    """The mean difference of a setting to a baseline, over pairs of trials with the same seed, in points.

    Attributes:
        mean: over seeds, of means over datasets.
        low, high: the 95 % t-interval of ``mean``; NaN for one pair.
        pairs: the number of seeds.
        by_dataset: the mean difference on each dataset.
    """

    mean: float
    low: float
    high: float
    pairs: int
    by_dataset: dict[str, float]

    @property
    def verdict(self) -> str:
        """``above`` or ``below`` where the interval excludes zero, otherwise ``not told apart from``.

        One pair has no interval: there it is the sign of the difference.
        """
        low, high = (self.low, self.high) if self.pairs > 1 else (self.mean, self.mean)
        return "above" if low > 0 else "below" if high < 0 else "not told apart from"


class Answer(NamedTuple):
    """The best setting of a training mixture, by one probe.

    Attributes:
        label: its method and the settings in which trials of the mixture differ.
        trial_ids: its trials with a validation score, by seed.
        val: mean validation score over seeds, in percent.
        settings: the number of settings that were compared.
        seeds: the fewest and the most seeds of a compared setting.
        second: the label and mean validation score of the second best, or None.
        scores: mean top-1 on the test split over seeds, by dataset.
        baseline_val: the highest validation score of a baseline; NaN without one.
        baseline, untrained: what it gains over the baseline and over the untrained encoder of the same settings and
            seeds; None if there is no pair.
        is_baseline: whether only the baseline was trained on the mixture.
    """

    train_mixture: str
    probe: str
    label: str
    trial_ids: list[str]
    val: float
    settings: int
    seeds: tuple[int, int]
    second: tuple[str, float] | None
    scores: dict[str, float]
    baseline_val: float
    baseline: Difference | None
    untrained: Difference | None
    is_baseline: bool


def answers(rows: pd.DataFrame, table: pd.DataFrame) -> list[Answer]:
    """Return the answer for each training mixture and probe with validation scores, the one with most trials first.

    The best setting has the highest validation score, mean over its seeds; of equal ones that with more seeds.

    Args:
        rows: the leaderboard with all settings (`mdssl.leaderboard.board.with_settings`).
        table: the numbers of the table of trials (`mdssl.report.overview.TrialTable.frame`), whose differences these
            are.
    """
    of_encoder = rows[(rows["features"] == "encoder") & rows["probe"].notna()]
    trained = of_encoder[of_encoder["train_mixture"] != ""]
    counts = trained.groupby(["train_mixture", "probe"])["trial_id"].nunique().sort_values(ascending=False)
    table = table[table["features"] == "encoder"]
    found = []
    for mixture, probe in counts.index:
        of_probe = latest_images(of_encoder[of_encoder["probe"] == probe])
        one = _answer(of_probe, table[table["probe"] == probe], str(mixture), str(probe))
        found += [one] if one else []
    return found


def _answer(rows: pd.DataFrame, table: pd.DataFrame, mixture: str, probe: str) -> Answer | None:
    own = rows[rows["train_mixture"] == mixture]
    trials = own.drop_duplicates("trial_id").set_index("trial_id")
    names = [name for name in settings_of(own) if name != "seed"]
    number = trials.groupby(names, dropna=False, sort=False).ngroup()
    val = best_by_validation(own).set_index("trial_id")["val"].reindex(trials.index).astype(float)
    means = over_seeds(pd.DataFrame({"setting": number, "val": val}), ["setting"], "val").dropna(subset="mean")
    if means.empty:
        return None
    of_baseline = means["setting"].isin(number[trials["method"] == BASELINE])
    compared = means if of_baseline.all() else means[~of_baseline]
    compared = compared.sort_values(["mean", "n"], ascending=False, kind="stable")
    best, differing = compared.iloc[0], settings_to_show(own)
    others = [
        (_label(trials[number == other["setting"]].iloc[0], differing), float(other["mean"]))
        for _, other in compared[1:2].iterrows()
    ]
    chosen = trials[(number == best["setting"]) & val.notna()].sort_values("seed")
    scores = own[own["trial_id"].isin(chosen.index) & (own["status"] == "finished")]
    versus = table[f"vs {BASELINE}"].reindex(chosen.index)
    return Answer(
        train_mixture=mixture,
        probe=probe,
        label=_label(chosen.iloc[0], differing),
        trial_ids=list(chosen.index),
        val=float(best["mean"]),
        settings=len(compared),
        seeds=(int(compared["n"].min()), int(compared["n"].max())),
        second=others[0] if others else None,
        scores={str(name): mean(group) for name, group in scores.groupby("eval_dataset")["top1"]},
        baseline_val=float(means.loc[of_baseline, "mean"].max()),
        baseline=None if of_baseline.all() else _difference(scores, rows, BASELINE, versus),
        untrained=_difference(scores, rows, FLOOR),
        is_baseline=bool(of_baseline.all()),
    )


def _difference(
    scores: pd.DataFrame, board: pd.DataFrame, method: str, of_trial: pd.Series | None = None
) -> Difference | None:
    """Return the difference of ``scores``, those of one setting, to ``method``.

    Args:
        of_trial: means over datasets by trial, where the table has them; otherwise over the datasets of all pairs.
    """
    differences = paired(scores, board, find_baselines(scores, board, (method,), strict=False))["top1"]
    each = scores[["trial_id", "eval_dataset"]].assign(difference=differences).dropna()
    by_trial = each.pivot(index="trial_id", columns="eval_dataset", values="difference")
    if of_trial is None:
        common = by_trial.dropna(axis=1)
        of_trial = row_means(common, common.notna())
    values = of_trial.dropna().tolist()
    if not values:
        return None
    low, high = interval(values)
    by_dataset = {str(name): mean(own.dropna()) for name, own in by_trial.items()}
    return Difference(mean(values), low, high, len(values), by_dataset)


def _label(trial: pd.Series, settings: Iterable[str]) -> str:
    method = METHODS.get(trial["method"])
    words = [method.label if method else str(trial["method"])]
    if pd.notna(trial["lambda1"]) and (method is None or method.weighs_domains):
        words += [f"λ1 = {trial['lambda1']:g}", f"λ2 = {trial['lambda2']:g}"]
    words += [
        f"{name.replace('_', ' ')} {shown(trial[name])}"
        for name in settings
        if name not in ("seed", "data_fingerprint") and pd.notna(trial[name])
    ]
    return ", ".join(words)
