"""Files of the leaderboard: foreign files, files of newer versions, and reading while files are replaced."""

import itertools
import multiprocessing
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import failed, row, rows_file

from mdssl.leaderboard.board import SCHEMA, SCHEMA_VERSION, read, read_rows, write_rows

A, B, C = "a" * 12, "b" * 12, "c" * 12


def table_of(storage: str) -> pa.Table:
    return pq.read_table(rows_file(storage, A))


FOREIGN = {
    "an empty file": (f"{B}.parquet", lambda good: b"", "size is 0 bytes"),
    "a file that was cut off": (f"{B}.parquet", lambda good: good[: len(good) // 2], "truncated"),
    "a text file": ("notes.parquet", lambda good: b"remember the milk, and more", "not Parquet"),
    "a copy": ("copy.parquet", lambda good: good, "rows of another trial"),
    "a copy under another id": (f"{B}.parquet", lambda good: good, "rows of another trial"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused_with_advice(filled, case):
    name, make, why = FOREIGN[case]
    foreign = Path(filled, "leaderboard", name)
    foreign.write_bytes(make(rows_file(filled, A).read_bytes()))
    with pytest.raises(ValueError, match=f"{foreign} is not a leaderboard file: .*{why}.*Move it out of the folder"):
        read(filled)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: pa.table({"x": [1]}), "its columns differ"),
        (lambda table: table.drop_columns("top1"), r"its columns differ \(top1\)"),
        (lambda table: table.append_column("mine", table["top1"]), r"its columns differ \(mine\)"),
        (lambda table: table.select(SCHEMA.names[::-1]), r"its columns differ \(another order\)"),
        (
            lambda table: table.set_column(SCHEMA.names.index("top1"), "top1", pa.array(["good"] * len(table))),
            "a column has another type",
        ),
    ],
)
def test_a_parquet_file_with_wrong_columns_is_refused(filled, change, why):
    pq.write_table(change(table_of(filled)), rows_file(filled, A))
    for use in (lambda: read(filled), lambda: read_rows(filled, A)):
        with pytest.raises(ValueError, match=f"is not a leaderboard file: {why}"):
            use()


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "notes.txt", f"{B}.parquet.bak"])
def test_files_without_the_parquet_suffix_are_ignored(filled, name):
    expected = read(filled)
    Path(filled, "leaderboard", name).write_bytes(b"what")
    pd.testing.assert_frame_equal(read(filled), expected)


def test_a_subfolder_of_the_leaderboard_is_refused(filled):
    Path(filled, "leaderboard", "old").mkdir()
    with pytest.raises(ValueError, match=r"leaderboard/old cannot be read: .*directory.*out of the folder"):
        read(filled)


def test_a_file_of_a_newer_version_is_refused_with_a_hint_to_upgrade(filled):
    newer = table_of(filled)
    place = SCHEMA.names.index("schema_version")
    newer = newer.set_column(place, "schema_version", pa.array([SCHEMA_VERSION + 1] * len(newer)))
    pq.write_table(newer.append_column("of the future", newer["top1"]), rows_file(filled, A))
    with pytest.raises(
        ValueError,
        match=f"{A}.parquet has schema version {SCHEMA_VERSION + 1}, .* reads up to {SCHEMA_VERSION}: upgrade mdssl",
    ):
        read(filled)


@pytest.mark.parametrize("name", [f".{A}.parquet.0123abcd.tmp", "_SUCCESS"])
def test_hidden_files_are_ignored(filled, name):
    Path(filled, "leaderboard", name).write_bytes(b"half a file")
    assert len(read(filled)) == len(pd.read_parquet(Path(filled, "leaderboard"))) == 6


def replace_for_ever(storage: str, trials: list[str]) -> None:
    number = 0
    while True:
        number += 1
        names = [f"dataset-{index}" for index in range(number % 9)]
        rows = [row(name, top1=float(number), config_json="x" * (number * 37 % 2000)) for name in names]
        write_rows(storage, trials[number % len(trials)], rows or [failed("x" * (number % 500), top1=float(number))])


def test_plain_pandas_reads_the_folder_while_files_are_replaced(storage):
    trials = [f"{index:012x}" for index in range(6)]
    for trial_id in trials:
        write_rows(storage, trial_id, [row()])
    folder = Path(storage, "leaderboard")
    writer = multiprocessing.get_context("spawn").Process(target=replace_for_ever, args=(storage, trials), daemon=True)
    writer.start()
    versions = set()
    try:
        # Read until the files have changed many times. The duration depends on the disk.
        for reads in itertools.count():
            if reads >= 40 and len(versions) > 40:
                break
            assert writer.is_alive()
            for df in (pd.read_parquet(folder), read(storage)):
                assert sorted(df["trial_id"].unique()) == trials
                assert df.groupby("trial_id")["top1"].nunique().eq(1).all(), "rows of two versions of one file"
                versions |= set(df["top1"])
    finally:
        writer.kill()
        writer.join()
