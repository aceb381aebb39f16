"""The first page of the report: an overview of the storage, the limits of its numbers, and the table of trials."""

from __future__ import annotations

import json
import re
from collections import Counter
from math import sqrt
from typing import Any, NamedTuple

import pandas as pd

from mdssl.data.builtin import BUILTIN
from mdssl.tables.compare import latest_images, settings_apart
from mdssl.tables.sweep_table import sweep_table

NOTHING = "–"
"""A cell without a value."""
_REMARKS = ("tags", "note")
"""Optional columns: what users wrote about a trial."""
_MOST_CHOICES = 30
"""A setting with more values has no list to filter by."""
_AT_THE_END = ("status", "hours", *_REMARKS, "error")


class Best(NamedTuple):
    """The best score on one dataset by one probe: a row of the leaderboard, and the number of trials with a score.

    ``chance`` and ``majority``, in percent, are the scores of random guessing and of always predicting the most
    frequent class (NaN where no row records it). ``error`` is the binomial standard error of the score, in points.
    """

    eval_dataset: str
    row: dict
    trials: int
    chance: float
    majority: float
    error: float


class Column(NamedTuple):
    """A column of the table of trials.

    Attributes:
        name: in the leaderboard.
        kind: ``setting``, ``score`` (on one evaluation dataset), ``mean`` or ``other``.
        is_numeric: whether it is right-aligned and sorted as numbers.
        choices: its different values, or tags, in order.
    """

    name: str
    kind: str
    is_numeric: bool
    choices: list[str]

    @property
    def can_filter(self) -> bool:
        """Whether a list of its values helps to choose rows."""
        chosen = self.kind == "setting" or self.name in ("status", "tags")
        return chosen and 1 < len(self.choices) <= _MOST_CHOICES


class Row(NamedTuple):
    """A row of the table: ``anchor`` is its id on the page, ``cells`` are (text, whether it is the column's best)."""

    trial_id: str
    anchor: str
    cells: list[tuple[str, bool]]


class TrialTable(NamedTuple):
    """The table of trials.

    Attributes:
        columns, rows: what the page shows.
        notes: on the means of the table.
        frame: the numbers of ``rows``, with trial ids as index, ``features`` and ``probe``.
    """

    columns: list[Column]
    rows: list[Row]
    notes: list[str]
    frame: pd.DataFrame


def best_scores(rows: pd.DataFrame) -> list[Best]:
    """Return the best top-1 on the latest images of each evaluation dataset, on encoder features, by each probe.

    Args:
        rows: the leaderboard with all settings, including ``config_json``.
    """
    scores = rows[(rows["status"] == "finished") & (rows["features"] == "encoder") & rows["top1"].notna()]
    found = []
    for (name, _), of_dataset in latest_images(scores).groupby(["eval_dataset", "probe"]):
        best = of_dataset.iloc[of_dataset["top1"].argmax()].to_dict()
        evaluation = json.loads(best["config_json"]).get("evaluation", {})
        majority = evaluation.get("majority_top1", float("nan"))
        share = best["top1"] / 100
        error = 100 * sqrt(share * (1 - share) / int(best["num_test"]))
        chance = 100 / int(of_dataset["num_classes"].max())
        found.append(Best(str(name), best, of_dataset["trial_id"].nunique(), chance, majority, error))
    return found


def summary(rows: pd.DataFrame) -> dict[str, Any]:
    """Summarize the storage and the limits of its numbers, for ``index.html``.

    Args:
        rows: the leaderboard with all settings, not empty.
    """
    trials = rows.drop_duplicates("trial_id")
    trained = trials[trials["train_mixture"] != ""]
    scores = rows[(rows["status"] == "finished") & (rows["features"] == "encoder")]
    failed = rows.groupby("trial_id")["status"].agg(lambda found: "failed" in set(found))
    status = trials["status"].mask(trials["trial_id"].map(failed), "failed")
    settings = settings_apart(trained, but=("seed", "features", "probe", "eval_fingerprint"))
    ended_well = trained[~trained["trial_id"].map(failed)]
    seeds = ended_well.groupby(sorted({"method", "train_mixture", *settings}), dropna=False)["seed"].nunique()
    by_sgd_raw = scores["probe"].dropna().str.startswith("sgd-raw")
    fingerprints = scores.groupby("eval_dataset")["eval_fingerprint"].nunique()
    images = trained.groupby("train_mixture")["data_fingerprint"].nunique()
    names = {*trials["train_mixture"].str.split("+").explode(), *rows["eval_dataset"].dropna()}
    return {
        "rows": rows,
        "trials": trials,
        "status": status.value_counts().to_dict(),
        "finished": int((rows["status"] == "finished").sum()),
        "hours": trials["train_seconds"].sum() / 3600,
        "gpu_hours": trials["gpu_hours"].sum(),
        "commits": trials["git_commit"].str.replace(r"^(.{12})[^-]*", r"\1", regex=True),
        "dirty": int(trials["git_commit"].dropna().str.endswith("-dirty").sum()),
        "settings": len(seeds),
        "settings_with_one_seed": int((seeds == 1).sum()),
        "synthetic": sorted(name for name in names if name in BUILTIN),
        "failed": int(failed.sum()),
        "mixtures_of_several_images": images[images > 1].to_dict(),
        "datasets_of_several_images": list(fingerprints.index[fingerprints > 1]),
        "probes": scores["probe"].nunique(),
        "by_sgd_raw": bool(by_sgd_raw.all()),
        "some_by_sgd_raw": bool(by_sgd_raw.any()),
    }


def trial_table(rows: pd.DataFrame) -> TrialTable:
    """Return all trials of a leaderboard.

    A trial that was scored by two probes, or on two layers, has a row for each; one without a score has one row. The
    columns are those of `mdssl.tables.sweep_table.sweep_table` over all mixtures, and training hours; those without
    information, such as a status of ``finished`` everywhere, are left out.

    Args:
        rows: the leaderboard with all settings (`mdssl.leaderboard.board.with_settings`).
    """
    mixtures = sorted(set(rows["train_mixture"]) - {""})
    datasets = sorted(rows["eval_dataset"].dropna().unique())
    scored = rows[rows["status"] == "finished"]
    ways = sorted(set(zip(scored["features"], scored["probe"], strict=True)))
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    for features, probe in ways or [("encoder", "lbfgs")]:
        of_way = scored[(scored["features"] == features) & (scored["probe"] == probe)]
        own = [name for name in datasets if name in set(of_way["eval_dataset"])] if ways else datasets
        part = sweep_table(rows, mixtures=mixtures, datasets=own, features=features, probe=probe)
        prefix = f"{probe} probe on {features} features: " if len(ways) > 1 else ""
        notes += [f"{prefix}{note}." for note in part.attrs["notes"]]
        unscored = set() if parts else set(rows["trial_id"]) - set(scored["trial_id"])
        part = part[part.index.isin(set(of_way["trial_id"]) | unscored)]
        parts.append(part.assign(features=features, probe=probe))
    table = pd.concat(parts)
    names = [name for name in table if name not in datasets]
    before = names.index("seen")
    # All datasets side by side, also those that the first probe did not score.
    table = table.reindex(columns=[*names[:before], *datasets, *names[before:]])
    of_trial = rows.drop_duplicates("trial_id").set_index("trial_id").reindex(table.index)
    if "seed" not in table:
        table.insert(list(table).index("lambda2") + 1, "seed", of_trial["seed"])
    for name in ("probe", "features"):
        table.insert(list(table).index("seed") + 1, name, table.pop(name))
    table["hours"] = of_trial["train_seconds"] / 3600
    return _with_kinds(table, datasets, notes, hidden=() if len(ways) > 1 else ("probe", "features"))


def _with_kinds(table: pd.DataFrame, datasets: list[str], notes: list[str], hidden: tuple[str, ...]) -> TrialTable:
    names = [str(name) for name in table if name not in (*_AT_THE_END, *hidden)]
    names = [name for name in names if name in datasets or table[name].notna().any()]
    names += ["status"] if (table["status"] != "finished").any() else []
    names += ["hours", *(name for name in (*_REMARKS, "error") if name in table and table[name].notna().any())]
    columns, cells = [], []
    way = (table["features"] + " " + table["probe"]).to_numpy()
    for name in names:
        values = table[name]
        kind = "other" if name in _AT_THE_END else "score" if name in datasets else "setting"
        kind = "mean" if name in ("seen", "unseen", "vs simclr", "val") else kind
        texts = [_text(name, kind, value) for value in values]
        by_value = dict(zip(values, texts, strict=True))
        choices = [by_value[value] for value in sorted(value for value in by_value if by_value[value] != NOTHING)]
        choices = (
            sorted({tag for text in choices for tag in re.split("[, ]+", text) if tag}) if name == "tags" else choices
        )
        choices += [NOTHING] * (NOTHING in texts)
        columns.append(Column(name, kind, pd.api.types.is_numeric_dtype(values), choices))
        highest = [NOTHING] * len(texts)
        if kind in ("score", "mean"):
            # Scores of different layers and probes are not compared.
            highest = [_text(name, kind, value) for value in values.astype(float).groupby(way).transform("max")]
        cells.append([(text, text == top != NOTHING) for text, top in zip(texts, highest, strict=True)])
    rows: list[Row] = []
    times: Counter[str] = Counter()
    for trial_id, of_row in zip(table.index, zip(*cells, strict=True), strict=True):
        times[trial_id] += 1
        anchor = f"trial-{trial_id}" + (f"-{times[trial_id]}" if times[trial_id] > 1 else "")
        rows.append(Row(trial_id, anchor, list(of_row)))
    return TrialTable(columns, rows, notes, table)


def _text(name: str, kind: str, value: Any) -> str:
    if pd.isna(value) or value == "" or (name == "hours" and not value):
        return NOTHING
    if kind in ("score", "mean"):
        # Not -0.0.
        return f"{round(value, 1) + 0.0:+.1f}" if name == "vs simclr" else f"{value:.1f}"
    if name == "hours":
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    if isinstance(value, str):
        return value[:8] if name.endswith("fingerprint") else value
    # Not 2.02401e+07, which several seeds would have in common.
    return f"{value:.0f}" if float(value).is_integer() else f"{value:g}"
