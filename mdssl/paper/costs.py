"""Comparison with table 2 of the paper, the cost of training."""

from __future__ import annotations

import pandas as pd

from mdssl.paper.published import (
    OTHER_DATA,
    Row,
    model_key,
    on_published_data,
    other_data,
    read_csv,
    refuse_mixed,
    rows_with_models,
    with_difference,
)

RESOURCES = {"training_hours": "h", "disk_mb": "MB", "gpus": ""}
"""The resources of table 2, with their units."""

UNPUBLISHED_LAMBDAS = (1.0, 0.1)
"""λ1 and λ2 of table 2's MDSSL model. The paper does not give them; table 1 has one MDSSL model of these domains."""


def resources_side_by_side(board: pd.DataFrame) -> pd.DataFrame:
    """Table 2: the cost of four single-domain models, and of one MDSSL model of the four domains.

    Args:
        board: as for `mdssl.paper.published.side_by_side`.

    Returns:
        Three rows for each ``resource``: ``training_hours`` (train_seconds, summed over models), ``disk_mb``
        (encoder_mb, summed) and ``gpus`` (num_workers, summed; 0 on a CPU). ``method`` is ``simclr`` (four models),
        ``mdssl`` (one), or ``change``: mdssl against simclr, percent. Columns ``unit``, ``models`` (how many there
        should be), ``published``, ``ours`` (each model's mean over seeds; null as long as a model is missing),
        ``difference``, ``trained`` (models found), ``trial_ids``, ``devices``, ``status``.

        The paper does not state whether its 42.41 h are the sum of four runs, as ours are, nor which files it counts.
        Its 242 MB a model are about the size of a checkpoint with head and momentum; our ``encoder_mb`` is the encoder
        alone. Its GPUs are GeForce RTX 2080: hours on other devices are not comparable.

    Raises:
        ValueError: as `side_by_side`; also if runs of one model differ in device or worker count.
    """
    rows = rows_with_models(board)
    trials = rows[rows["status"] == "finished"].drop_duplicates("trial_id")
    # The cost of training does not depend on the evaluation.
    trials = trials.drop(columns=["features", "probe", "eval_fingerprint"])
    trials["_other_data"] = [", ".join(other_data({"train_mixture": name})) for name in trials["train_mixture"]]
    trials = on_published_data(trials, ["_model"])
    found = []
    for _, row in read_csv("published_resources.csv").iterrows():
        lambdas = (1.0, 0.0) if row["method"] == "simclr" else UNPUBLISHED_LAMBDAS
        models = [model_key(row["method"], mixture, *lambdas) for mixture in row["train_mixtures"].split(" ")]
        of_models = trials[trials["_model"].isin(models)]
        refuse_mixed(of_models, ["_model"], "resources beside table 2", also=("device", "num_workers"))
        found.append(_costs(of_models, models, row))
    simclr, mdssl = found
    lines = [line for name in RESOURCES for line in (simclr[name], mdssl[name], _change(simclr[name], mdssl[name]))]
    table = pd.DataFrame(lines).astype({"models": "Int64", "trained": "Int64"})
    return with_difference(table)


def _costs(trials: pd.DataFrame, models: list[str], published: pd.Series) -> dict[str, Row]:
    """Return the rows of `resources_side_by_side` by resource: each sums the means over seeds of ``models``."""
    costs = pd.DataFrame(
        {
            "training_hours": trials["train_seconds"] / 3600,
            "disk_mb": trials["encoder_mb"],
            "gpus": trials["num_workers"].where(trials["device"] != "cpu", 0).astype(float),
        }
    )
    of_models = costs.groupby(trials["_model"]).mean().reindex(models)
    trained = trials["_model"].nunique()
    others = [text for text in trials["_other_data"].unique() if text]
    found = f"{OTHER_DATA}{others[0]}" if others else "ours"
    common: Row = {
        "method": published["method"],
        "models": len(models),
        "trained": trained,
        "trial_ids": tuple(trials["trial_id"]),
        "devices": ", ".join(sorted(trials["device"].dropna().unique())),
        "status": found if trained == len(models) else f"{trained} of {len(models)} models" if trained else "not run",
    }
    return {
        name: {"resource": name, "unit": unit, "published": float(published[name])}
        | {"ours": of_models[name].sum(skipna=False)}
        | common
        for name, unit in RESOURCES.items()
    }


def _change(before: Row, after: Row) -> Row:
    """Return the row of `resources_side_by_side` with the change from ``before`` to ``after``, in percent."""
    return {
        "resource": after["resource"],
        "unit": "%",
        "published": 100 * (after["published"] / before["published"] - 1),
        # Without GPUs there is no change in percent.
        "ours": 100 * (after["ours"] / before["ours"] - 1) if before["ours"] else float("nan"),
        "method": "change",
        "models": None,
        "trained": None,
        "trial_ids": (),
        "devices": "",
        "status": before["status"] if after["status"] == "ours" else after["status"],
    }
