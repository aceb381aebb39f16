"""The leaderboard: a folder of Parquet files, one per trial, that any Parquet reader opens as one table.

A trial's file is replaced whole and has the schema below down to the last type, also where a column holds nothing yet,
so a bare ``pd.read_parquet("results/leaderboard")`` works at any time. A row is one trial on one evaluation dataset,
by one probe of one feature layer; a trial that failed to train is one row with its error and no evaluation dataset.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.config import relevant_settings
from mdssl.errors import InputError, check_name
from mdssl.storage import Location

SCHEMA_VERSION = 1
"""Raise it whenever a column comes, goes or changes its meaning."""

STATUSES = ("finished", "failed", "stopped")

_TEXT, _FLOAT, _INT, _BOOL, _TIME = pa.string(), pa.float64(), pa.int64(), pa.bool_(), pa.timestamp("ms", tz="UTC")


class Column(NamedTuple):
    """A column: its name, its type, what it means and in which unit, and whether every row has a value."""

    name: str
    type: pa.DataType
    meaning: str
    required: bool = False


SETTING_COLUMNS = (
    Column("method", _TEXT, "simclr, mdssl, mdssl-clustered, mdssl-robust, pretrained or random", required=True),
    Column(
        "train_mixture", _TEXT, "training domains in order, cifar10+svhn; empty if nothing was trained", required=True
    ),
    Column("num_domains", _INT, "training domains; 0 if nothing was trained", required=True),
    Column("lambda1", _FLOAT, "weight of the within-domain term (eq. 3)"),
    Column("lambda2", _FLOAT, "weight of the across-domain term (eq. 4)"),
    Column("temperature", _FLOAT, "temperature of the similarities (eq. 1)"),
    Column("arch", _TEXT, "encoder architecture"),
    Column("stem", _TEXT, "first layers: imagenet or cifar"),
    Column("batching", _TEXT, "joint or per-domain encoder passes"),
    Column("batch_per_domain", _INT, "images of each domain in a step, over all workers"),
    Column("iterations", _INT, "training steps"),
    Column("optimizer", _TEXT, "lars, sgd or adamw"),
    Column("learning_rate", _FLOAT, "peak learning rate"),
    Column("precision", _TEXT, "encoder arithmetic: bf16 or fp32"),
    Column("seed", _INT, "of initial weights, batches and views", required=True),
    Column("num_clusters", _INT, "pseudo-domains; null if the domain labels were used"),
    Column("warmup_iterations", _INT, "steps on the union before the first clustering"),
    Column("recluster_every", _INT, "steps between clusterings"),
    Column("epsilon", _FLOAT, "outlier threshold at the start (eq. 5)"),
    Column("outlier_rule", _TEXT, "farthest or runner-up (eq. 5)"),
    Column("preset", _TEXT, "preset that the settings started from"),
)
"""What was asked for. Null where the method has no such setting."""

COLUMNS = (
    Column("trial_id", _TEXT, "12 hex digits that stand for all that can change the encoder", required=True),
    Column("sweep", _TEXT, "sweep that produced the row"),
    Column("status", _TEXT, "finished, failed or stopped", required=True),
    Column("error", _TEXT, "why it failed; null otherwise"),
    *SETTING_COLUMNS,
    Column("eval_dataset", _TEXT, "dataset that was scored; null if the trial failed before"),
    Column("seen", _BOOL, "whether the encoder was trained on that dataset"),
    Column("features", _TEXT, "layer that was scored: encoder or projection"),
    Column("probe", _TEXT, "linear probe, with those of its settings that are not the default"),
    Column("top1", _FLOAT, "linear probe, test split, at the end of training: percent"),
    Column("top5", _FLOAT, "the same, class among the five best: percent; null with five classes or fewer"),
    Column("knn_top1", _FLOAT, "weighted nearest neighbours, test split: percent"),
    Column("num_classes", _INT, "classes of the evaluation dataset"),
    Column("num_train", _INT, "images that the probe was fitted to"),
    Column("num_test", _INT, "images that it was scored on"),
    Column("train_seconds", _FLOAT, "wall time of training, over all resumptions: s"),
    Column("eval_seconds", _FLOAT, "wall time of this score: s"),
    Column("gpu_hours", _FLOAT, "train_seconds times GPUs: h"),
    Column("num_workers", _INT, "training processes"),
    Column("device", _TEXT, "what they ran on"),
    Column("views_seen", _INT, "augmented images that went through the encoder"),
    Column("views_per_second", _FLOAT, "views_seen / train_seconds: 1/s"),
    Column("peak_memory_mb", _FLOAT, "most memory of one worker, the GPU's if it has one: MB"),
    Column("encoder_mb", _FLOAT, "size of the saved encoder: MB"),
    Column("final_loss", _FLOAT, "training loss, mean of the steps of the last report"),
    Column("config_json", _TEXT, "every setting of trial and evaluation, as JSON", required=True),
    Column("data_fingerprint", _TEXT, "what the images were"),
    Column("git_commit", _TEXT, "commit of the code; -dirty where files differed"),
    Column("mdssl_version", _TEXT, "version of this package", required=True),
    Column("torch_version", _TEXT, "version of PyTorch"),
    Column("ray_version", _TEXT, "version of Ray; null if it was not used"),
    Column("started_at", _TIME, "when the trial began: UTC"),
    Column("finished_at", _TIME, "when the row was made: UTC"),
    Column("checkpoint", _TEXT, "where the encoder's weights are"),
    Column("schema_version", _INT, "version of these columns", required=True),
)
"""All columns, in the order of the files."""

SCHEMA = pa.schema([pa.field(column.name, column.type, nullable=not column.required) for column in COLUMNS])

_OF_A_SCORE = ("eval_dataset", "seen", "features", "probe", "top1", "num_classes", "num_train", "num_test")
_READERS = 16
"""Files read at a time: an object store answers in tens of milliseconds, and a leaderboard may have hundreds."""


def write_rows(storage: str | Location, trial_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file of one trial by ``rows``, whole.

    Args:
        storage: where results live; the file is ``leaderboard/<trial_id>.parquet`` in it.
        rows: values by column name. Columns left out are null; times are aware datetimes or ISO 8601 strings.

    Raises:
        ValueError: ``trial_id`` is not one.
        AssertionError: the rows are not what a leaderboard holds, which is an error of the program, not of its user.
    """
    file = _file_of(storage, trial_id)
    complete = [_complete(row, trial_id) for row in rows]
    scores = [(row["eval_dataset"], row["features"], row["probe"]) for row in complete]
    assert len(set(scores)) == len(scores), f"rows of trial {trial_id} repeat a score: {scores}"
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(complete, schema=SCHEMA), buffer)
    file.write_bytes(buffer.getvalue())


def read_rows(storage: str | Location, trial_id: str) -> list[dict[str, Any]]:
    """The rows of one trial by column name, null as None and times as aware datetimes; empty if it has no file.

    Raises:
        ValueError: ``trial_id`` is not one, or its file is not one of ours.
    """
    table = _read_file(_file_of(storage, trial_id))
    return [] if table is None else table.to_pylist()


def read(storage: str | Location, **filters: object) -> pd.DataFrame:
    """The whole leaderboard, or the rows that match all ``filters``.

    Columns and dtypes are always the same, also with no rows: whole numbers are ``Int64`` and ``seen`` is ``boolean``,
    so that a missing value does not change the type of its column.

    Args:
        storage: where results live, the folder above ``leaderboard``.
        filters: a column name with a value, or with a list of values of which a row must have one; None is null:
            ``read("results", method="mdssl", lambda1=[0.9, 1.0])``.

    Raises:
        ValueError: a filter is not a column, or a file in the folder is not one of ours or of a newer version.
    """
    for name in filters:
        check_name("leaderboard column", name, SCHEMA.names)
    if "trial_id" in filters:
        # A trial's rows are in the file of its name, so no other needs to be opened, or to be whole.
        files = [_file_of(storage, str(trial_id)) for trial_id in _values(filters["trial_id"])]
    else:
        folder = Location.of(storage) / "leaderboard"
        files = [folder / name for name in folder.names()]
    with ThreadPoolExecutor(_READERS) as pool:
        tables = [table for table in pool.map(_read_file, files) if table is not None]
    types = {_INT: pd.Int64Dtype(), _BOOL: pd.BooleanDtype()}
    frame = pa.concat_tables([SCHEMA.empty_table(), *tables]).to_pandas(types_mapper=types.get)
    return select(frame, filters).reset_index(drop=True)


def select(df: pd.DataFrame, filters: Mapping[str, object]) -> pd.DataFrame:
    """The rows of ``df`` that match all ``filters``: by column name a value, or a list of values, as for `read`.

    Raises:
        ValueError: a filter is not a column of ``df``.
    """
    for name, wanted in filters.items():
        check_name("leaderboard column", name, df.columns)
        df = df[_matches(df[name], wanted)]
    return df


def with_settings(df: pd.DataFrame) -> pd.DataFrame:
    """``df`` and, from ``config_json``, a column for each setting that has none of its own.

    Such as ``weight_decay``, ``crop_min_area`` or ``recipe_version``, null where the method has no such setting, and
    ``eval_fingerprint``: what the images were that gave the score. Filter by them, or name them in the index of
    `pivot`.
    """
    said = [json.loads(text) for text in df["config_json"]]
    hidden = pd.DataFrame([_settings_without_column(row) for row in said], index=df.index)
    hidden["eval_fingerprint"] = [row.get("evaluation", {}).get("data_fingerprint", "") for row in said]
    return df.join(hidden[[name for name in hidden if name not in df]])


def pivot(
    df: pd.DataFrame,
    *,
    index: Sequence[str] = ("method", "lambda1", "lambda2"),
    columns: str = "eval_dataset",
    values: str = "top1",
) -> pd.DataFrame:
    """Means of ``values`` over seeds, and over nothing else: a row per ``index``, a column per value of ``columns``.

    Unlike pandas' ``pivot_table`` it keeps rows whose index holds a null (a random encoder has no lambda), and refuses
    to mix what cannot be averaged, also where rows differ in nothing but a setting that only ``config_json`` tells.
    Rows without a value in ``columns``, such as those of failed trials, are left out.

    Raises:
        ValueError: a name that is not a column, or rows that differ in a setting that ``index`` does not name.
    """
    index = list(index)
    given = df.columns
    df = with_settings(df) if "config_json" in given else df
    for name in (*index, columns, values):
        check_name("leaderboard column", name, df.columns)
    df = df.dropna(subset=[columns])
    for name, found in mixed_settings(df, [*index, columns]).items():
        mend = f"df[df.{name} == …]" if name in given else f"df = with_settings(df); df[df.{name} == …]"
        raise InputError(
            f"the mean of {values} would mix rows that differ in {name}: {found}. Keep one of them, {mend}, or add "
            f"{name!r} to index."
        )
    groups = df.groupby([*index, columns], dropna=False)
    return groups[values].mean().unstack(columns)


def mixed_settings(df: pd.DataFrame, by: Sequence[str], also: Sequence[str] = ()) -> dict[str, str]:
    """Settings other than the seed in which rows of one group differ, so that their mean would mean nothing.

    Args:
        df: rows, best with all their settings (`with_settings`).
        by: columns of which the rows of one group have the same values.
        also: further columns in which they must not differ.

    Returns:
        By name, in order of the alphabet, the values that there are, for an error message. Empty if means are sound.
    """
    groups = df.groupby(list(by), dropna=False)
    # A seed is what is averaged over, and a preset is but a name for settings that are compared one by one.
    told_apart = {column.name for column in SETTING_COLUMNS} | (set(df.columns) - set(SCHEMA.names))
    told_apart |= {"features", "probe", "data_fingerprint", *also}
    told_apart -= {"seed", "preset", "num_domains", *by}
    return {
        name: ", ".join(str(value) for value in df[name].unique())
        for name in sorted(told_apart & set(df.columns))
        if (groups[name].nunique(dropna=False) > 1).any()
    }


def _settings_without_column(produced_by: dict[str, Any]) -> dict[str, Any]:
    trial = relevant_settings(produced_by.get("trial", {}))
    own = {name: value for name, value in trial.items() if name not in (*SCHEMA.names, "domains")}
    return own | {name: produced_by.get(name) for name in ("recipe_version", "clustering_version")}


def _file_of(storage: str | Location, trial_id: str) -> Location:
    if not re.fullmatch(r"[0-9a-f]{12}", trial_id):
        raise InputError(f"trial id {trial_id!r} is not one: it has 12 hex digits, such as 0123456789ab.")
    return Location.of(storage) / "leaderboard" / f"{trial_id}.parquet"


def _complete(row: dict[str, Any], trial_id: str) -> dict[str, Any]:
    unknown = row.keys() - set(SCHEMA.names)
    assert not unknown, f"no such leaderboard columns: {sorted(unknown)}"
    row = dict.fromkeys(SCHEMA.names) | {"trial_id": trial_id, "schema_version": SCHEMA_VERSION} | row
    assert row["trial_id"] == trial_id, f"a row of trial {row['trial_id']} in the file of {trial_id}"
    assert row["status"] in STATUSES, f"status {row['status']!r}"
    required = [column.name for column in COLUMNS if column.required]
    missing = [
        name for name in required + list(_OF_A_SCORE if row["status"] == "finished" else ()) if row[name] is None
    ]
    assert not missing, f"a {row['status']} row of trial {trial_id} lacks {missing}"
    for name in ("started_at", "finished_at"):
        if isinstance(row[name], str):
            row[name] = datetime.fromisoformat(row[name])
    return row


def _read_file(file: Location) -> pa.Table | None:
    """The table in ``file``, None if there is no such file (any more)."""
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
            table = parquet.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _foreign(file, f"it is not whole, or not Parquet ({str(error).splitlines()[0].rstrip('.')})") from error
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
    try:
        table = table.cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise _foreign(file, f"a column has another type ({error})") from error
    if any(f"{trial_id}.parquet" != file.name for trial_id in table["trial_id"].to_pylist()):
        raise _foreign(file, "it holds rows of another trial, so their scores would count twice")
    return table


def _foreign(file: Location, why: str) -> InputError:
    return InputError(
        f"{file} is not a leaderboard file: {why}. Move it out of the folder; if it was a trial's, the same sweep then "
        "scores the saved encoder again."
    )


def _values(wanted: object) -> list[object]:
    return list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]


def _matches(column: pd.Series, wanted: object) -> pd.Series:
    values = _values(wanted)
    mask = column.isin([value for value in values if value is not None])
    return mask | column.isna() if None in values else mask
