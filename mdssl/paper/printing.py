"""Print numbers of the paper, which are always marked as published, beside ours."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from mdssl.paper.published import IMPLAUSIBLE, averages
from mdssl.tables.statistics import interval
from mdssl.tables.terminal_table import TextColumn, TextTable
from mdssl.terminal import Terminal, say

_SOURCE = "published: numbers of the paper (ICLR 2022 submission), not ours"
_RECIPE = "published: resnet50 (imagenet stem), 48,000 iterations of 1024 images, sgd probe"
_DOUBT = "?: implausible as top-1 (see mdssl/paper/published.py), also in averages"
_TITLES = {
    "average": "average over all columns",
    "seen": "average over training domains",
    "unseen": "average over unseen domains",
}


def print_side_by_side(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `mdssl.paper.published.side_by_side` in 80 columns: a block per evaluation dataset, and its averages.

    A line a trained model: published (with a question mark where implausible), ours and ours less published, top-1 in
    percent; ``-`` if we have none. The settings of ours are printed above, with their models if there are several;
    failed and missing scores are listed below with the reason.
    """
    console = console or Terminal()
    say(console, f"{table['experiment'].iloc[0]}: top-1 in percent on the test split, linear probe on the encoder")
    say(console, _SOURCE, _RECIPE, *(f"ours: {line}" for line in _recipes(table)))
    if table["eval_dataset"].isin(IMPLAUSIBLE).any():
        say(console, _DOUBT)
    # pandas warns when it joins columns without a value, which have no numeric type.
    types = {"ours": float, "difference": float, "published": float}
    everything = pd.concat([table.astype(types), averages(table).astype(types)], ignore_index=True)
    mixture = everything["train_mixture"].map(len).max()
    for name, block in everything.groupby("eval_dataset", sort=False):
        doubt = "?" if name in IMPLAUSIBLE else ""
        cells = {
            "method": [text.ljust(10) for text in block["method"]],
            "trained on": [text.ljust(mixture) for text in block["train_mixture"]],
            "λ1": ["-" if pd.isna(value) else f"{value:g}" for value in block["lambda1"]],
            "λ2": ["-" if pd.isna(value) else f"{value:g}" for value in block["lambda2"]],
            "published": [_number(value) + doubt for value in block["published"]],
            "ours": [_number(value) for value in block["ours"]],
            "differ-\nence": [_number(value, "+") for value in block["difference"]],
        }
        say(console, "", _TITLES.get(str(name), str(name)))
        # One set of widths, so that the numbers of all blocks are aligned.
        widths = {"λ1": 3, "λ2": 4, "ours": 6, "differ-\nence": 7}
        _draw(console, {name: [text.rjust(widths.get(name, 0)) for text in texts] for name, texts in cells.items()})
    for cell in everything[everything["by_seed"].map(len) > 1].to_dict("records"):
        of_seeds = pd.Series(cell["by_seed"])
        low, high = interval(of_seeds)
        weights = "" if pd.isna(cell["lambda1"]) else f" at {cell['lambda1']:g}, {cell['lambda2']:g}"
        model = f"{cell['method']} {cell['train_mixture']}{weights}"
        spread = f"{len(of_seeds)} seeds, sd {of_seeds.std():.2f}, 95 % interval {low:.2f} to {high:.2f}"
        say(console, f"{model} on {cell['eval_dataset']}: {cell['ours']:.2f} ({spread})")
    others = everything[~everything["status"].isin(["ours", "not run", "incomplete"])]
    for (status, method, mixture), names in others.groupby(["status", "method", "train_mixture"], sort=False):
        say(console, f"{status}: {method} {mixture} on {', '.join(names['eval_dataset'])}")


def print_resources(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `mdssl.paper.costs.resources_side_by_side`: a line per resource and method, ``-`` for none.

    A change is MDSSL's one model against the four of SimCLR.
    """
    console = console or Terminal()
    devices = ", ".join(dict.fromkeys(name for name in table["devices"] if name))
    say(console, "table2: cost of four single-domain models, and of one MDSSL model of the four domains")
    say(console, f"{_SOURCE}; on GeForce RTX 2080")
    say(console, f"ours: on {devices or 'nothing yet'}; disk: the encoder alone")
    cells = {
        "resource": [name.replace("_", " ").replace(" mb", "") for name in table["resource"]],
        "method": list(table["method"]),
        "models": ["-" if pd.isna(value) else str(value) for value in table["models"]],
        "unit": [unit or "-" for unit in table["unit"]],
        "published": [_number(value) for value in table["published"]],
        "ours": [_number(value) for value in table["ours"]],
        "difference": [_number(value, "+") for value in table["difference"]],
        "status": list(table["status"]),
    }
    _draw(console, cells)


def _recipes(table: pd.DataFrame) -> list[str]:
    """Return the recipes of our models; if there are several, each with the names of its models."""
    ours = table[table["recipe"] != ""].drop_duplicates(["recipe", "method", "train_mixture"])
    found = {str(recipe): rows for recipe, rows in ours.groupby("recipe")}
    if len(found) < 2:
        return list(found) or ["none yet"]
    return [
        f"{recipe}: " + ", ".join(f"{row.method} {row.train_mixture}" for row in rows.itertuples())
        for recipe, rows in found.items()
    ]


def _number(value: float, sign: str = "") -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return "-" if pd.isna(value) else f"{round(value, 2) + 0.0:{sign}.2f}"


def _draw(console: Console, cells: dict[str, list[str]]) -> None:
    left = ("resource", "method", "trained on", "status")
    columns = [TextColumn(name, texts, right=name not in left) for name, texts in cells.items()]
    # Not cropped to the console, because a truncated number is wrong.
    console.print(TextTable(columns), crop=False)
