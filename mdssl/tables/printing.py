"""Print the leaderboard: a table for each mixture and probe, or one table selected by flags."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from mdssl.config.probe import ProbeConfig
from mdssl.errors import InputError, check_name
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.leaderboard.files import results_in
from mdssl.leaderboard.names import matching_names, plain_name
from mdssl.leaderboard.notes import with_notes
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_regular
from mdssl.tables import render
from mdssl.tables.measures import domains_compared, with_measures
from mdssl.tables.select import NO_VALIDATION, SELECTED_ON_TEST, Condition, matching, parse_condition
from mdssl.tables.sweep_table import print_sweep_table, sweep_table
from mdssl.tables.view import view
from mdssl.terminal import Terminal, printable


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
        storage: folder or bucket of results.
        method, train_mixture, evaluate: only these; all if empty. Untrained encoders are in the table of every mixture.
        probe: only this one; all if None.
        features: the layer whose scores are shown.

    Raises:
        ValueError: there is no such storage; a method, mixture, dataset, probe or layer that is not in the
            leaderboard; an invalid file.
    """
    console = console or Terminal()
    rows = leaderboard.read(results_in(storage, rows_only=True))
    if rows.empty:
        console.print(_empty(storage), markup=False, soft_wrap=True)
        return
    # Parsed once for all tables. The column is then dropped, because it takes 60 MB for 60,000 rows.
    rows = with_notes(leaderboard.with_settings(rows), storage).drop(columns="config_json")
    wanted = {
        "method": method,
        "train_mixture": train_mixture,
        "eval_dataset": evaluate,
        "probe": [probe] if probe else (),
        # Without scores there is no layer, and failures are still printed.
        "features": [features] if rows["features"].notna().any() else (),
    }
    for name, values in wanted.items():
        found = set(rows[name].dropna().unique()) - {""}
        for value in values:
            check_name(name, value, sorted(found | {plain_name(text) for text in found}))
    mixtures = sorted(set(rows["train_mixture"].unique()) - {""}) or [""]
    mixtures = matching_names(train_mixture, mixtures) if train_mixture else mixtures
    # Rows of trials that were stopped early have no probe.
    is_shown = (rows["features"] == features) & rows["probe"].notna()
    scores = rows.loc[is_shown, ["train_mixture", "eval_dataset", "probe"]].drop_duplicates()
    for mixture in mixtures:
        scored = scores[scores["train_mixture"].isin([mixture, ""])]
        for name in [probe] if probe else sorted(set(scored["probe"])) or [ProbeConfig.probe]:
            found = set(scored.loc[scored["probe"] == name, "eval_dataset"])
            seen = [part for part in mixture.split("+") if part in found]
            datasets = seen + sorted(found - set(seen))
            if evaluate:
                datasets = [one for asked in evaluate for one in matching_names([asked], datasets) or [asked]]
            table = sweep_table(rows, mixtures=[mixture], datasets=datasets, features=features, probe=name)
            # Filtered after the comparison, because the baseline may be among the methods that are not shown.
            if method:
                table = table[table["method"].isin(method)]
            if not table.empty:
                shown = f"top-1 in percent on the test split, {name} probe on {features} features"
                console.print(f"\n{mixture or 'untrained'}: {shown}", markup=False, soft_wrap=True)
                print_sweep_table(table, console)
    if rows.loc[rows["top1"].notna(), "trial_id"].nunique() > 1:
        lacking = "" if rows["val_top1"].notna().any() else f"{NO_VALIDATION} "
        console.print(f"\nnote: {lacking}{SELECTED_ON_TEST}", markup=False, soft_wrap=True)


def print_one_table(
    storage: str | Location,
    *,
    choice: Mapping[str, Sequence[str]],
    where: Sequence[str],
    format: str | None,
    output: str | None,
    **asked: Any,
) -> None:
    """Print a view of the leaderboard, or write it to ``output``.

    Args:
        storage: folder or bucket of results.
        choice: by column, values of which a row must have one; any where there are none.
        where: conditions as texts, see `mdssl.tables.select`.
        format: one of `mdssl.tables.render.FORMATS`; None: as ``output`` ends.
        output: file to write, here or in a bucket; None: print it.
        asked: the other arguments of `mdssl.tables.view.view`.

    Raises:
        ValueError: an invalid argument, or with ``format`` or ``output`` no rows; nothing has been written then.
    """
    name = render.format_for(output, format)
    if output is not None:
        check_regular(Location.of(output), "Name a file, or leave --output out for standard output.")
    conditions = [Condition(column, "=", tuple(values)) for column, values in choice.items() if values]
    conditions += [parse_condition(text) for text in where]
    rows = leaderboard.read(results_in(storage, rows_only=True))
    if rows.empty:
        if format is not None or output is not None:
            # Otherwise a script would continue with the file of an earlier run, or none.
            raise InputError(_empty(storage))
        print(_empty(storage), file=sys.stderr)
        return
    rows = with_notes(leaderboard.with_settings(rows), storage)
    if not any(condition.name == "features" for condition in conditions) and "encoder" in set(rows["features"]):
        # Trials that failed before they were scored have no layer.
        conditions.append(Condition("features", "=", ("encoder", "null")))
    rows = _measured(rows, storage, conditions, asked)
    table = view(rows, where=conditions, **asked)
    if output is None and name == "table":
        render.print_table(table, Terminal())
        return
    data = render.to_bytes(table, name)
    if output is not None or name not in render.WITH_NOTES:
        for note in table.notes:
            print(printable(note), file=sys.stderr)
    if output is not None:
        file = Location.of(output)
        file.parent.check_writable("--output", what="folder of the table")
        file.write_bytes(data)
        print(f"{output}: {len(table.frame):,} rows", file=sys.stderr)
        return
    text = data.decode()
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def _measured(
    rows: pd.DataFrame, storage: str | Location, conditions: Sequence[Condition], asked: Mapping[str, Any]
) -> pd.DataFrame:
    """``rows`` with all measures, if a flag names one that they lack."""
    named = {*asked.get("columns", ()), *(name.removesuffix(":desc") for name in asked.get("sort", ()))}
    named |= {condition.name for condition in conditions}
    if not named & set(MEASURE_NAMES) - set(rows):
        return rows
    kept = matching(rows, [condition for condition in conditions if condition.name == "train_mixture"])
    return with_measures(rows, storage, domains_compared(kept))


def _empty(storage: str | Location) -> str:
    return f"the leaderboard in {storage} is empty: run a sweep, or give another --storage"
