"""The Parquet file of one trial: writing its rows, and reading and checking them; and opening a storage for reading."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from mdssl.config.trial import check_trial_id, is_trial_id
from mdssl.errors import InputError
from mdssl.leaderboard.columns import MEASURES, SCHEMA, SCHEMA_VERSION, as_now
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import LEADERBOARD, TRIALS, rows_file_in

SUFFIX = ".parquet"
_LOCAL, _REMOTE = (64, 2), (1, 16)
"""Files per task of a thread, and number of threads. Threads hide the latency of object stores, tens of milliseconds.
On a local disk, 16 threads take twice as long as two, because they only wait for each other."""


def file_of(storage: str | Location, trial_id: str) -> Location:
    """Return the file with the rows of a trial. Raises ``ValueError`` if ``trial_id`` is not a trial id."""
    check_trial_id(trial_id)
    return rows_file_in(storage, trial_id)


def to_bytes(table: pa.Table) -> bytes:
    """Serialize the rows of a trial. Dictionaries, statistics and a second copy of the schema would triple the size
    of a file of a few rows, and slow down every reader."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_dictionary=False, write_statistics=False, store_schema=False)
    return buffer.getvalue()


def read_files(files: Sequence[Location]) -> pa.Table:
    """Return the rows of ``files``, in their order. Files that do not exist are skipped.

    Raises:
        ValueError: a file is not one of ours, or of a newer version.
    """
    at_a_time, readers = _LOCAL if all(file.is_local for file in files) else _REMOTE
    slices = [files[start : start + at_a_time] for start in range(0, len(files), at_a_time)]
    return pa.concat_tables([SCHEMA.empty_table(), *in_threads(_rows_in, slices, readers)])


def read_file(file: Location) -> pa.Table:
    """Return all rows of ``file``, which holds those of any number of trials, as the compacted copy does.

    They have no ``checkpoint``, because there are no encoders beside such a file. It may also have columns of
    `MEASURES`, which are then the last.

    Raises:
        ValueError: as `read_files`; there is no such file, or it repeats a score.
    """
    table = _table_in(file)
    if table is None:
        raise InputError(f"leaderboard file {file} does not exist. Give a folder, a bucket or a Parquet file of rows.")
    measures = [column for column in MEASURES if column.name in table.column_names]
    given = table.select([column.name for column in measures])
    table = _checked(as_now(table.drop_columns(given.column_names)), file)
    scores = table.group_by(["trial_id", "eval_dataset", "features", "probe"]).aggregate([([], "count_all")])
    if repeated := [score for score in scores.to_pylist() if score["count_all"] > 1]:
        first = repeated[0]
        on = f" on {first['eval_dataset']}" if first["eval_dataset"] else ""
        raise InputError(
            f"{file} repeats {len(repeated)} row(s), which would count as several seeds; the first is of trial "
            f"{first['trial_id']}{on}. Write each once: drop_duplicates() removes equal rows."
        )
    place = SCHEMA.get_field_index("checkpoint")
    table = table.set_column(place, SCHEMA.field(place), pa.nulls(len(table), SCHEMA.field(place).type))
    for column in measures:
        table = table.append_column(column.name, _cast(given[column.name], column.type, file))
    return table.replace_schema_metadata()


def _rows_in(files: Sequence[Location]) -> pa.Table:
    found = [(file, table) for file in files if (table := _table_in(file)) is not None]
    if all(table.schema.equals(SCHEMA) and file.name.endswith(SUFFIX) for file, table in found):
        joined = pa.concat_tables([SCHEMA.empty_table(), *(table for _, table in found)]).combine_chunks()
        expected = [file.name.removesuffix(SUFFIX) for file, table in found for _ in range(len(table))]
        newest = pc.max(joined["schema_version"]).as_py() or 0
        if newest <= SCHEMA_VERSION and joined["trial_id"].to_pylist() == expected:
            return joined
    # One of them is wrong: check a file at a time, so that the message can name it.
    tables = [_of_its_trial(_checked(table, file), file) for file, table in found]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _table_in(file: Location) -> pa.Table | None:
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"leaderboard file {file} cannot be read: {error}. Make it readable; if it is not a trial's file, move it "
            "out of the folder."
        ) from error
    try:
        # Not pq.read_table: it starts threads that a process which ends at once, on a damaged file, would not survive.
        with pq.ParquetFile(pa.BufferReader(data)) as parquet:
            return as_now(parquet.read(use_threads=False))
    except (pa.ArrowException, OSError) as error:
        raise _foreign(file, f"it is truncated, or not Parquet ({str(error).splitlines()[0].rstrip('.')})") from error


def _checked(table: pa.Table, file: Location) -> pa.Table:
    if "schema_version" in table.column_names:
        newest = max((v for v in table["schema_version"].to_pylist() if isinstance(v, int)), default=0)
        if newest > SCHEMA_VERSION:
            raise InputError(
                f"leaderboard file {file} has schema version {newest}, and this mdssl reads up to {SCHEMA_VERSION}: "
                "upgrade mdssl, or give another --storage."
            )
    if table.column_names != SCHEMA.names:
        differing = sorted(set(SCHEMA.names) ^ set(table.column_names))
        raise _foreign(file, f"its columns differ ({', '.join(differing[:5]) or 'another order'})")
    return _cast(table, SCHEMA, file)


def _cast(values: Any, target: pa.Schema | pa.DataType, file: Location) -> Any:
    try:
        return values.cast(target)
    except (pa.ArrowException, ValueError) as error:
        raise _foreign(file, f"a column has another type ({error})") from error


def _of_its_trial(table: pa.Table, file: Location) -> pa.Table:
    if any(f"{trial_id}{SUFFIX}" != file.name for trial_id in table["trial_id"].to_pylist()):
        raise _foreign(file, "it holds rows of another trial, so their scores would count twice")
    return table


def _foreign(file: Location, why: str) -> InputError:
    hint = "Move it out of the folder; if it was a trial's, the same sweep then scores the saved encoder again."
    if file.parent.name != LEADERBOARD:
        hint = "`mdssl leaderboard --compact` writes such a file; from pandas, write all columns with index=False."
    return InputError(f"{file} is not a leaderboard file: {why}. {hint}")


def results_in(storage: str | Location, *, rows_only: bool = False) -> Location:
    """Open ``storage`` for reading. Where only the leaderboard is read, it may be a Parquet file of its rows.

    Raises:
        ValueError: it is another file, or it does not exist.
    """
    storage = Location.of(storage)
    kind = storage.filesystem.get_file_info(storage.path).type
    which = "Give the folder or bucket of a sweep's results with --storage or MDSSL_STORAGE."
    if kind == pyarrow.fs.FileType.File and not (rows_only and is_file_of_rows(storage)):
        raise InputError(f"storage {storage} is a file. {which}")
    if kind == pyarrow.fs.FileType.NotFound:
        if rows_only and is_file_of_rows(storage):
            which = "Give a Parquet file of rows, or the folder or bucket of a sweep's results."
            raise InputError(f"storage {storage} has no rows: there is no such file. {which}")
        raise InputError(f"storage {storage} has no leaderboard and no trials: there is no such folder. {which}")
    return storage


def is_file_of_rows(storage: Location) -> bool:
    """Whether ``storage`` names a Parquet file in place of a folder."""
    if not storage.name.endswith(SUFFIX):
        return False
    return storage.filesystem.get_file_info(storage.path).type != pyarrow.fs.FileType.Directory


def trial_ids(storage: Location) -> list[str]:
    """Return the ids of the trials that have a folder, sorted; other files and folders are ignored."""
    found = (storage / TRIALS).listing().items()
    return [name for name, info in found if is_trial_id(name) and info.type == pyarrow.fs.FileType.Directory]
