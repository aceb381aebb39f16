"""Tags and notes beside the rows of the leaderboard."""

from __future__ import annotations

import pandas as pd

from mdssl.storage.location import Location
from mdssl.storage.notes import Notes, read_notes

TAGS, NOTE = NOTE_COLUMNS = ("tags", "note")
"""Columns of `with_notes`: the tags of a row's trial, separated by spaces, and its note; null if it has none."""


def with_notes(rows: pd.DataFrame, storage: str | Location) -> pd.DataFrame:
    """``rows`` with the columns `NOTE_COLUMNS`."""
    known = read_notes(Location.of(storage))
    notes = [known.get(trial_id, Notes()) for trial_id in rows["trial_id"]]
    columns = {TAGS: [" ".join(each.tags) or None for each in notes], NOTE: [each.note or None for each in notes]}
    return rows.assign(**{name: pd.Series(texts, rows.index, dtype=object) for name, texts in columns.items()})
