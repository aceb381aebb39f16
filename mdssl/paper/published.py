"""The paper's published numbers, and ours for the same cells.

``published.csv`` (top-1 in percent, tables 1, 3, 4 and 5) and ``published_resources.csv`` (table 2) are copied from
"Multi-Domain Self-Supervised Learning", submission to ICLR 2022, anonymous authors. They are published values, not
ours, and never a requirement: no test, sweep or exit code depends on the difference to them.

The published CIFAR-100 values are implausible as top-1. An encoder trained on CIFAR-10 alone is reported to give
75.37 %, one trained on Tiny-ImageNet 82.69 % (and only 81.67 % on CIFAR-10, with a tenth of the classes), one trained
on CIFAR-100 90.29 %: all with ResNet-50 and its ImageNet stem at 32x32, where linear probes of self-supervised encoders
otherwise stay below what supervised training reaches, about 80 %. Top-5 or the 20 coarse classes might explain them;
the paper mentions neither. Its ChestXRay values are not multiples of 1/624, so none is one score on the 624 images of
the official test split.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from importlib.resources import files
from typing import Any

import pandas as pd

from mdssl.errors import InputError, check_name
from mdssl.leaderboard.board import with_settings
from mdssl.leaderboard.names import plain_name
from mdssl.tables.compare import settings_apart
from mdssl.tables.statistics import mean

Row = dict[Hashable, Any]
"""A row of a table by column, as ``DataFrame.to_dict("records")`` gives it."""

IMPLAUSIBLE = ("cifar100",)
"""Evaluation datasets whose published values cannot be top-1: see the module's docstring."""

MODEL = ["method", "train_mixture", "lambda1", "lambda2"]
_NOT_RUN = {"ours": float("nan"), "seeds": 0, "by_seed": {}, "trial_ids": (), "recipe": "", "status": "not run"}
OTHER_DATA = "other data: "
NO_COMMON_SEED = "no seed has all of its scores"
_MEANS_OF_MIXTURES = {"table3": ("seen", "unseen")}
"""Where the paper prints other means than one over all columns. Table 3's single domains have that one as well."""


def published(experiment: str | None = None) -> pd.DataFrame:
    """Return the published top-1 of ``experiment``, or of all tables, one value a row, in the paper's order.

    Returns:
        Columns ``experiment`` (``table1``, ``table3``, ``table4``, ``table5``), ``train_mixture`` (in the paper's
        order of domains), ``method`` (simclr, mdssl or pretrained), ``lambda1``, ``lambda2`` (null for the pretrained
        encoder), ``eval_dataset`` and ``top1`` (percent, test split). A simclr row of one domain is the paper's
        single-domain baseline, one of several domains its multi-domain SimCLR. The pretrained encoder's mixture is
        ``imagenet``, at full size: Lightning Bolts' SimCLR.

    Raises:
        ValueError: the paper prints no top-1 for ``experiment``.
    """
    cells = read_csv("published.csv")
    if experiment is None:
        return cells
    check_name("experiment with published top-1", experiment, cells["experiment"].unique())
    return cells[cells["experiment"] == experiment].reset_index(drop=True)


def side_by_side(board: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return the published top-1 of ``experiment`` and ours, of encoder features: a row per published cell.

    A model of ours is the published one if method, λ1, λ2 and the set of its domains are the same, in any order.
    Trials with different orders are not averaged: their images have different fingerprints.

    Args:
        board: rows of the leaderboard, as `mdssl.leaderboard.board.read` gives them.
        experiment: ``table1``, ``table3``, ``table4`` or ``table5``.

    Returns:
        The columns of `published`, ``published`` in place of ``top1``, and

        - ``ours``: mean over seeds, percent; null if there is none. ``difference``: ours less published, points;
          null if ours are of other data than the published datasets of these names;
        - ``seeds``: how many; ``by_seed``: ours of each, a dict; ``trial_ids``: a tuple; ``recipe``: in words, how
          they were trained and probed;
        - ``status``: ``ours``; ``other data: svhn (4,434 of 73,257)``; ``not scored`` (trained, but not scored on this
          dataset); ``failed``, ``stopped``; ``not run``.

    Raises:
        ValueError: an experiment without published top-1; or rows of one model that differ in more than the seed
            (`mdssl.leaderboard.board.with_settings` gives the columns to filter them by).
    """
    cells = published(experiment).rename(columns={"top1": "published"})
    rows = rows_with_models(board)
    models = [model_key(*model) for model in cells[MODEL].itertuples(index=False)]
    scored = rows[rows["_model"].isin(models) & (rows["status"] == "finished") & (rows["features"] == "encoder")]
    compared = on_published_data(scored, ["_model", "_dataset"])
    rows, scored = rows.drop(index=scored.index.difference(compared.index)), compared
    refuse_mixed(scored, ["_model", "_dataset"], f"top-1 beside {experiment}")
    of_model = dict(list(rows[rows["_model"].isin(models)].groupby("_model")))
    found = [
        _cell(of_model[model], dataset) if model in of_model else dict(_NOT_RUN)
        for model, dataset in zip(models, cells["eval_dataset"], strict=True)
    ]
    return with_difference(cells.join(pd.DataFrame(found)))


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means of a `side_by_side` that the paper prints, one a row, in the same columns.

    ``eval_dataset`` names the columns of the mean: ``average`` over all, training domains included; in
    table 3 the mixtures have ``seen`` (training domains) and ``unseen`` instead. ImageNet is trained on there but not
    scored, so a mixture with it has two training domains in its mean. Ours is over the seeds that have all scores of
    the mean. It is null, and ``incomplete``, as long as one score is missing; `NO_COMMON_SEED` if no seed has all.

    The paper cuts its means off after two digits instead of rounding them, so 71.575 is printed as 71.57.
    """
    means = []
    for _, cells in table.groupby(["experiment", *MODEL], sort=False, dropna=False):
        first = cells.iloc[0]
        domains = first["train_mixture"].split("+")
        seen = cells["eval_dataset"].isin(domains)
        kinds = _MEANS_OF_MIXTURES.get(first["experiment"], ("average",)) if len(domains) > 1 else ("average",)
        for kind in kinds:
            of_mean = {"average": cells, "seen": cells[seen], "unseen": cells[~seen]}[kind]
            by_seed = means_by_seed(of_mean["by_seed"])
            means.append(
                first.to_dict()
                | {"eval_dataset": kind, "published": of_mean["published"].mean(), "ours": mean(by_seed.values())}
                | {"seeds": len(by_seed), "by_seed": by_seed}
                | {"trial_ids": tuple(dict.fromkeys(sum(of_mean["trial_ids"], ())))}
                | {"recipe": "; ".join(dict.fromkeys(filter(None, of_mean["recipe"])))}
                | {"status": _status_of_mean(of_mean, by_seed)}
            )
    return with_difference(pd.DataFrame(means, columns=table.columns.drop("difference")))


def means_by_seed(of_cells: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over cells for each seed that all of them have, from the scores by seed of each."""
    cells = list(of_cells)
    seeds = set.intersection(*map(set, cells)) if cells else set()
    return {seed: mean(cell[seed] for cell in cells) for seed in sorted(seeds)}


def _status_of_mean(cells: pd.DataFrame, by_seed: Mapping[int, float]) -> str:
    if not cells["ours"].notna().all():
        return "incomplete" if cells["ours"].notna().any() else "not run"
    if not by_seed:
        return NO_COMMON_SEED
    return next((status for status in cells["status"] if status != "ours"), "ours")


def with_difference(table: pd.DataFrame) -> pd.DataFrame:
    difference = (table["ours"] - table["published"]).where(~table["status"].str.startswith(OTHER_DATA))
    table.insert(list(table.columns).index("ours") + 1, "difference", difference)
    return table


def read_csv(name: str) -> pd.DataFrame:
    with (files(__package__) / name).open() as file:
        return pd.read_csv(file)


def rows_with_models(board: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``board`` with all settings as columns, and their model as ``_model``."""
    rows = with_settings(board.reset_index(drop=True))
    models = [model_key(*model) for model in rows[MODEL].itertuples(index=False)]
    datasets = rows["eval_dataset"].map(plain_name, na_action="ignore")
    others = [", ".join(other_data(row)) for row in rows[["train_mixture", "eval_dataset"]].to_dict("records")]
    return rows.assign(_model=models, _dataset=datasets, _other_data=pd.Series(others, rows.index, dtype=object))


def on_published_data(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Drop the rows on other data from each group that also has rows on the published data."""
    is_published = rows["_other_data"] == ""
    return rows[is_published | ~is_published.groupby([rows[name] for name in by]).transform("any").astype(bool)]


def other_data(row: Row) -> list[str]:
    """Return the datasets that a row's trial was trained or scored on and that are not the published ones."""
    scored_on = [row["eval_dataset"]] if isinstance(row.get("eval_dataset"), str) else []
    names = dict.fromkeys([*row["train_mixture"].split("+"), *scored_on])
    return [name for name in names if name != plain_name(name)]


def model_key(method: str, train_mixture: str, lambda1: float, lambda2: float) -> str:
    """Return the key of a model of the paper; it does not depend on the order of the domains."""
    # Nothing is trained where an encoder comes pretrained, and the leaderboard has no mixture and no lambda for it.
    if method == "pretrained":
        return method
    # Six digits, for a lambda that was computed may be off by a bit.
    return f"{method} {'+'.join(sorted(plain_name(train_mixture).split('+')))} {lambda1:g} {lambda2:g}"


def refuse_mixed(rows: pd.DataFrame, by: list[str], what: str, also: tuple[str, ...] = ()) -> None:
    mixed = settings_apart(rows, by, also=also)
    if mixed:
        found = "; ".join(f"{name}: {values}" for name, values in mixed.items())
        raise InputError(
            f"{what}: a mean over seeds would mix rows of one model that differ in {found}. Compare one value of each."
        )


def _cell(of_model: pd.DataFrame, dataset: str) -> Row:
    """Our values for one published cell, from all rows of its model."""
    finished = of_model[of_model["status"] == "finished"]
    ours = finished[(finished["features"] == "encoder") & (finished["_dataset"] == dataset)]
    failures = of_model[of_model["status"] != "finished"]
    if len(ours):
        others = [text for text in ours["_other_data"].unique() if text]
        status = f"{OTHER_DATA}{others[0]}" if others else "ours"
    elif len(finished):
        of_dataset = failures[(failures["_dataset"] == dataset) & (failures["status"] == "failed")]
        status = "failed" if len(of_dataset) else "not scored"
    else:
        status = failures["status"].iloc[0] if len(failures) else "not run"
    by_seed = ours.groupby("seed")["top1"].mean().to_dict()
    return {
        "ours": mean(by_seed.values()),
        "seeds": len(by_seed),
        "by_seed": by_seed,
        "trial_ids": tuple(ours["trial_id"].unique()),
        "recipe": _recipe(ours.iloc[0]) if len(ours) else "",
        "status": status,
    }


def _recipe(row: pd.Series) -> str:
    parts = [f"{row['arch']} ({row['stem']} stem)" if pd.notna(row["stem"]) else row["arch"]]
    if pd.notna(row["iterations"]) and row["iterations"]:
        of_batch = f" of {row['batch_per_domain']} images a domain" if pd.notna(row["batch_per_domain"]) else ""
        parts.append(f"{row['iterations']:,} iterations{of_batch}")
    return ", ".join([*(part for part in parts if pd.notna(part)), f"{row['probe']} probe"])
