"""Tags and notes of trials, in ``notes/`` of the storage. They are no part of a trial's id, and no column of its rows.

Each change is a file of its own, named by its time, which nothing replaces: two people may write at once, also beside
the process that trains. A reader lists one folder and reads a file per command that was given, where a file in each
trial's folder would be a request per trial, ten thousand for a large leaderboard.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from mdssl.errors import InputError, check_tags
from mdssl.storage.location import Location

NOTES = "notes"


@dataclass(frozen=True)
class Notes:
    """What a user has noted on one trial: ``tags``, sorted, and ``note``, a text."""

    tags: tuple[str, ...] = ()
    note: str = ""


def write_notes(
    storage: Location,
    trial_ids: Collection[str],
    *,
    add: Collection[str] = (),
    remove: Collection[str] = (),
    note: str | None = None,
    replace: bool = False,
) -> None:
    """Add and remove tags of trials, and set their note unless it is None.

    Args:
        replace: whether all earlier tags go, and the earlier note.
    """
    check_tags([*add, *remove])
    change = {"trials": sorted(trial_ids), "add": sorted(add), "remove": sorted(remove), "note": note}
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}.json"
    (storage / NOTES / name).write_bytes(json.dumps(change | {"replace": replace}).encode())


def tag_all(storage: Location, trial_ids: Collection[str], tags: Collection[str]) -> None:
    """Add ``tags`` to those of ``trial_ids`` that lack any of them."""
    known = read_notes(storage) if tags else {}
    lacking = [each for each in trial_ids if {*tags} - {*known.get(each, Notes()).tags}]
    if lacking:
        write_notes(storage, lacking, add=tags)


def read_notes(storage: Location) -> dict[str, Notes]:
    """The tags and notes of all trials that have any, by id.

    Raises:
        InputError: a file is damaged.
    """
    found: dict[str, Notes] = {}
    for name in (storage / NOTES).names():
        file = storage / NOTES / name
        try:
            change = json.loads(file.read_bytes())
            for trial_id in change["trials"]:
                before = Notes() if change["replace"] else found.get(trial_id, Notes())
                tags = ({*before.tags} | {*change["add"]}) - {*change["remove"]}
                found[trial_id] = Notes(tuple(sorted(tags)), before.note if change["note"] is None else change["note"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{file} is damaged ({error}). Delete it; the tags that it adds are lost.") from error
    return {trial_id: notes for trial_id, notes in found.items() if notes != Notes()}
