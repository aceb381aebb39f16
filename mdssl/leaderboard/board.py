"""The leaderboard: a folder of Parquet files, one per trial, that any Parquet reader opens as one table.

A trial's file is replaced atomically and always has all columns of the schema with their types, so a bare
``pd.read_parquet("results/leaderboard")`` works at any time. A row is one trial on one evaluation dataset, by one probe
of one feature layer; a trial that failed to train is one row with its error and no evaluation dataset.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mdssl.config.methods import CLUSTERED, METHODS, UNTRAINED
from mdssl.config.probe import probe_named_now
from mdssl.config.trial import relevant_settings
from mdssl.errors import InputError, check_name
from mdssl.leaderboard.columns import COLUMNS, SCHEMA, SCHEMA_VERSION, STATUSES, Row
from mdssl.leaderboard.compacted import read_folder
from mdssl.leaderboard.files import file_of, is_file_of_rows, read_files, results_in, to_bytes
from mdssl.leaderboard.names import marked
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import TRIALS

_OF_A_SCORE = ("eval_dataset", "seen", "features", "probe", "top1", "num_classes", "num_train", "num_test")
_NEEDED = {"finished": _OF_A_SCORE, "stopped": ("eval_dataset", "seen", "features", "step")}
"""By status, the columns in which a row must have a value."""

_MANY = 100
"""From this number of trials on, reading the whole leaderboard is faster than reading a file for each."""
_OF_FEW_NAMES = ("method", "train_mixture", "eval_dataset", "features", "probe")
"""Columns in which a name that no row has is probably a typo, as on the command line."""
_SAID_BY_COLUMNS = {*SCHEMA.names, "domains"}
_AFTER_EVALUATION = ', "recipe_version": '


def write_rows(storage: str | Location, trial_id: str, rows: Sequence[Row]) -> None:
    """Replace the file of one trial, atomically, by ``rows``.

    Args:
        storage: folder or bucket of results; the file is ``leaderboard/<trial_id>.parquet`` in it.
        rows: values by column name. Columns left out are null; times are aware datetimes or ISO 8601 strings.

    Raises:
        ValueError: ``trial_id`` is not a trial id.
        AssertionError: the rows are invalid, which is a defect of the program.
    """
    file = file_of(storage, trial_id)
    complete = [_complete(row, trial_id) for row in rows]
    scores = [(row["eval_dataset"], row["features"], row["probe"]) for row in complete]
    assert len(set(scores)) == len(scores), f"rows of trial {trial_id} repeat a score: {scores}"
    file.write_bytes(to_bytes(pa.Table.from_pylist(complete, schema=SCHEMA)))


def read_rows(storage: str | Location, trial_id: str) -> list[Row]:
    """Return the rows of one trial by column name, null as None and times as aware datetimes; empty if it has no file.

    Probes have their present names, see `mdssl.config.probe.probe_named_now`.

    Raises:
        ValueError: ``trial_id`` is not a trial id, or its file is not one of ours.
    """
    return read_rows_of(storage, [trial_id]).get(trial_id, [])


def read_rows_of(storage: str | Location, trial_ids: Collection[str]) -> dict[str, list[Row]]:
    """`read_rows` of several trials, by id; trials without a file are left out.

    Raises:
        ValueError: as `read`.
    """
    found: dict[str, list[Row]] = {}
    for row in _table_of(storage, trial_ids).to_pylist():
        row["probe"] = row["probe"] and probe_named_now(row["probe"])
        found.setdefault(row["trial_id"], []).append(row)
    return found


def _table_of(storage: str | Location, trial_ids: Collection[str]) -> pa.Table:
    # A column of a table may be given, which repeats them.
    trial_ids = list(dict.fromkeys(trial_ids))
    if len(trial_ids) < _MANY and not is_file_of_rows(Location.of(storage)):
        # A trial's rows are in the file of its name, so no other file is opened or checked.
        return read_files([file_of(storage, trial_id) for trial_id in trial_ids])
    # Without measures, which a file of rows may have: other storages have no such columns.
    table = read_folder(storage).select(SCHEMA.names)
    return table.filter(pc.is_in(table["trial_id"], value_set=pa.array(trial_ids, pa.string())))


def read(storage: str | Location, **filters: object) -> pd.DataFrame:
    """Return the whole leaderboard, or the rows that match all ``filters``.

    Columns and dtypes are always the same, also with no rows: whole numbers are ``Int64`` and ``seen`` is ``boolean``,
    so that a missing value does not change the type of its column. Only a file of rows may have more columns: those of
    `mdssl.leaderboard.columns.MEASURES`.

    Args:
        storage: folder or bucket of results, which contains ``leaderboard``; or a Parquet file of rows, such as a copy
            of ``leaderboard-compacted.parquet``.
        filters: a column name with a value, or with a list of values of which a row must have one; None is null:
            ``read("results", method="mdssl", lambda1=[0.9, 1.0])``.

    Raises:
        ValueError: a filter is not a column, or has a value of another type; or a file in the folder is not one of ours
            or of a newer version.
    """
    wanted = _wanted(filters)
    if "trial_id" in wanted:
        table = _table_of(storage, [str(trial_id) for trial_id in wanted["trial_id"]])
    else:
        table = read_folder(storage)
    types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame = table.to_pandas(types_mapper=types.get)
    frame["probe"] = frame["probe"].replace({name: probe_named_now(name) for name in frame["probe"].dropna().unique()})
    # The present location: results may have been copied since they were written.
    encoders = (Location.of(storage) / TRIALS).uri + "/" + frame["trial_id"] + "/encoder.safetensors"
    frame["checkpoint"] = encoders.where(frame["checkpoint"].notna(), None)
    return _filtered(frame, wanted)


def read_leaderboard(storage: str | Location, **filters: object) -> pd.DataFrame:
    """`read` of a storage that exists, which also refuses a method, dataset, layer or probe that no row has.

    Args:
        storage, filters: as for `read`. Of an empty leaderboard, any name gives no rows.

    Raises:
        ValueError: as `read`; there is no such storage; or no row has a name.
    """
    storage = results_in(storage, rows_only=True)
    wanted = _wanted(filters)
    names = [name for name in _OF_FEW_NAMES if name in wanted]
    board = read(storage, **({} if names else wanted))
    for name in names if len(board) else ():
        found = {None, *board[name].dropna()}
        for value in wanted[name]:
            if value not in found:
                check_name(name, value, sorted(found - {None, ""}))
    return _filtered(board, wanted)


def with_settings(df: pd.DataFrame) -> pd.DataFrame:
    """Add a column to ``df`` for each setting that only ``config_json`` has.

    These are, for example, ``weight_decay``, ``crop_min_area`` and ``recipe_version``, null if the method does not have
    the setting, ``eval_fingerprint``, which identifies the images of the score, and ``unstable``, whether rounding
    changes it. Filter by them, or name them in the index of `mdssl.tables.compare.pivot`. ``eval_dataset`` and
    ``train_mixture`` get the names that are shown, see `mdssl.leaderboard.names`. Rows that have these columns, or no
    ``config_json``, are returned as they are.
    """
    if "config_json" not in df or "eval_fingerprint" in df:
        return df
    of_evaluation = cache(_evaluation)
    evaluations, numbers = [], []
    different: dict[str, int] = {}
    produced_by: list[dict[str, Any]] = []
    for position, text in enumerate(df["config_json"]):
        # The evaluation comes first. The rest is long, and the same in all rows of a trial, so it is parsed once.
        evaluation, _, rest = text.partition(_AFTER_EVALUATION)
        found = of_evaluation(evaluation)
        if found is None:
            found, rest = _parsed(text, df, position).get("evaluation", {}), text
        else:
            rest = "{" + _AFTER_EVALUATION.removeprefix(", ") + rest
        evaluations.append(found)
        numbers.append(different.setdefault(rest, len(different)))
        if len(produced_by) < len(different):
            produced_by.append(_parsed(rest, df, position))
    hidden = pd.DataFrame([_settings_without_column(one) for one in produced_by])
    hidden = hidden.reindex(numbers).set_axis(df.index)
    hidden["eval_fingerprint"] = [found.get("data_fingerprint", "") for found in evaluations]
    hidden["unstable"] = [bool(found.get("unstable")) for found in evaluations]
    df = pd.concat([df, hidden[[name for name in hidden if name not in df]]], axis=1)
    variants = [one.get("variants") for one in produced_by]
    return marked(df, [found.get("variant") for found in evaluations], [variants[number] for number in numbers])


def _parsed(text: str, df: pd.DataFrame, position: int) -> dict[str, Any]:
    """Parse ``text``, the ``config_json`` of the row at ``position``, or a part of it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    row = df.iloc[position]
    raise InputError(
        f"a row of trial {row.get('trial_id')} has an invalid config_json: {row['config_json'][:40]!r}; it must "
        "be a JSON object. Restore it from the sweep's leaderboard, or leave the trial out."
    )


def _evaluation(text: str) -> dict[str, Any] | None:
    """Return the evaluation in a ``config_json``, its first member; None if ``text`` is not that member alone."""
    try:
        first = json.loads(text + "}")
    except json.JSONDecodeError:
        return None
    return first["evaluation"] if list(first) == ["evaluation"] else None


def _settings_without_column(produced_by: dict[str, Any]) -> dict[str, Any]:
    trial = relevant_settings(produced_by.get("trial", {}))
    own = {name: value for name, value in trial.items() if name not in _SAID_BY_COLUMNS}
    if trial.get("method") not in UNTRAINED:
        own = {"schedule": "cosine", "init": "random", "encoder_lr_scale": 1.0} | own
        if METHODS.get(trial.get("method", ""), METHODS["simclr"]).has_setting("sampling"):
            own.setdefault("sampling", "balanced")
    if own.get("weights_fingerprint"):
        # What other trials start from, see `mdssl.tables.baseline`.
        own["init_fingerprint"] = own["weights_fingerprint"]
    # Rows without a version of clustering were made by its first version.
    clustering = produced_by.get("recipe_version_clustering", 1 if trial.get("method") in CLUSTERED else None)
    return own | {"recipe_version": produced_by.get("recipe_version"), "recipe_version_clustering": clustering}


def _complete(row: Row, trial_id: str) -> Row:
    unknown = row.keys() - set(SCHEMA.names)
    assert not unknown, f"no such leaderboard columns: {sorted(unknown)}"
    # Rows of an older version, read again, have all columns of this one.
    row = dict.fromkeys(SCHEMA.names) | {"trial_id": trial_id} | row | {"schema_version": SCHEMA_VERSION}
    assert row["trial_id"] == trial_id, f"a row of trial {row['trial_id']} in the file of {trial_id}"
    assert row["status"] in STATUSES, f"status {row['status']!r}"
    required = [column.name for column in COLUMNS if column.required]
    missing = [name for name in [*required, *_NEEDED.get(row["status"], ())] if row[name] is None]
    assert not missing, f"a {row['status']} row of trial {trial_id} lacks {missing}"
    for name in ("started_at", "finished_at"):
        if isinstance(row[name], str):
            row[name] = datetime.fromisoformat(row[name])
    return row


def _wanted(filters: Mapping[str, object]) -> dict[str, list[Any]]:
    """By column, values of which a row must have one."""
    found: dict[str, list[Any]] = {}
    for name, wanted in filters.items():
        check_name("leaderboard column", name, SCHEMA.names)
        found[name] = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
        kind = SCHEMA.field(name).type
        for value in found[name]:
            try:
                pa.array([value], kind, from_pandas=True)
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                raise InputError(f"filter {name} is {value!r}; values of this column are of type {kind}.") from None
    return found


def _filtered(frame: pd.DataFrame, wanted: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    for name, values in wanted.items():
        mask = frame[name].isin([value for value in values if value is not None])
        frame = frame[mask | frame[name].isna() if None in values else mask]
    return frame.reset_index(drop=True)
