"""Write or update the report of a storage."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.progress import Progress

from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.compacted import COPY
from mdssl.leaderboard.files import results_in, trial_ids
from mdssl.paper.ledger import ledger
from mdssl.paper.verdicts import RULE, VERDICTS
from mdssl.report import overview, trial
from mdssl.report.folder import Drawn, Folder, digest
from mdssl.report.pictures import draw_board, draw_trials
from mdssl.storage.location import Location
from mdssl.storage.notes import Notes, read_notes
from mdssl.tables.select import NO_VALIDATION, SELECTED_ON_TEST
from mdssl.terminal import printable

WATCH_SECONDS = 30
_LONGEST_LIST, _SHOWN_OF_LONGER = 12, 10
_SAVE_SECONDS = 5.0
"""Time between saves of the state. After an interruption, the pictures since the last one are drawn again."""
_FILTERS = {"method": "method", "train_mixture": "mixture", "status": "status", "seed": "seed", "probe": "probe"}


@dataclass(frozen=True)
class Report:
    """The result of `write_report`."""

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
    """Write the report of ``storage`` to ``output``, or update the files of an earlier one that are outdated.

    After an interruption, the next call continues. The first page is written last.

    Args:
        storage: folder or bucket of results.
        output: folder or bucket for the report: new, empty or with an earlier report.
        watched: whether the first page reloads itself in the browser.
        progress: whether to show a progress bar on standard error.

    Raises:
        ValueError: there are no results in ``storage``; ``output`` has other files, or the report of another storage;
            a file of the leaderboard is invalid.
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
    table = overview.trial_table(rows) if len(rows) else overview.TrialTable([], [], [])
    shown = list(dict.fromkeys(row.trial_id for row in table.rows))
    for trial_id in shown:
        check_trial_id(trial_id)
    try:
        saved = time.monotonic()
        with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
            for _ in bar.track(draw_trials(storage, folder, shown), total=len(shown), description="trials"):
                if time.monotonic() - saved > _SAVE_SECONDS:
                    folder.save_state()
                    saved = time.monotonic()
        titles = _write_trials(folder, rows[board.columns], shown, read_notes(storage))
        figures = draw_board(board, storage, folder)
        folder.remove_others(set(shown), {picture["file"] for picture in figures["pictures"]})
        unfinished = len(set(trial_ids(storage)) - set(titles))
        _write_index(storage, folder, rows, table, unfinished, titles, figures, watched)
    finally:
        folder.save_state()
    return Report(folder.at("index.html"), len(shown), folder.written, folder.removed)


def watch_report(storage: str | Location, output: str | Location, say: Callable[[str], None] = print) -> None:
    """Update a report every `WATCH_SECONDS` until Ctrl-C; the last update stops the reloading in the browser.

    Updates take at most a tenth of the time: after a long one the pause is longer.

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


def _write_trials(folder: Folder, board: pd.DataFrame, trial_ids: list[str], notes: dict[str, Notes]) -> dict[str, str]:
    """Write a page for each trial; returns their titles in the order of ``trial_ids``."""
    rows: dict[str, list[dict]] = {}
    for row in board.astype(object).where(board.notna(), None).to_dict("records"):
        rows.setdefault(row["trial_id"], []).append(row)
    configs = {trial_id: json.loads(of_trial[0]["config_json"]) for trial_id, of_trial in rows.items()}
    by_sweep: dict[str, list[dict[str, Any]]] = {}
    for trial_id, config in configs.items():
        config["trial"] = trial.all_settings(config["trial"])
        by_sweep.setdefault(rows[trial_id][0]["sweep"], []).append(config["trial"])
    usual = {sweep: trial.usual_settings(trials) for sweep, trials in by_sweep.items()}
    titles = {trial_id: trial.title_of(rows[trial_id][0], configs[trial_id]["trial"]) for trial_id in trial_ids}
    for before, trial_id, after in zip([None, *trial_ids], trial_ids, [*trial_ids[1:], None], strict=False):
        of_trial, config = rows[trial_id], configs[trial_id]
        page = render(
            "trial.html",
            trial_id=trial_id,
            title=titles[trial_id],
            neighbors={name: titles[name] for name in (before, after) if name},
            previous=before,
            next=after,
            rows=of_trial,
            config=config,
            groups=trial.grouped_settings(config["trial"], usual[of_trial[0]["sweep"]]),
            commands=trial.reproduce_commands(of_trial, config),
            pictures=folder.pictures[trial_id]["pictures"],
            noted=notes.get(trial_id, Notes()),
        )
        folder.write(f"trials/{trial_id}.html", page)
    return titles


def _write_index(
    storage: Location,
    folder: Folder,
    rows: pd.DataFrame,
    table: overview.TrialTable,
    unfinished: int,
    titles: dict[str, str],
    figures: Drawn,
    watched: bool,
) -> None:
    claims = ledger(rows)
    folder.write("ledger.csv", _csv(claims.assign(trial_ids=claims["trial_ids"].map(" ".join))))
    if len(rows):
        folder.write("leaderboard.csv", _csv(rows[leaderboard.SCHEMA.names].drop(columns="config_json")))
    else:
        folder.remove("leaderboard.csv")
    choices = {column.name: column.choices for column in table.columns}
    summary = overview.summary(rows) if len(rows) else None
    values = {
        "title": f"Sweeps in {storage.name}",
        "storage": storage.uri,
        "summary": summary,
        "unfinished": unfinished,
        "best": overview.best_scores(rows),
        "selected": overview.selected(rows),
        "selected_on_test": SELECTED_ON_TEST,
        "no_validation": NO_VALIDATION,
        "titles": titles,
        "table": table,
        "filters": [(name, text, choices[name]) for name, text in _FILTERS.items() if len(choices.get(name, ())) > 1],
        "datasets": [column.name for column in table.columns if column.kind == "score"],
        "figures": figures["pictures"],
        "absent": figures.get("absent", {}),
        "rule": RULE,
        "verdicts": VERDICTS,
        "claims": claims.astype(object).where(claims.notna(), None).to_dict("records"),
        "watched_seconds": WATCH_SECONDS if watched else None,
    }
    # The page is written, with the time, only if something else in it has changed.
    made_from = digest(render("index.html", made_at="", **values))
    if not folder.has("index.html", made_from):
        made_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        folder.write("index.html", render("index.html", made_at=made_at, **values), made_from)


def _csv(frame: pd.DataFrame) -> bytes:
    names = map(str, frame.select_dtypes(["object", "string"]))
    texts = {name: frame[name].map(printable, na_action="ignore") for name in names}
    return frame.assign(**texts).to_csv(index=False).encode()


def render(template: str, **values: object) -> bytes:
    """Render the page ``template`` with ``values``, as UTF-8.

    Text is escaped for HTML, and control characters are written as escapes: names and errors never become markup.
    """
    return _TEMPLATES.get_template(template).render(**values).encode()


def listed(names: Iterable[object]) -> str:
    """``a, b and c``; a long list is cut."""
    words = [str(name) for name in names]
    if len(words) > _LONGEST_LIST:
        return f"{', '.join(words[:_SHOWN_OF_LONGER])} and {len(words) - _SHOWN_OF_LONGER} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_LOADER = PackageLoader("mdssl.report")
_TEMPLATES = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_printable,
)
for _name, _file in (("style", "report.css"), ("script", "report.js")):
    _TEMPLATES.globals[_name] = Markup(_LOADER.get_source(_TEMPLATES, _file)[0])
_TEMPLATES.filters |= {
    "from_json": json.loads,
    "listed": listed,
    "each": lambda values: values.dropna().sort_values().unique().tolist(),
    "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
}
