"""The compacted copy: all rows of the leaderboard in one file beside its folder, for ten thousand trials and more.

Opening thousands of small files takes most of the time of reading them: 10,000 trials take seconds without a copy, and
tenths of a second with one (bench/leaderboard.py). The files of the trials remain authoritative: the copy records the
size and modification time of each. Readers list the folder in one call, and use only the rows of unchanged files from
the copy; they read new and changed files, and leave out rows of deleted files.
"""

from __future__ import annotations

import io
import json
import logging
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from mdssl.errors import InputError
from mdssl.leaderboard.columns import SCHEMA, SCHEMA_VERSION, as_now
from mdssl.leaderboard.files import SUFFIX, is_file_of_rows, read_file, read_files
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import LEADERBOARD

COPY = "leaderboard-compacted.parquet"
"""Not in the folder: a reader of the folder would count each row twice."""

_FILES = b"mdssl.leaderboard_files"
"""Key of the copy's metadata: JSON, for each trial its number of rows and the stamp of its file."""
_SETTLED_NS = 10 * 10**9
"""Age from which a file's stamp is reliable. File system clocks have ticks, of seconds in object stores: a file that
is written twice in a tick may look the same, so the copy holds no file that was still fresh when it was made."""
_MANY = 200
"""The number of files that take a fifth of a second to read one by one."""

log = logging.getLogger(__name__)


class Compacted(NamedTuple):
    """The result of `compact`: ``file`` has ``rows`` rows of ``trials`` trials, without ``fresh`` others, whose files
    were written in the last seconds."""

    file: Location
    rows: int
    trials: int
    fresh: int

    def __str__(self) -> str:
        fresh = f"; {self.fresh} of the last ten seconds will be read from their files" if self.fresh else ""
        return f"{self.file}: {self.rows:,} rows of {self.trials:,} trials in one file{fresh}"


def compact(storage: str | Location) -> Compacted:
    """Write a new compacted copy from the files of all trials.

    Raises:
        ValueError: there are no files; one of them is not a leaderboard file; or the storage cannot be written, or has
            no modification times.
    """
    storage = Location.of(storage)
    if is_file_of_rows(storage):
        raise InputError(f"{storage} is one file already, so it cannot be compacted.")
    if not _stamps(storage):
        raise InputError(f"the leaderboard in {storage} is empty: run a sweep, or give another --storage.")
    storage.check_writable()
    now = storage.now_ns()
    if now is None:
        raise InputError(
            f"the leaderboard in {storage} cannot be compacted: this kind of storage has no modification times, so "
            "an outdated copy could not be detected. It is read file by file."
        )
    # Listed before the files are read, so that a file that is replaced in the meantime has another stamp.
    listed = _stamps(storage)
    settled = {
        name: stamp
        for name, stamp in listed.items()
        if stamp and stamp[1] is not None and stamp[1] <= now - _SETTLED_NS
    }
    table = read_files([storage / LEADERBOARD / name for name in settled])
    files = {trial_id: [rows, *settled[trial_id + SUFFIX]] for trial_id, rows in _rows_by_trial(table).items()}
    buffer = io.BytesIO()
    table = table.replace_schema_metadata({_FILES: json.dumps(files)})
    pq.write_table(table, buffer, compression="zstd", write_statistics=False, write_page_checksum=True)
    (storage / COPY).write_bytes(buffer.getvalue())
    return Compacted(storage / COPY, len(table), len(files), len(listed) - len(settled))


def renew(storage: str | Location) -> Compacted | None:
    """`compact`, if the copy lacks at least 200 files or their latest state; otherwise do nothing.

    Also returns None if `compact` raises, because the copy only saves time; reading the folder reports the error.
    """
    storage = Location.of(storage)
    listed = _stamps(storage)
    copied = _read_copy(storage / COPY)[0] if len(listed) >= _MANY else {}
    if sum(copied.get(name) != stamp for name, stamp in listed.items()) < _MANY:
        return None
    try:
        return compact(storage)
    except InputError:
        return None


def read_folder(storage: str | Location) -> pa.Table:
    """Read all rows of the leaderboard, sorted by trial, from the compacted copy where it is up to date.

    A ``storage`` that is a Parquet file, such as a copy of that copy, has its rows alone.

    Raises:
        ValueError: a file in the folder is not a leaderboard file, or of a newer version.
    """
    storage = Location.of(storage)
    if is_file_of_rows(storage):
        return read_file(storage)
    listed = _stamps(storage)
    copied, table = _read_copy(storage / COPY)
    unchanged = {name for name, stamp in copied.items() if listed.get(name) == stamp}
    others = read_files([storage / LEADERBOARD / name for name in listed if name not in unchanged])
    if len(unchanged) < len(copied):
        trials = pa.array([name.removesuffix(SUFFIX) for name in unchanged], pa.string())
        table = table.filter(pc.is_in(table["trial_id"], value_set=trials))
    if not len(others) or not len(table):
        return table if len(table) else others
    table = pa.concat_tables([table, others]).combine_chunks()
    # Stable, so rows of one trial, which are all from one of the two, keep their order.
    return table.take(pc.sort_indices(table["trial_id"]))


def _read_copy(file: Location) -> tuple[dict[str, tuple[int, int]], pa.Table]:
    """Stamps by name of the files that are in the copy, and their rows; empty for a damaged copy."""
    try:
        with pq.ParquetFile(pa.BufferReader(file.read_bytes()), page_checksum_verification=True) as parquet:
            table = as_now(parquet.read(use_threads=False))
        files = json.loads((table.schema.metadata or {})[_FILES])
        if not table.schema.equals(SCHEMA) or (pc.max(table["schema_version"]).as_py() or 0) > SCHEMA_VERSION:
            problem = "another version of mdssl made it"
        elif _rows_by_trial(table) != {trial_id: rows for trial_id, (rows, _, _) in files.items()}:
            problem = "rows were added or removed"
        else:
            stamps = {f"{trial_id}{SUFFIX}": (size, written) for trial_id, (_, size, written) in files.items()}
            return stamps, table.replace_schema_metadata()
    except FileNotFoundError:
        return {}, SCHEMA.empty_table()
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
    except (KeyError, ValueError, TypeError, AttributeError):
        problem = "it is not a copy"
    log.warning(
        "%s cannot be used (%s), and each trial's file is read instead; `mdssl leaderboard --compact` writes a new one",
        file,
        problem,
    )
    return {}, SCHEMA.empty_table()


def _stamps(storage: Location) -> dict[str, tuple[int, int | None] | None]:
    """Return size in bytes and time of writing in ns since 1970 of each Parquet file; None for a subfolder.

    Other files are ignored. A folder is not, because pandas reads it as well.
    """
    return {
        name: (info.size, info.mtime_ns) if info.type == pyarrow.fs.FileType.File else None
        for name, info in (storage / LEADERBOARD).listing().items()
        if name.endswith(SUFFIX) or info.type != pyarrow.fs.FileType.File
    }


def _rows_by_trial(table: pa.Table) -> dict[str, int]:
    counts = pc.value_counts(table["trial_id"])
    trial_ids: list[Any] = counts.field("values").to_pylist()
    rows: list[Any] = counts.field("counts").to_pylist()
    return dict(zip(trial_ids, rows, strict=True))
