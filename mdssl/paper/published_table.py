"""Published and ours on the screen. What is published says so wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mdssl.paper.published import IMPLAUSIBLE, averages
from mdssl.terminal import Terminal

SOURCE = "published: numbers of the paper (ICLR 2022 submission), not ours"
RECIPE = "published: resnet50 (imagenet stem), 48,000 iterations of 1024 images, sgd probe"
DOUBT = "?: implausible as top-1 (mdssl/paper/published.py says why), also in averages"

_TITLES = {
    "average": "average over all columns",
    "seen": "average over training domains",
    "unseen": "average over unseen domains",
}


def print_side_by_side(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `mdssl.paper.published.side_by_side` in 80 columns: a block per evaluation dataset, and its averages.

    A line a trained model: published (in italics, with a question mark where implausible), ours and ours less
    published, top-1 in percent; ``-`` where we have none. How ours were trained stands above, with the models it holds
    for where they differ; what kept a score from being there, other than that nobody ran it, below.
    """
    console = console or Terminal()
    _say(console, f"{table['experiment'].iloc[0]}: top-1 in percent on the test split, linear probe on the encoder")
    _say(console, SOURCE)
    _say(console, RECIPE)
    for line in _recipes(table):
        _say(console, f"ours: {line}")
    if table["eval_dataset"].isin(IMPLAUSIBLE).any():
        _say(console, DOUBT)
    # One set of widths, so that the numbers of all blocks stand below each other.
    widths = (table["method"].map(len).max(), table["train_mixture"].map(len).max(), 3, 4, 9, 6, 7)
    for name, block in _blocks(table):
        console.print(Text(f"\n{_TITLES.get(name, name)}", style="bold"))
        drawn = _drawn(("method", "trained on", "λ1", "λ2", "published", "ours", "differ-\nence"), left=2)
        for column, width in zip(drawn.columns, widths, strict=True):
            column.min_width = width
        for _, row in block.iterrows():
            drawn.add_row(*_model(row), Text(_published(row), style="italic"), *_ours(row))
        _whole(drawn, console)
    for line in _reasons(table):
        _say(console, line)


def print_resources(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `mdssl.paper.published.resources_side_by_side`: a line per resource and method, ``-`` for none.

    A change is MDSSL's one model against the four of SimCLR.
    """
    console = console or Terminal()
    _say(console, "table2: what four single-domain models cost, and one MDSSL model of the four domains")
    _say(console, f"{SOURCE}; on GeForce RTX 2080")
    devices = ", ".join(dict.fromkeys(name for name in table["devices"] if name))
    _say(console, f"ours: on {devices or 'nothing yet'}; disk: the encoder alone")
    drawn = _drawn(_RESOURCE_HEADER, left=2)
    for line in _resource_lines(table):
        drawn.add_row(*line[:4], Text(line[4], style="italic"), *line[5:])
    _whole(drawn, console)


_RESOURCE_HEADER = ("resource", "method", "models", "unit", "published", "ours", "difference", "status")


def _resource_lines(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (
            row["resource"].replace("_", " ").replace(" mb", ""),
            row["method"],
            "-" if pd.isna(row["models"]) else str(row["models"]),
            row["unit"] or "-",
            _number(row["published"]),
            _number(row["ours"]),
            _number(row["difference"], signed=True),
            row["status"],
        )
        for _, row in table.iterrows()
    ]


def _blocks(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    everything = pd.concat([_plain(table), _plain(averages(table))], ignore_index=True)
    return list(everything.groupby("eval_dataset", sort=False))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    # Columns without a value have no type of their own, and pandas warns where it is asked to join such.
    return table.astype({"ours": float, "difference": float, "published": float})


def _recipes(table: pd.DataFrame) -> list[str]:
    """How ours were trained; with their models where not all were trained in the same way."""
    ours = table[table["recipe"] != ""]
    found = {recipe: rows.drop_duplicates(["method", "train_mixture"]) for recipe, rows in ours.groupby("recipe")}
    if not found:
        return ["none yet"]
    if len(found) == 1:
        return list(found)
    return [
        f"{recipe}: " + ", ".join(f"{row['method']} {row['train_mixture']}" for _, row in rows.iterrows())
        for recipe, rows in found.items()
    ]


def _reasons(table: pd.DataFrame) -> list[str]:
    said = table[~table["status"].isin(["ours", "not run"])]
    groups = said.groupby(["status", "method", "train_mixture"], sort=False)["eval_dataset"]
    return [f"{status}: {method} {mixture} on {', '.join(names)}" for (status, method, mixture), names in groups]


def _model(row: pd.Series) -> tuple[str, ...]:
    lambdas = ("-" if pd.isna(row[name]) else f"{row[name]:g}" for name in ("lambda1", "lambda2"))
    return row["method"], row["train_mixture"], *lambdas


def _published(row: pd.Series) -> str:
    return _number(row["published"]) + ("?" if row["eval_dataset"] in IMPLAUSIBLE else "")


def _ours(row: pd.Series) -> tuple[str, str]:
    return _number(row["ours"]), _number(row["difference"], signed=True)


def _number(value: float, *, signed: bool = False) -> str:
    if pd.isna(value):
        return "-"
    # Adding 0.0 turns -0.0 into 0.0.
    value = round(value, 2) + 0.0
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _drawn(header: Sequence[str], left: int) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for place, name in enumerate(header):
        drawn.add_column(name, justify="left" if place < left or name == "status" else "right", no_wrap=True)
    return drawn


def _whole(drawn: Table, console: Console) -> None:
    """Print ``drawn`` whole also where it is wider than the console: a number cut short is a wrong number."""
    drawn.width = Measurement.get(console, console.options.update(max_width=10_000), drawn).maximum
    console.print(drawn, crop=False)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
