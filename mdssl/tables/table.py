"""The comparison table: a row per trial, its scores, and how far it is from the baseline that it is paired with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from mdssl.config.run import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.sources.catalog import seen_in
from mdssl.errors import check_name
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.names import matching_names, plain_name
from mdssl.leaderboard.opening import results_in
from mdssl.storage.location import Location
from mdssl.tables.averages import common_datasets, left_out, row_means
from mdssl.tables.drawing import TextColumn, side_by_side
from mdssl.terminal import Terminal

METHOD_ORDER = ("random", "pretrained", "simclr", "mdssl", "mdssl-clustered", "mdssl-robust")
"""From the floor upwards; methods not named here come last."""

_HEADERS = {"train_mixture": "mixture", "lambda1": "λ1", "lambda2": "λ2"}
_NAMED_ANYWAY = {"method", "train_mixture", "num_domains", "lambda1", "lambda2", "preset"}
_SETTINGS = {column.name for column in leaderboard.SETTING_COLUMNS} | {field.name for field in fields(TrialConfig)}
_SETTINGS |= {"recipe_version", "recipe_version_clustering"}
_SCORE = ["trial_id", "eval_dataset", "eval_fingerprint", "top1", "finished_at"]
_UNSTABLE_NAMED = 3
"""Scores that the note on unstable ones names."""
_USED = {*_SETTINGS, *_SCORE, "status", "error", "features", "probe", "config_json"}


def sweep_table(
    rows: pd.DataFrame,
    *,
    mixtures: Sequence[str],
    datasets: Sequence[str],
    baseline_method: str = "simclr",
    features: str = "encoder",
    probe: str = ProbeConfig.probe,
) -> pd.DataFrame:
    """Compare the trials of one training mixture, or of several, and the encoders that were not trained at all.

    Args:
        rows: of the leaderboard, as `mdssl.leaderboard.board.read` gives them, or with all their settings
            (`with_settings`) instead of ``config_json``; those of other mixtures are left out.
        mixtures: as the leaderboard writes them.
        datasets: evaluation datasets, in the order of the columns.
        baseline_method: the method that the others are compared with.
        features, probe: which of a trial's scores are shown, by the leaderboard's columns of these names.

    Returns:
        A row per trial, indexed by ``trial_id``: the floor first, then by mixture in the order given, the baseline,
        then by lambda1 from high to low and lambda2 from low to high. Columns: ``method``, ``train_mixture`` where
        there are several, ``lambda1``, ``lambda2``, every other setting in which the trained trials differ (such as
        ``temperature``, ``seed`` or ``weight_decay``), top-1 in percent by dataset (where a dataset was prepared anew
        between two scores, only those on its latest images), and

        - ``seen``, ``unseen``: means over the datasets that the trial's mixture holds, and over the others, as far as
          the trials of the mixture have them in common (see `mdssl.tables.averages.common_datasets`); null where the
          trial itself lacks one. With one mixture an untrained encoder's are over the same datasets;
        - ``vs simclr``: the mean over both kinds of datasets of the trial's score less that of its baseline, in points.
          Its baseline is the finished trial of ``baseline_method`` with the same mixture, seed and other settings
          shown; a setting that one of the two does not have is not compared. For an untrained encoder only the seed has
          to be the same, and several such baselines are averaged;
        - ``status``, and ``error``: the first line of what a failed trial, or a score of it, failed with.

        ``attrs["notes"]`` says which datasets the means leave out, and which scores rounding has decided.
    """
    rows = rows[[name for name in rows if name in _USED]][rows["train_mixture"].isin([*mixtures, ""])]
    unstable = _unstable(rows[(rows["features"] == features) & (rows["probe"] == probe)])
    rows = leaderboard.with_settings(rows) if "config_json" in rows else rows
    shown = rows.loc[(rows["features"] == features) & (rows["probe"] == probe), _SCORE].sort_values("finished_at")
    latest = shown.groupby("eval_dataset")["eval_fingerprint"].transform("last")
    shown = shown[shown["eval_fingerprint"] == latest]
    trials = rows.drop_duplicates("trial_id").set_index("trial_id")
    scores = shown.pivot(index="trial_id", columns="eval_dataset", values="top1")
    scores = scores.reindex(index=trials.index, columns=list(datasets)).astype(float)
    trained = trials[trials["train_mixture"] != ""]
    optional = [name for name in rows if name in _SETTINGS - _NAMED_ANYWAY]
    differing = [name for name in optional if trained[name].nunique() > 1]
    if "data_fingerprint" in differing and (trained.groupby("train_mixture")["data_fingerprint"].nunique() == 1).all():
        # Other domains, and so other images: the mixture says that already.
        differing.remove("data_fingerprint")
    if "weights" in trials and trials["weights"].notna().any():
        # The name of the file: nothing else tells pretrained encoders apart.
        trials["weights"] = trials["weights"].map(lambda file: Location.of(file).name, na_action="ignore")
        differing.append("weights")
    failures = rows[rows["status"] == "failed"].drop_duplicates("trial_id").set_index("trial_id")["error"]

    mixture = ["train_mixture"] if len(mixtures) > 1 else []
    table = pd.concat([trials[["method", *mixture, "lambda1", "lambda2", *differing]], scores], axis=1)
    trained_on = list(trials["train_mixture"]) if mixture else [mixtures[0] if mixtures else ""] * len(trials)
    seen_by = {mixture: seen_in(plain_name(mixture).split("+")) for mixture in set(trained_on)}
    seen = pd.DataFrame({name: [plain_name(name) in seen_by[mixture] for mixture in trained_on] for name in datasets})
    seen.index = trials.index
    counted, notes = _counted(scores, trials["train_mixture"], (trials["method"] == baseline_method).to_numpy(bool))
    table["seen"] = row_means(scores, seen & counted)
    table["unseen"] = row_means(scores, ~seen & counted)
    table[f"vs {baseline_method}"] = _versus(baseline_method, trials, scores, counted, differing)
    table["status"] = trials["status"].mask(trials.index.isin(failures.index), "failed")
    table["error"] = failures.map(_first_line, na_action="ignore").reindex(trials.index)
    table = table.loc[_order(trials, mixtures, differing)]
    table.attrs["notes"] = notes + unstable
    return table


def print_table(df: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `sweep_table`: numbers with one decimal, the best of each column bold, notes and failures below.

    Columns of averages that hold nothing, and the status where all trials finished, are not shown. A table that is
    wider than the console is printed in parts that repeat the settings, for a number cut short is a wrong number.
    """
    console = console or Terminal()
    if df.empty:
        console.print("no trials to show")
        return
    settings = [name for name in df.columns if name in _SETTINGS]
    scores = [name for name in df.columns if name not in (*settings, "status", "error")]
    averages = scores[scores.index("seen") :]
    scores = [name for name in scores if name not in averages or df[name].notna().any()]
    status = [] if (df["status"] == "finished").all() else ["status"]

    for number, part in enumerate(side_by_side(_drawn(df, settings, scores, status), len(settings), console.width)):
        if number:
            console.print()
        console.print(part, crop=False)
    for note in df.attrs.get("notes", ()):
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for row in df[df["error"].notna()].to_dict("records"):
        asked = [f"{_HEADERS.get(name, name)}={_setting(row[name])}" for name in settings[1:] if pd.notna(row[name])]
        console.print(Text(f"failed: {' '.join([row['method'], *asked])}: {row['error']}"), soft_wrap=True)


def print_leaderboard(
    storage: str | Location,
    *,
    method: Sequence[str] = (),
    train_mixture: Sequence[str] = (),
    evaluate: Sequence[str] = (),
    probe: str | None = None,
    features: str = "encoder",
    console: Console | None = None,
) -> None:
    """Print all of a leaderboard: a `sweep_table` for each training mixture and probe.

    Args:
        storage: where results live.
        method, train_mixture, evaluate: only these; all where empty. Untrained encoders stand in every mixture's
            table.
        probe: only this one; all that have been run where None.
        features: the layer whose scores are shown.

    Raises:
        ValueError: there is no such storage; a method, mixture, dataset, probe or layer that the leaderboard does not
            hold; a file that is not one of its own.
    """
    console = console or Terminal()
    rows = leaderboard.read(results_in(storage))
    if rows.empty:
        console.print(
            f"the leaderboard in {storage} is empty: run a sweep, or give another --storage",
            markup=False,
            soft_wrap=True,
        )
        return
    # Once for all tables, which then need not carry the texts along: of 60,000 rows they are 60 MB.
    rows = leaderboard.with_settings(rows).drop(columns="config_json")
    wanted = {
        "method": method,
        "train_mixture": train_mixture,
        "eval_dataset": evaluate,
        "probe": [probe] if probe else (),
        # Where nothing has been scored, there is no layer to name, and failures are still worth printing.
        "features": [features] if rows["features"].notna().any() else (),
    }
    for name, values in wanted.items():
        found = set(rows[name].dropna().unique()) - {""}
        for value in values:
            check_name(name, value, sorted(found | {plain_name(text) for text in found}))
    mixtures = sorted(set(rows["train_mixture"].unique()) - {""}) or [""]
    mixtures = matching_names(train_mixture, mixtures) if train_mixture else mixtures
    scores = rows.loc[rows["features"] == features, ["train_mixture", "eval_dataset", "probe"]].drop_duplicates()
    for mixture in mixtures:
        scored = scores[scores["train_mixture"].isin([mixture, ""])]
        for name in [probe] if probe else sorted(set(scored["probe"])) or [ProbeConfig.probe]:
            found = set(scored.loc[scored["probe"] == name, "eval_dataset"])
            seen = [part for part in mixture.split("+") if part in found]
            datasets = seen + sorted(found - set(seen))
            if evaluate:
                datasets = [one for asked in evaluate for one in matching_names([asked], datasets) or [asked]]
            table = sweep_table(rows, mixtures=[mixture], datasets=datasets, features=features, probe=name)
            # Left out only now: the differences are to the baseline, shown or not.
            if method:
                table = table[table["method"].isin(method)]
            if not table.empty:
                shown = f"top-1 in percent on the test split, {name} probe on {features} features"
                console.print(f"\n{mixture or 'untrained'}: {shown}", markup=False, soft_wrap=True)
                print_table(table, console)


def _drawn(df: pd.DataFrame, settings: list[str], scores: list[str], status: list[str]) -> list[TextColumn]:
    columns = []
    for name in (*settings, *scores, *status):
        # Broken where a name has a joint, so that the numbers of many datasets stand side by side in 80 columns.
        header = _HEADERS.get(name, name).replace("-", "-\n").replace("_", "_\n").replace(" ", "\n")
        if name in settings:
            numbers, different = pd.factorize(df[name], use_na_sentinel=False)
            texts = [_setting(value).replace("+", "+\n") for value in different]
            cells = [texts[number] for number in numbers]
            columns.append(TextColumn(header, cells, right=name not in ("method", "train_mixture")))
        elif name in scores:
            shown = df[name].round(1)
            best = frozenset(np.flatnonzero(shown == shown.max()).tolist())
            columns.append(TextColumn(header, _scores(name, df[name]), bold=best))
        else:
            columns.append(TextColumn(header, list(df[name]), right=False))
    return columns


def _counted(scores: pd.DataFrame, mixtures: pd.Series, baseline: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    """Which scores means are over: those that the trials of one mixture have in common; and notes on the others.

    An untrained encoder's are what the trials of all mixtures have in common.
    """
    untrained = (mixtures == "").to_numpy(dtype=bool)
    counted = pd.DataFrame(False, index=scores.index, columns=scores.columns)
    of_all, notes = common_datasets(scores, untrained=untrained, baseline=baseline), []
    trained_on = list(mixtures[~untrained].unique())
    for mixture in trained_on:
        own = (mixtures == mixture).to_numpy(dtype=bool)
        common = common_datasets(scores[own], untrained=untrained[own], baseline=baseline[own])
        counted.loc[own, common] = True
        if scores[own].notna().any(axis=None):
            notes += left_out(scores, common, f" of {mixture}" if len(trained_on) > 1 else "")
    counted.loc[untrained, of_all] = True
    return counted, notes


def _unstable(rows: pd.DataFrame) -> list[str]:
    """A note on scores that another order of summation changes: see `mdssl.evaluate.sgd.raw_sgd_probes`."""
    if "config_json" not in rows:
        return []
    said = rows["config_json"].map(json.loads).map(lambda made: made.get("evaluation", {}))
    rows = rows[said.map(lambda evaluation: bool(evaluation.get("unstable")))]
    if rows.empty:
        return []
    where = ", ".join(f"{row.trial_id} on {row.eval_dataset}" for row in rows.head(_UNSTABLE_NAMED).itertuples())
    more = f" and {len(rows) - _UNSTABLE_NAMED} more" if len(rows) > _UNSTABLE_NAMED else ""
    return [
        f"unstable: another order of summation gives other scores of {rows['probe'].iloc[0]} for {where}{more}; "
        "--probe sgd has no such scores"
    ]


def _versus(
    method: str, trials: pd.DataFrame, scores: pd.DataFrame, counted: pd.DataFrame, differing: list[str]
) -> pd.Series:
    is_baseline = ((trials["method"] == method) & scores.notna().any(axis=1)).to_numpy(dtype=bool)
    untrained = (trials["train_mixture"] == "").to_numpy(dtype=bool)
    of_baselines = scores.to_numpy()[is_baseline]
    baseline = np.full(scores.shape, np.nan)
    nothing = np.full(scores.shape[1], np.nan)
    for rows, names in ((untrained, ["seed"]), (~untrained, ["train_mixture", *differing])):
        # Each value by a number of its own, -1 for none: what one of the two does not have is not compared.
        settings = np.stack([pd.factorize(trials[name])[0] for name in names], axis=1)
        different, which = np.unique(settings[rows], axis=0, return_inverse=True)
        theirs = settings[is_baseline]
        same = [((theirs == own) | (theirs < 0) | (own < 0)).all(axis=1) for own in different]
        means = [of_baselines[chosen].mean(axis=0) if chosen.any() else nothing for chosen in same]
        baseline[rows] = np.array(means, dtype=float).reshape(len(different), scores.shape[1])[which]
    return row_means(scores - baseline, counted)


def _order(trials: pd.DataFrame, mixtures: Sequence[str], differing: list[str]) -> pd.Index:
    rank = {method: place for place, method in enumerate(METHOD_ORDER)}
    place = {mixture: number for number, mixture in enumerate(["", *mixtures])}
    keys = trials[["lambda2", *differing]].assign(
        mixture=trials["train_mixture"].map(place),
        method=trials["method"].map(lambda method: rank.get(method, len(rank))),
        falling_lambda1=-trials["lambda1"],
    )
    return keys.sort_values(["mixture", "method", "falling_lambda1", "lambda2", *differing], kind="stable").index


def _first_line(error: str) -> str:
    return error.strip().partition("\n")[0]


def _setting(value: object) -> str:
    if pd.isna(value):
        return "-"
    if isinstance(value, str):
        # Fingerprints are the only long ones, and their first digits tell them apart.
        return value[:8] if re.fullmatch("[0-9a-f]{12,}", value) else value
    return f"{value:g}"


def _scores(name: str, values: pd.Series) -> list[str]:
    if name.startswith("vs "):
        # Adding 0.0 turns -0.0 into 0.0.
        return ["-" if pd.isna(value) else f"{round(value, 1) + 0.0:+.1f}" for value in values.tolist()]
    return ["-" if pd.isna(value) else f"{value:.1f}" for value in values.tolist()]
