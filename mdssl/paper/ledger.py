"""Comparison with the paper: every number of its tables and ours, with a verdict and the command for ours.

A verdict needs the settings of the paper. Rows of the same model that were trained for fewer steps, with a smaller
encoder or scored by another probe are shown, but they neither confirm nor refute a claim.
"""

from __future__ import annotations

import pandas as pd

from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.names import plain_name
from mdssl.paper.costs import RESOURCES, UNPUBLISHED_LAMBDAS, resources_side_by_side
from mdssl.paper.published import (
    IMPLAUSIBLE,
    MODEL,
    NO_COMMON_SEED,
    Row,
    averages,
    means_by_seed,
    model_key,
    other_data,
    published,
    side_by_side,
)
from mdssl.paper.verdicts import MARGIN, judged
from mdssl.tables.compare import settings_apart
from mdssl.tables.statistics import mean

PAPER_RECIPE = {
    "arch": "resnet50",
    "stem": "imagenet",
    "norm": "batch",
    "projection_dim": 128,
    "temperature": 0.1,
    "batch_per_domain": 1024,
    "iterations": 48_000,
    "optimizer": "lars",
    "learning_rate": 4.0,
    "encoder_lr_scale": 1.0,
    "schedule": "cosine",
    "sampling": "balanced",
    "weight_decay": 1e-6,
    "init": "random",
    "input_size": 32,
    "probe": "sgd-raw",
}
"""The settings that the paper gives (section 3.1, tables 6 and 7), by column. Others, such as the strength of
augmentations, may have any value. Its datasets are the published ones, whole, at 32×32 pixels."""

_SAME = {"probe": "sgd-raw(iterations=30000)"}
"""Values that are the paper's as well: section 3.1 has 100 epochs, table 7 has 30,000 iterations."""
_OF_A_PRETRAINED = ("arch", "stem", "input_size", "probe")
_NOT_TOP1 = (
    "the paper's CIFAR-100 values go up to 90.29 %, where supervised training of this encoder at 32×32 reaches about "
    "80 %: top-5, or the 20 coarse classes?"
)
_NOT_OF_624 = "; no multiple of 1/624, so not one score on the official test split of 624 images"
_UNCHECKED_WEIGHTS = "; whether these weights are the paper's (Lightning Bolts' SimCLR) is not checked"

COLUMNS = (
    "source", "kind", *MODEL, "eval_dataset", "unit", "published", "ours", "difference", "low", "high",
    "margin", "seeds", "verdict", "why", "recipe", "trial_ids", "command",
)  # fmt: skip


def ledger(board: pd.DataFrame) -> pd.DataFrame:
    """List every published number of tables 1 to 5 with our number and a verdict on the claim.

    `mdssl.paper.verdicts.RULE` says when ours agree. Of a model that was trained by several recipes, the one that
    differs from the paper's in the fewest settings is used, for each evaluation dataset separately; then the one with
    the most images seen, then the newest. The order of the domains counts as a setting here. A mean or lead of scores
    with different settings has no verdict on the claim.

    Args:
        board: the leaderboard, as `mdssl.leaderboard.board.read` gives it. It may hold other rows as well.

    Returns:
        A row per claim. ``source`` (``table1`` … ``table5``), ``kind`` (``score``; ``mean``, as the paper prints it;
        ``lead``, of MDSSL's mean over multi-domain SimCLR's, over the datasets whose published values are plausible;
        ``cost``), the model's ``method``, ``train_mixture``, ``lambda1``, ``lambda2``, then ``eval_dataset`` (of a mean
        its kind, of a cost the resource), ``unit``, ``published``, ``ours``, ``difference``, ``low`` and ``high`` (the
        interval of ours), ``margin``, ``seeds``, ``verdict`` (one of `mdssl.paper.verdicts.VERDICTS`), ``why``,
        ``recipe``, ``trial_ids`` (a tuple) and ``command``.
    """
    rows = _of_published_models(board)
    chosen = _closest_recipe(rows)
    lines = []
    for name in published()["experiment"].unique():
        table = side_by_side(chosen, name)
        scores = [_score(cell, chosen) for cell in table.to_dict("records")]
        lines += scores
        lines += [_mean(of_mean, scores, chosen) for of_mean in averages(table).to_dict("records")]
        lines += _leads(name, scores, chosen)
    lines += _costs(rows)
    order = {name: place for place, name in enumerate(("table1", "table2", "table3", "table4", "table5"))}
    return pd.DataFrame(lines, columns=list(COLUMNS)).sort_values(
        "source", key=lambda names: names.map(order), kind="stable", ignore_index=True
    )


def _of_published_models(board: pd.DataFrame) -> pd.DataFrame:
    """Return the rows for models of the paper's tables, with all settings and the model's key as ``_model``."""
    wanted = published()[MODEL].drop_duplicates()
    keys = {model_key(*model) for model in wanted.itertuples(index=False)}
    keys |= {model_key(*model) for model in _models_of_table2()}
    models = board[MODEL].drop_duplicates()
    ours = {tuple(model): model_key(*model) for model in models.fillna(-1.0).itertuples(index=False)}
    found = [ours[tuple(model)] for model in board[MODEL].fillna(-1.0).itertuples(index=False)]
    rows = board.assign(_model=pd.Series(found, index=board.index, dtype=object))
    return leaderboard.with_settings(rows[rows["_model"].isin(keys)].reset_index(drop=True))


def _models_of_table2() -> list[tuple[str, str, float, float]]:
    singles = [("simclr", name, 1.0, 0.0) for name in ("cifar10", "stl10", "svhn", "cifar100")]
    return [*singles, ("mdssl", "cifar10+stl10+svhn+cifar100", *UNPUBLISHED_LAMBDAS)]


def _closest_recipe(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop, for each model and evaluation dataset, the finished scores of all recipes but the closest."""
    scored = (rows["status"] == "finished") & (rows["features"] == "encoder")
    if not scored.any():
        return rows
    scores = rows[scored]
    told_apart = [*settings_apart(scores.drop(columns="_model"))] or ["method"]
    groups = scores.groupby(told_apart, dropna=False).ngroup()
    rank = pd.DataFrame(
        {
            "_recipe": groups,
            "off": [len(_deviations(row)) for row in scores.to_dict("records")],
            "unseen": -(scores["iterations"].fillna(0) * scores["batch_per_domain"].fillna(0)).astype(float),
            "age": -scores["finished_at"].map(lambda at: at.timestamp() if pd.notna(at) else 0.0),
        },
        index=scores.index,
    )
    by = [scores["_model"], scores["eval_dataset"].map(plain_name)]
    best = rank.sort_values(["off", "unseen", "age"]).groupby(by)["_recipe"].first()
    kept = rank["_recipe"].to_numpy() == best.reindex(pd.MultiIndex.from_arrays(by)).to_numpy()
    return rows.drop(index=scores.index[~kept])


def _deviations(row: Row) -> list[str]:
    """Describe each setting of ``row`` that differs from the paper's, and each dataset that is not a published one."""
    names = _OF_A_PRETRAINED if row["method"] == "pretrained" else PAPER_RECIPE
    return [f"{name} is not the published dataset" for name in other_data(row)] + [
        f"{name.replace('_', ' ')} {_value(row[name])} (paper: {_value(PAPER_RECIPE[name])})"
        for name in names
        if pd.notna(row.get(name)) and row[name] not in (PAPER_RECIPE[name], _SAME.get(name))
    ]


def _value(value: object) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _score(cell: Row, rows: pd.DataFrame) -> Row:
    dataset = cell["eval_dataset"]
    line = _line(cell, cell["experiment"], "score")
    deviations: list[str] = []
    if cell["trial_ids"]:
        own = rows[
            rows["trial_id"].isin(cell["trial_ids"])
            & (rows["eval_dataset"].map(plain_name, na_action="ignore") == dataset)
        ]
        own = own[(own["status"] == "finished") & (own["features"] == "encoder")]
        deviations = _deviations(own.iloc[0].to_dict())
        line["rows"] = list(own.index)
    elif cell["status"] != "not run":
        line["why"] = {"failed": "it failed", "stopped": "it was stopped"}.get(cell["status"], cell["status"])
    line = judged(line, deviations, implausible=_NOT_TOP1 if dataset in IMPLAUSIBLE else "")
    if dataset == "chestxray":
        line["why"] = (line["why"] + _NOT_OF_624).removeprefix("; ")
    if cell["method"] == "pretrained" and cell["trial_ids"]:
        line["why"] = (line["why"] + _UNCHECKED_WEIGHTS).removeprefix("; ")
    return line


def _mean(of_mean: Row, scores: list[Row], rows: pd.DataFrame) -> Row:
    line = _line(of_mean, of_mean["experiment"], "mean")
    cells = [cell for cell in scores if _model_of(cell) == _model_of(line)]
    domains = set(line["train_mixture"].split("+"))
    wanted = {"seen": lambda name: name in domains, "unseen": lambda name: name not in domains}
    cells = [cell for cell in cells if wanted.get(of_mean["eval_dataset"], lambda name: True)(cell["eval_dataset"])]
    reasons = {"incomplete": "some of its scores are missing", NO_COMMON_SEED: NO_COMMON_SEED}
    line["why"] = reasons.get(of_mean["status"], "")
    doubtful = [cell["eval_dataset"] for cell in cells if cell["eval_dataset"] in IMPLAUSIBLE]
    implausible = f"it includes the score on {doubtful[0]}" if doubtful else ""
    return judged(line, _deviations_together(cells, rows), implausible=implausible)


def _deviations_together(cells: list[Row], rows: pd.DataFrame) -> list[str]:
    """Return why the scores of a mean or lead are not comparable: one has other settings than the paper's, or they
    have different ones."""
    found = [cell["why"] for cell in cells if cell["verdict"] == "different settings"][:1]
    used = rows.loc[[index for cell in cells for index in cell["rows"]]]
    apart = settings_apart(used, but=("seed", "eval_fingerprint", "_model", *MODEL))
    return found + [f"its scores differ in {name.replace('_', ' ')}: {values}" for name, values in apart.items()]


def _leads(source: str, scores: list[Row], rows: pd.DataFrame) -> list[Row]:
    """Return the claims about differences between MDSSL's mean and that of SimCLR on the union of its domains."""
    lines = []
    plausible = [cell for cell in scores if cell["eval_dataset"] not in IMPLAUSIBLE]
    for model in dict.fromkeys(_model_of(cell) for cell in plausible if cell["method"] == "mdssl"):
        ours = [cell for cell in plausible if _model_of(cell) == model]
        baseline = [
            cell
            for cell in plausible
            if cell["method"] == "simclr" and cell["train_mixture"] == ours[0]["train_mixture"]
        ]
        if not baseline:
            continue
        cells = [*ours, *baseline]
        of_mdssl, of_simclr = (means_by_seed(cell["by_seed"] for cell in own) for own in (ours, baseline))
        by_seed = {seed: of_mdssl[seed] - of_simclr[seed] for seed in of_mdssl if seed in of_simclr}
        lead = mean(by_seed.values())
        papers = mean(cell["published"] for cell in ours) - mean(cell["published"] for cell in baseline)
        compared = by_seed and not any(pd.isna(cell["difference"]) for cell in cells)
        line = ours[0] | {"source": source, "kind": "lead", "eval_dataset": "MDSSL − SimCLR"}
        line |= {
            "why": "" if by_seed or any(pd.isna(cell["ours"]) for cell in cells) else NO_COMMON_SEED,
            "published": papers,
            "ours": lead,
            "difference": lead - papers if compared else float("nan"),
            "seeds": len(by_seed),
            "trial_ids": tuple(dict.fromkeys(sum((cell["trial_ids"] for cell in cells), ()))) if by_seed else (),
            "recipe": "; ".join(filter(None, dict.fromkeys(cell["recipe"] for cell in cells))) if by_seed else "",
            "by_seed": by_seed,
        }
        lines.append(judged(line, _deviations_together(cells, rows), implausible=""))
    return lines


def _costs(rows: pd.DataFrame) -> list[Row]:
    """Return the claims of table 2, from the settings that trained most of its models and are closest to the paper."""
    trials = rows[rows["status"] == "finished"].drop_duplicates("trial_id")
    trials = trials[trials["_model"].isin({model_key(*model) for model in _models_of_table2()})]
    table, recipe = resources_side_by_side(rows.iloc[:0]), ""
    if len(trials):
        of_cost = ["arch", "stem", "batch_per_domain", "iterations", "device", "num_workers", "precision", "batching"]
        groups = [group for _, group in trials.groupby(of_cost, dropna=False)]
        best = max(groups, key=lambda group: (group["_model"].nunique(), -len(_deviations(group.iloc[0].to_dict()))))
        try:
            table = resources_side_by_side(best)
        except InputError:
            # The same cost, but other settings besides: the newest trial of each model.
            table = resources_side_by_side(best.sort_values("finished_at").drop_duplicates("_model", keep="last"))
        first = best.iloc[0].to_dict()
        recipe = f"{first['arch']}, {_value(int(first['iterations']))} iterations, {first['device']}"
    lines, no_score = [], {"probe": PAPER_RECIPE["probe"], "eval_dataset": None}
    for cost in table.to_dict("records"):
        # A change has the trials of both.
        ids = set(cost["trial_ids"] or table["trial_ids"].explode())
        used = trials[trials["trial_id"].isin(ids)]
        others = [device for device in used["device"].unique() if "RTX 2080" not in str(device)]
        deviations = [f"on {device} (paper: GeForce RTX 2080)" for device in others]
        deviations += dict.fromkeys(text for row in used.to_dict("records") for text in _deviations(row | no_score))
        simclr = cost["method"] == "simclr"
        model = ("simclr", "each of four domains", 1.0, 0.0) if simclr else ("mdssl", "all four", *UNPUBLISHED_LAMBDAS)
        cell: Row = dict(zip(MODEL, model, strict=True)) | {"eval_dataset": cost["resource"].replace("_", " ")}
        if cost["method"] == "change":
            cell |= {"method": "mdssl against simclr", "train_mixture": "one model for four"}
        cell |= {name: cost[name] for name in ("published", "ours", "difference", "trial_ids")}
        line = _line(cell | {"seeds": 0, "recipe": recipe}, "table2", "cost") | {"unit": cost["unit"]}
        line["margin"] = abs(cost["published"]) / 10
        if cost["status"] not in ("ours", "not run"):
            line["why"] = f"{cost['status']} trained"
        lines.append(judged(line, deviations, implausible=""))
    assert len(lines) == 3 * len(RESOURCES), lines
    return lines


def _line(cell: Row, source: str, kind: str) -> Row:
    line: Row = dict.fromkeys(COLUMNS) | {name: cell[name] for name in (*MODEL, "eval_dataset", "published", "ours")}
    line |= {name: cell[name] for name in ("difference", "seeds", "recipe", "trial_ids")}
    weights = " --pretrained WEIGHTS" if source == "table5" else ""
    own = {"source": source, "kind": kind, "unit": "%", "why": "", "margin": MARGIN, "rows": []}
    own |= {"by_seed": cell.get("by_seed", {})}
    # The preset's probe is another one; costs do not depend on it.
    probe = "" if kind == "cost" else f" --probe {PAPER_RECIPE['probe']}"
    return line | own | {"command": f"mdssl sweep paper {source}{weights}{probe}"}


def _model_of(line: Row) -> str:
    return model_key(*(line[name] for name in MODEL))
