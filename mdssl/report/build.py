"""Make a report of a storage, or bring one up to date."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.compacted import COPY
from mdssl.leaderboard.opening import results_in, trial_ids
from mdssl.paper.ledger import ledger
from mdssl.paper.verdicts import RULE, VERDICTS, counts
from mdssl.report import overview, pages, pictures, trial
from mdssl.report.folder import Folder, digest
from mdssl.report.table import ReportTable, report_table
from mdssl.storage.location import Location
from mdssl.terminal import printable

WATCH_SECONDS = 30
_REMEMBER_SECONDS = 5.0
"""What an interrupted report may have to draw again."""
_SHORT_ERROR = 240
"""Characters of an error that stand on the page unfolded."""
_FILTERS = {"method": "method", "train_mixture": "mixture", "status": "status", "seed": "seed", "probe": "probe"}
_WHAT = {"average": "all", "MDSSL − SimCLR": "all but CIFAR-100", "disk mb": "disk", "gpus": "GPUs"}


@dataclass(frozen=True)
class Report:
    """What `write_report` did."""

    index: Location
    trials: int
    written: int
    removed: int

    def __str__(self) -> str:
        removed = f", {self.removed} removed" if self.removed else ""
        return f"{self.index}: {self.trials:,} trials, {self.written:,} files written{removed}"


def write_report(
    storage: str | Location, output: str | Location, *, watched: bool = False, progress: bool = False
) -> Report:
    """Write the report of ``storage`` into ``output``; of one that is there only what is no longer true.

    Can be interrupted, and goes on when called again. The first page is written last.

    Args:
        storage: where results live.
        output: a folder or bucket for the report: new, empty or with an earlier one.
        watched: whether the first page renews itself in the browser.
        progress: whether to show a bar on standard error.

    Raises:
        ValueError: there are no results in ``storage``; ``output`` holds something else, or the report of another
            storage; a file of the leaderboard is not one of its own.
    """
    storage = results_in(storage)
    if not {"leaderboard", COPY, "trials"} & set(storage.names()):
        raise InputError(
            f"storage {storage} has no leaderboard and no trials, so there is nothing to report; nothing was written. "
            "Give the folder or bucket of a sweep's results with --storage or MDSSL_STORAGE."
        )
    folder = Folder(output, storage=storage.uri)
    board = leaderboard.read(storage)
    rows = leaderboard.with_settings(board)
    table = report_table(rows) if len(rows) else ReportTable((), ())
    trial_ids = list(dict.fromkeys(row.trial_id for row in table.rows))
    for trial_id in trial_ids:
        check_trial_id(trial_id)
    try:
        _draw(storage, folder, trial_ids, progress)
        titles = _write_trials(folder, rows[board.columns], trial_ids)
        figures = pictures.draw_board(board, storage, folder, pictures.of_board(storage, board))
        folder.remove_others(set(trial_ids), {figure["file"] for figure in figures["figures"]})
        _write_index(storage, folder, rows, table, titles, figures, watched)
    finally:
        folder.remember()
    return Report(folder.at("index.html"), len(trial_ids), folder.written, folder.removed)


def watch_report(storage: str | Location, output: str | Location, say: Callable[[str], None] = print) -> None:
    """Bring a report up to date every `WATCH_SECONDS`, until Ctrl-C, which leaves one that no longer renews itself.

    Where that takes long, as with many figures beside a sweep that needs the cores, it waits longer: a tenth of the
    time goes into the report.

    Raises:
        ValueError: as `write_report`.
    """
    try:
        while True:
            started = time.monotonic()
            report = write_report(storage, output, watched=True, progress=True)
            say(f"{datetime.now():%H:%M:%S} {report}")
            time.sleep(max(WATCH_SECONDS, 9 * (time.monotonic() - started)))
    except KeyboardInterrupt:
        say(str(write_report(storage, output)))


def _draw(storage: Location, folder: Folder, trial_ids: list[str], progress: bool) -> None:
    remembered = time.monotonic()
    with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("trials", total=len(trial_ids))
        for _ in pictures.draw_trials(storage, folder, trial_ids):
            bar.advance(task)
            if time.monotonic() - remembered > _REMEMBER_SECONDS:
                folder.remember()
                remembered = time.monotonic()


def _write_trials(folder: Folder, board: pd.DataFrame, trial_ids: list[str]) -> dict[str, str]:
    """A page for each trial, in the order of ``trial_ids``; returns their titles."""
    by_trial: dict[str, list[dict[str, Any]]] = {}
    for row in board.astype(object).where(board.notna(), None).to_dict("records"):
        by_trial.setdefault(row["trial_id"], []).append(row)
    configs = {trial_id: json.loads(of_trial[0]["config_json"]) for trial_id, of_trial in by_trial.items()}
    settings = {trial_id: trial.own_config(config) for trial_id, config in configs.items()}
    by_sweep: dict[str, list[dict[str, Any]]] = {}
    for trial_id in trial_ids:
        by_sweep.setdefault(by_trial[trial_id][0]["sweep"], []).append(settings[trial_id])
    usual = {sweep: trial.usual_settings(of_sweep) for sweep, of_sweep in by_sweep.items()}
    titles = {trial_id: trial.title_of(by_trial[trial_id][0], settings[trial_id]) for trial_id in trial_ids}
    for before, trial_id, after in zip([None, *trial_ids], trial_ids, [*trial_ids[1:], None], strict=False):
        of_trial, own, drawn = by_trial[trial_id], settings[trial_id], folder.pictures[trial_id]["pictures"]
        groups = trial.settings_of(own, usual[of_trial[0]["sweep"]])
        page = pages.render(
            "trial.html",
            trial_id=trial_id,
            title=titles[trial_id],
            titles={name: titles[name] for name in (before, after) if name},
            previous=before,
            next=after,
            status=", ".join(dict.fromkeys(row["status"] for row in of_trial)),
            errors=_errors(of_trial),
            scores=[row for row in of_trial if row["status"] == "finished"],
            found=[picture for picture in drawn if "file" in picture],
            has_sheet=any(picture.get("file", "").endswith("-neighbours.png") for picture in drawn),
            problems=[picture["problem"] for picture in drawn if "problem" in picture],
            commands=trial.commands_of(of_trial, configs[trial_id] | {"trial": own}),
            groups=groups,
            marked=any(setting.usual for of_group in groups.values() for setting in of_group),
            provenance=trial.provenance_of(of_trial, configs[trial_id]),
        )
        folder.write(f"trials/{trial_id}.html", page)
    return titles


def _write_index(
    storage: Location,
    folder: Folder,
    rows: pd.DataFrame,
    table: ReportTable,
    titles: dict[str, str],
    figures: dict[str, Any],
    watched: bool,
) -> None:
    claims = ledger(rows)
    folder.write("ledger.csv", _csv(claims.assign(trial_ids=claims["trial_ids"].map(" ".join))))
    if len(rows):
        folder.write("leaderboard.csv", _csv(rows[leaderboard.SCHEMA.names].drop(columns="config_json")))
    elif "leaderboard.csv" in folder.place.names():
        folder.remove("leaderboard.csv")
    unfinished = len(set(trial_ids(storage)) - set(titles))
    values = {
        "title": f"Sweeps in {storage.name}",
        "storage": storage.uri,
        "facts": overview.facts(rows, unfinished) if len(rows) else [("Trials", f"0 with a row, {unfinished} without")],
        "notes": [*overview.notes(rows), *table.notes] if len(rows) else [],
        "best": overview.best_scores(rows),
        "titles": titles,
        "table": table,
        "filters": [(name, text, of) for name, text in _FILTERS.items() if len(of := table.choices(name)) > 1],
        "datasets": [column.name for column in table.columns if column.kind == "score"],
        "figures": figures["figures"],
        "absent": figures["absent"],
        "rule": RULE,
        "verdicts": VERDICTS,
        "counts": counts(claims),
        "ledger": _by_table(claims),
        "watched_seconds": WATCH_SECONDS if watched else None,
    }
    # Its time is when something last changed.
    made_from = digest(pages.render("index.html", made_at="", **values))
    if not folder.has("index.html", made_from):
        made_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        folder.write("index.html", pages.render("index.html", made_at=made_at, **values), made_from)


def _by_table(claims: pd.DataFrame) -> list[dict[str, Any]]:
    parts = []
    for source, of_table in claims.groupby("source", sort=False):
        found = ", ".join(f"{count} {verdict}" for verdict, count in counts(of_table).items() if count)
        parts.append(
            {
                "source": source,
                "summary": f"{len(of_table)} claims: {found}",
                "command": of_table["command"].iloc[0],
                "has_ours": bool(of_table["ours"].notna().any()),
                "claims": [_claim(line) for line in of_table.to_dict("records")],
            }
        )
    return parts


def _claim(line: dict[str, Any]) -> dict[str, Any]:
    lambdas = f" λ1 = {line['lambda1']:g}, λ2 = {line['lambda2']:g}" if line["method"] == "mdssl" else ""
    kind = {"mean": "mean, ", "lead": "lead, "}.get(line["kind"], "")
    what = _WHAT.get(line["eval_dataset"], line["eval_dataset"])
    unit = f" {line['unit']}" if line["kind"] == "cost" and line["unit"] else ""
    signed = line["kind"] == "lead"
    return line | {
        "model": line["method"] + lambdas,
        "what": f"{kind}{what}",
        "published": _number(line["published"], signed) + unit,
        "ours": _number(line["ours"], signed) + (unit if pd.notna(line["ours"]) else ""),
        "difference": _number(line["difference"], True),
        "interval": f"{_number(line['low'], signed)} to {_number(line['high'], signed)}"
        if pd.notna(line["low"])
        else "",
        # What differs from the paper's says the recipe already.
        "recipe": "" if line["verdict"] == "different settings" else line["recipe"],
    }


def _number(value: float, signed: bool) -> str:
    if pd.isna(value):
        return ""
    return f"{round(value, 2) + 0.0:+.2f}" if signed else f"{value:.2f}"


def _errors(of_trial: list[dict[str, Any]]) -> list[dict[str, str]]:
    found = []
    for row in of_trial:
        if row["error"]:
            first = row["error"].strip().partition("\n")[0]
            short = first if len(first) <= _SHORT_ERROR else f"{first[:_SHORT_ERROR]} …"
            rest = row["error"] if short != row["error"].strip() else ""
            found.append({"where": row["eval_dataset"] or "", "first": short, "rest": rest})
    return found


def _csv(frame: pd.DataFrame) -> bytes:
    texts = {name: frame[name].map(printable, na_action="ignore") for name in frame.select_dtypes(["object", "string"])}
    return frame.assign(**texts).to_csv(index=False).encode()
