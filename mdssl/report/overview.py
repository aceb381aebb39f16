"""What the report's first page says before its table: what is there, what it cost, and how far it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import pandas as pd

from mdssl.data.builtin import BUILTIN
from mdssl.report.table import short_date
from mdssl.tables.compare import settings_apart


@dataclass(frozen=True)
class Best:
    """The best score on one dataset.

    Attributes:
        row: of the leaderboard.
        of: how many trials.
        chance: what guessing a class scores, percent.
        majority: what always naming the most frequent class scores, percent; NaN where no row says it.
        error: the binomial standard error of the score, points: what another draw of as many test images would change.
    """

    eval_dataset: str
    row: dict
    of: int
    chance: float
    majority: float
    error: float


def facts(rows: pd.DataFrame, unfinished: int) -> list[tuple[str, str]]:
    """What the storage holds, as terms with their descriptions.

    Args:
        rows: the leaderboard with all settings, not empty.
        unfinished: trials that have a folder and no row yet.
    """
    trials = rows.drop_duplicates("trial_id")
    status = rows.groupby("trial_id")["status"].agg(lambda of_trial: "failed" if "failed" in set(of_trial) else None)
    status = status.fillna(trials.set_index("trial_id")["status"])
    counted = [f"{count:,} {name}" for name, count in status.value_counts().items()]
    if unfinished:
        counted.append(f"{unfinished:,} without a row yet, which train, wait for their scores or were stopped")
    hours, gpu_hours = trials["train_seconds"].sum() / 3600, trials["gpu_hours"].sum()
    cost = f"{hours:.3g} h of training" + (f", {gpu_hours:.3g} GPU-hours" if gpu_hours else ", none of it on a GPU")
    mixtures = [name or "none (untrained encoders)" for name in _each(trials["train_mixture"])]
    commits = [name[:12] + ("-dirty" if name.endswith("-dirty") else "") for name in _each(trials["git_commit"])]
    versions = [f"{name} {_listed(_each(trials[f'{name}_version']))}" for name in ("mdssl", "torch", "ray")]
    return [
        ("Trials", f"{len(trials):,}: {', '.join(counted)}"),
        ("Scores", f"{(rows['status'] == 'finished').sum():,}, by {_listed(_each(rows['probe'])) or 'no'} probe"),
        ("Sweeps", _listed(_each(trials["sweep"])) or "none"),
        ("Trained on", _listed(mixtures)),
        ("Scored on", _listed(_each(rows["eval_dataset"])) or "nothing yet"),
        ("Seeds", _listed(str(seed) for seed in _each(trials["seed"]))),
        ("Cost", cost),
        ("Devices", _listed(_each(trials["device"])) or "none"),
        ("Dates", f"{short_date(rows['started_at'].min())} to {short_date(rows['finished_at'].max())} UTC"),
        ("Code", f"{_listed(versions)}; commit {_listed(commits) or 'unknown'}"),
    ]


def best_scores(rows: pd.DataFrame) -> list[Best]:
    """The best top-1 on each evaluation dataset, on encoder features, whatever the probe.

    Args:
        rows: the leaderboard with all settings, ``config_json`` among them.
    """
    scores = rows[(rows["status"] == "finished") & (rows["features"] == "encoder") & rows["top1"].notna()]
    found = []
    for name, of in scores.groupby("eval_dataset"):
        best = of.loc[of["top1"].idxmax()].to_dict()
        evaluation = json.loads(best["config_json"]).get("evaluation", {})
        majority = evaluation.get("majority_top1", float("nan"))
        chance, error = 100 / int(of["num_classes"].max()), binomial_error(best["top1"], int(best["num_test"]))
        found.append(Best(name, best, of["trial_id"].nunique(), chance, majority, error))
    return found


def binomial_error(top1: float, num_test: int) -> float:
    """The standard error of ``top1``, percent, on ``num_test`` independent test images, in points."""
    share = top1 / 100
    return 100 * sqrt(share * (1 - share) / num_test)


def notes(rows: pd.DataFrame) -> list[str]:
    """What a reader has to know so as not to read too much into the numbers; each a sentence or two."""
    trials = rows.drop_duplicates("trial_id")
    trained = trials[trials["train_mixture"] != ""]
    found = []
    seeds = trained.groupby(_all_but_the_seed(trained), dropna=False)["seed"].nunique()
    if len(seeds) and seeds.max() == 1:
        found.append("One seed: every setting was trained once, so how much another seed would change is not known.")
    elif (seeds == 1).any():
        found.append(
            f"{(seeds == 1).sum():,} of {len(seeds):,} settings were trained with one seed alone: how much another "
            "would change is not known of them."
        )
    if best := best_scores(rows):
        errors = [f"{one.error:.1f} on {one.eval_dataset} ({one.row['num_test']:,} test images)" for one in best]
        found.append(
            f"The standard error of the best scores by the number of test images alone, in points: {_listed(errors)}. "
            "Differences between trials of less than two or three of these may be noise."
        )
    if rows["eval_dataset"].notna().any():
        found.append(
            "The best scores are the best on the test split they are read from. The more trials, the more of such a "
            "lead is luck."
        )
    names = {name for mixture in trials["train_mixture"] for name in mixture.split("+")}
    builtin = sorted(name for name in names | set(rows["eval_dataset"].dropna()) if name in BUILTIN)
    if builtin:
        found.append(
            f"{_listed(builtin)}: images that this program makes up. They show that all works and say nothing about "
            "real images."
        )
    if (failed := rows.loc[rows["status"] == "failed", "trial_id"].nunique()) > 0:
        found.append(f"{failed:,} {'trial' if failed == 1 else 'trials'} failed, whole or in a score: see their pages.")
    commits = trials["git_commit"].dropna()
    if (dirty := commits.str.endswith("-dirty").sum()) > 0:
        found.append(f"{dirty:,} trials were made by code with changes that no commit holds.")
    if commits.nunique() > 1:
        found.append(f"The trials were made by {commits.nunique()} commits of the code.")
    images = trained.groupby("train_mixture")["data_fingerprint"].nunique()
    for mixture in images[images > 1].index:
        found.append(f"{mixture} stands for {images[mixture]} different sets of images: it was prepared anew between.")
    scores = rows[(rows["status"] == "finished") & (rows["features"] == "encoder")]
    for name in scores.groupby("eval_dataset")["eval_fingerprint"].nunique().loc[lambda count: count > 1].index:
        found.append(f"{name} was prepared anew between scores. The table has those on its latest images alone.")
    if scores["probe"].nunique() > 1:
        found.append("Scores by different probes do not compare; the table has a row for each.")
    by_sgd = scores["probe"].dropna().str.startswith("sgd-raw")
    if not by_sgd.all():
        have = "Not all scores are" if by_sgd.any() else "No score is"
        found.append(f"{have} by the sgd-raw probe, which is the paper's.")
    return found


def _all_but_the_seed(trained: pd.DataFrame) -> list[str]:
    """Settings in which trials differ, so that grouping by them leaves only seeds apart."""
    if trained.empty:
        return ["method"]
    return ["method", "train_mixture", *(set(settings_apart(trained)) - {"method", "train_mixture"})]


def _each(values: pd.Series) -> list:
    return list(dict.fromkeys(values.dropna().sort_values()))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) > 12:
        return f"{', '.join(names[:10])} and {len(names) - 10} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
