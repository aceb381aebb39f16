"""Write or update the report of a storage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console
from rich.progress import Progress

from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.columns import Row
from mdssl.leaderboard.compacted import COPY
from mdssl.leaderboard.files import results_in, trial_ids
from mdssl.leaderboard.notes import with_notes
from mdssl.paper.ledger import ledger
from mdssl.paper.verdicts import COMPARABLE, RULE, VERDICTS
from mdssl.report import overview, trial
from mdssl.report.answer import answers
from mdssl.report.curves import CURVES, curves_json, update_curves
from mdssl.report.folder import BOARD, Drawn, Folder, digest
from mdssl.report.pictures import draw_board, draw_trials
from mdssl.report.render import render
from mdssl.storage.location import Location
from mdssl.storage.notes import Notes, read_notes
from mdssl.tables.select import NO_VALIDATION, SELECTED_ON_TEST
from mdssl.tables.statistics import CONFIDENCE
from mdssl.terminal import printable
from mdssl.trials.unfinished import trials_without_rows

WATCH_SECONDS = 30
_SAVE_SECONDS = 5.0
"""Time between saves of the state. After an interruption, the pictures since the last one are drawn again."""
_ABOVE_THE_TABLE = ("lambda-heatmap", "importance")
"""Kinds of figures that show which settings matter."""
_MADE_AT, _VERSION = "@made-at@", "@version@"
"""Placeholders for values that are known only after the page is rendered."""


@dataclass(frozen=True)
class Report:
    """The result of `write_report`."""

    index: Location
    trials: int
    written: int
    removed: int

    def __str__(self) -> str:
        removed = f", {self.removed} removed" if self.removed else ""
        return f"{self.index}: {self.trials:,} trial(s), {self.written:,} file(s) written{removed}"


class Content:
    """What the pages of a report show, read from a storage.

    Attributes:
        board, rows: the leaderboard, and the same with all settings.
        table: the table of trials.
        trial_ids: the trials with a row, in the order of the table; ``without_rows`` is the number of the others.
        unscored: the trials with rows of which none is finished.
        unfinished: descriptions of the trials without a row, and of unscored ones that are being trained.
    """

    def __init__(self, storage: Location):
        """Read ``storage``.

        Raises:
            ValueError: a file of the leaderboard is invalid.
        """
        self.storage = storage
        self.board = leaderboard.read(storage)
        self.rows = with_notes(leaderboard.with_settings(self.board), storage)
        nothing = overview.TrialTable([], [], [], pd.DataFrame())
        self.table = overview.trial_table(self.rows) if len(self.rows) else nothing
        self.trial_ids = list(dict.fromkeys(row.trial_id for row in self.table.rows))
        for trial_id in self.trial_ids:
            check_trial_id(trial_id)
        without = sorted(set(trial_ids(storage)) - set(self.trial_ids))
        self.without_rows = len(without)
        finished = set(self.rows.loc[self.rows["status"] == "finished", "trial_id"])
        self.unscored = [trial_id for trial_id in self.trial_ids if trial_id not in finished]
        again = trials_without_rows(storage, self.unscored)
        again = [each for each in again if each["state"] in ("training", "evaluating")]
        self.unfinished = trials_without_rows(storage, without) + again

    @cached_property
    def by_trial(self) -> dict[str, list[Row]]:
        """The rows of each trial, null as None."""
        rows = self.rows[self.board.columns]
        found: dict[str, list[Row]] = {}
        records: list[Any] = rows.astype(object).where(rows.notna(), None).to_dict("records")
        for row in records:
            found.setdefault(row["trial_id"], []).append(row)
        return found

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """By trial what its rows were made from, with the settings that were added since."""
        configs = {trial_id: json.loads(rows[0]["config_json"]) for trial_id, rows in self.by_trial.items()}
        for config in configs.values():
            config["trial"] = trial.all_settings(config["trial"])
        return configs

    @cached_property
    def titles(self) -> dict[str, str]:
        """By trial, in the order of the table."""
        return {id: trial.title_of(self.by_trial[id][0], self.configs[id]["trial"]) for id in self.trial_ids}

    @cached_property
    def usual(self) -> dict[str, dict[str, Any]]:
        """By sweep, the settings of most of its trials."""
        by_sweep: dict[str, list[dict[str, Any]]] = {}
        for trial_id, config in self.configs.items():
            by_sweep.setdefault(self.by_trial[trial_id][0]["sweep"], []).append(config["trial"])
        return {sweep: trial.usual_settings(trials) for sweep, trials in by_sweep.items()}

    @cached_property
    def notes(self) -> dict[str, Notes]:
        """By trial, if it has any."""
        return read_notes(self.storage)

    @cached_property
    def place(self) -> dict[str, int]:
        return {trial_id: place for place, trial_id in enumerate(self.trial_ids)}


def open_results(storage: str | Location) -> Location:
    """Open a storage that has something to report.

    Raises:
        ValueError: there are no results in it.
    """
    storage = results_in(storage)
    if not {"leaderboard", COPY, "trials"} & set(storage.names()):
        raise InputError(
            f"storage {storage} has no leaderboard and no trials, so there is nothing to report; nothing was written. "
            "Give the folder or bucket of a sweep's results with --storage or MDSSL_STORAGE."
        )
    return storage


def write_report(
    storage: str | Location,
    output: str | Location,
    *,
    watched: bool = False,
    progress: bool = False,
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
    storage = open_results(storage)
    folder = Folder(output, storage=storage.uri)
    content = Content(storage)
    shown = content.trial_ids
    try:
        saved = time.monotonic()
        with Progress(console=Console(stderr=True), disable=not progress, transient=True) as bar:
            for _ in bar.track(draw_trials(storage, folder, shown), total=len(shown), description="trials"):
                if time.monotonic() - saved > _SAVE_SECONDS:
                    folder.save_state()
                    saved = time.monotonic()
        for trial_id in shown:
            write_trial(folder, content, trial_id)
        update_curves(storage, folder, content.board)
        figures = draw_board(content.board, storage, folder)
        folder.remove_others(set(shown), {picture["file"] for picture in figures["pictures"]})
        write_index(folder, content, watched=watched)
    finally:
        folder.save_state()
    return Report(folder.at("index.html"), len(shown), folder.written, folder.removed)


def watch_report(
    storage: str | Location,
    output: str | Location,
    say: Callable[[str], None] = print,
) -> None:
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


def write_trial(folder: Folder, content: Content, trial_id: str) -> None:
    """Write the page of one trial, with the pictures that ``folder`` has of it."""
    of_trial, config = content.by_trial[trial_id], content.configs[trial_id]
    place, ids = content.place[trial_id], content.trial_ids
    before, after = (ids[other] if 0 <= other < len(ids) else None for other in (place - 1, place + 1))
    page = render(
        "trial.html",
        trial_id=trial_id,
        title=content.titles[trial_id],
        neighbors={name: content.titles[name] for name in (before, after) if name},
        previous=before,
        next=after,
        rows=of_trial,
        config=config,
        groups=trial.grouped_settings(config["trial"], content.usual[of_trial[0]["sweep"]]),
        commands=trial.reproduce_commands(of_trial, config),
        pictures=folder.pictures[trial_id]["pictures"],
        noted=content.notes.get(trial_id, Notes()),
    )
    folder.write(f"trials/{trial_id}.html", page)


def write_index(folder: Folder, content: Content, *, watched: bool = False, live: bool = False) -> None:
    """Write the first page, with the figures and curves that ``folder`` has, and the tables beside it.

    Args:
        watched: whether it reloads itself every `WATCH_SECONDS`.
        live: whether a dashboard serves the page, which then asks it for new versions.
    """
    rows, table = content.rows, content.table
    claims = ledger(rows)
    folder.write("ledger.csv", _csv(claims.assign(trial_ids=claims["trial_ids"].map(" ".join))))
    if len(rows):
        folder.write("leaderboard.csv", _csv(rows[leaderboard.SCHEMA.names].drop(columns="config_json")))
    else:
        folder.remove("leaderboard.csv")
    figures: Drawn = folder.pictures.get(BOARD, {"made_from": "", "pictures": []})
    above = [each for each in figures["pictures"] if each["kind"] in _ABOVE_THE_TABLE]
    comparable = claims[claims["verdict"].isin(COMPARABLE)]
    page = render(
        "index.html",
        title=f"Sweeps in {content.storage.name}",
        storage=content.storage.uri,
        made_at=_MADE_AT,
        version=_VERSION,
        live=live,
        watched_seconds=WATCH_SECONDS if watched else None,
        summary=overview.summary(rows) if len(rows) else None,
        answers=answers(rows, table.frame) if len(rows) else [],
        confidence=CONFIDENCE,
        without_rows=content.without_rows,
        unfinished=content.unfinished,
        best=overview.best_scores(rows),
        selected_on_test=SELECTED_ON_TEST,
        no_validation=NO_VALIDATION,
        titles=content.titles,
        table=table,
        filters=[column for column in table.columns if column.can_filter],
        curves=Markup(curves_json(folder, content.trial_ids).replace("<", "\\u003c")),
        curve_names=CURVES,
        pictures_above=above,
        pictures_below=[each for each in figures["pictures"] if each not in above],
        absent=figures.get("absent", {}),
        rule=RULE,
        verdicts=VERDICTS,
        claims=comparable.astype(object).where(comparable.notna(), None).to_dict("records"),
        other_claims=claims.loc[~claims["verdict"].isin(COMPARABLE), "verdict"].value_counts().to_dict(),
    )
    # The page is written, with the time, only if something else in it has changed.
    version, made_at = digest(page), f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    page = page.replace(_MADE_AT.encode(), made_at.encode()).replace(_VERSION.encode(), version.encode())
    folder.write("index.html", page, version)


def _csv(frame: pd.DataFrame) -> bytes:
    names = map(str, frame.select_dtypes(["object", "string"]))
    texts = {name: frame[name].map(printable, na_action="ignore") for name in names}
    return frame.assign(**texts).to_csv(index=False).encode()
