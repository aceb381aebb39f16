"""Print the results of the paper's experiments beside the published numbers, and draw its figures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from mdssl.errors import InputError
from mdssl.leaderboard.board import with_settings
from mdssl.leaderboard.names import plain_name
from mdssl.paper.costs import resources_side_by_side
from mdssl.paper.experiments import EXPERIMENTS, PaperExperiment
from mdssl.paper.printing import print_resources, print_side_by_side
from mdssl.paper.published import model_key, published, side_by_side
from mdssl.storage.location import Location
from mdssl.tables.sweep_table import print_sweep_table, sweep_table
from mdssl.terminal import say


def show_results(
    names: Sequence[str], rows: pd.DataFrame, console: Console, *, probes: Sequence[str], storage: str | Location
) -> None:
    """Print each experiment of ``names``, and draw those that are figures into the folder ``figures`` of the storage.

    Where trials of one model differ in more than the seed, the reason is printed in place of the comparison, and of
    tables with scores, the scores of each.

    Args:
        rows: of the leaderboard, those of the experiments' trials.
        probes: names of the probes with scores to show.
        storage: where results live.
    """
    for name in names:
        console.print()
        chosen = EXPERIMENTS[name]
        if name in set(published()["experiment"]):
            for probe in probes:
                # A failed trial has no probe.
                of_probe = rows[rows["probe"].isna() | (rows["probe"] == probe)]
                try:
                    print_side_by_side(side_by_side(of_probe, name), console)
                except InputError as error:
                    say(console, f"not compared: {error}")
                    _print_scores(name, chosen, _rows_of(chosen, rows), probe, console)
        elif chosen.reports == "resources":
            try:
                print_resources(resources_side_by_side(rows), console)
            except InputError as error:
                say(console, f"not compared: {error}")
        else:
            own = _rows_of(chosen, rows)
            for probe in probes:
                _print_scores(name, chosen, own, probe, console)
            _draw(name, chosen, own, Location.of(storage), console)


def _rows_of(chosen: PaperExperiment, rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` of the experiment's own trials and evaluation datasets; failed trials have no dataset."""
    models = {model_key(one.method, "+".join(one.domains), one.lambda1, one.lambda2) for one in chosen.trials}
    of_rows = rows[["method", "train_mixture", "lambda1", "lambda2"]].itertuples(index=False)
    own = pd.Series([model_key(*row) in models for row in of_rows], index=rows.index, dtype=bool)
    datasets = rows["eval_dataset"].map(plain_name, na_action="ignore")
    return rows[own & (datasets.isna() | datasets.isin(chosen.evaluate))]


def _print_scores(name: str, chosen: PaperExperiment, rows: pd.DataFrame, probe: str, console: Console) -> None:
    console.print(f"{name}: {chosen.title}; top-1 in percent on the test split, {probe} probe", markup=False)
    rows = with_settings(rows)
    found = list(dict.fromkeys(rows["eval_dataset"].dropna()))
    datasets = sorted(found, key=lambda dataset: chosen.evaluate.index(plain_name(dataset)))
    mixtures = list(dict.fromkeys(rows.loc[rows["train_mixture"] != "", "train_mixture"]))
    print_sweep_table(sweep_table(rows, mixtures=mixtures, datasets=datasets, probe=probe), console)


def _draw(name: str, chosen: PaperExperiment, rows: pd.DataFrame, storage: Location, console: Console) -> None:
    # matplotlib takes a second.
    from mdssl.figures import gallery
    from mdssl.figures.saving import to_bytes

    found = gallery(rows, storage)
    entries = [entry for entry in found.entries if entry.name.startswith(chosen.figure)]
    for entry in entries:
        file = storage / "figures" / f"{name}-{entry.name}.svg"
        file.write_bytes(to_bytes(entry.draw(), "svg", title=entry.title, description=f"{entry.caption} {entry.alt}"))
        console.print(f"{file}: {entry.title}", markup=False, soft_wrap=True)
    if not entries:
        reasons = [reason for kind, reason in found.absent.items() if chosen.figure.startswith(kind)]
        reason = reasons[0] if reasons else f"its trials give no {chosen.figure}."
        console.print(f"{name} is not drawn: {reason}", markup=False, soft_wrap=True)
