"""The compacted copy never changes what is read: the files of the trials define the leaderboard."""

import json
import logging
import os
import time
import uuid
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import UNTRAINED, failed, row, rows_file

from mdssl.cli.main import main
from mdssl.errors import InputError
from mdssl.leaderboard import compacted
from mdssl.leaderboard import files as row_files
from mdssl.leaderboard.board import COLUMNS, SCHEMA_VERSION, read, read_rows_of, write_rows
from mdssl.leaderboard.compacted import COPY, compact, renew

A, B, C, D = (letter * 12 for letter in "abcd")


def written_long_ago(storage: str) -> None:
    for number, file in enumerate(sorted(Path(storage, "leaderboard").iterdir())):
        os.utime(file, (time.time() - 3600 - number,) * 2)


def tops(storage: str) -> dict[str, list[float]]:
    """The scores of each trial, in the order of the leaderboard."""
    return {trial_id: list(rows["top1"]) for trial_id, rows in read(storage).groupby("trial_id", sort=False)}


@pytest.fixture
def board(storage):
    """Four compacted trials: two with two scores, an untrained encoder, and a failed trial."""
    write_rows(storage, A, [row("svhn", top1=10.0), row("stl10", top1=11.0, seen=False)])
    write_rows(storage, B, [row("svhn", top1=20.0, seed=1), row("stl10", top1=21.0, seen=False, seed=1)])
    write_rows(storage, C, [row("svhn", top1=30.0, **UNTRAINED)])
    write_rows(storage, D, [failed()])
    written_long_ago(storage)
    assert compact(storage)[1:] == (6, 4, 0)
    return storage


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files of trials that are opened from now on."""
    names = []
    table_in = row_files._table_in
    monkeypatch.setattr(row_files, "_table_in", lambda file: names.append(file.name) or table_in(file))
    return names


@pytest.mark.parametrize("filters", [{}, {"method": "mdssl", "seed": 1}, {"status": "failed"}, {"trial_id": [A, D]}])
def test_reading_the_copy_equals_reading_the_files(board, filters):
    copied = read(board, **filters)
    Path(board, COPY).unlink()
    pd.testing.assert_frame_equal(copied, read(board, **filters))
    assert len(copied) > 0


def test_files_contained_in_the_copy_are_not_opened(board, opened):
    assert len(read(board)) == 6
    assert opened == []


def test_plain_pandas_reads_each_row_once(board):
    bare = pd.read_parquet(Path(board, "leaderboard"))
    assert sorted(bare["trial_id"]) == [A, A, B, B, C, D]
    assert sorted(os.listdir(board)) == ["leaderboard", COPY]


def test_reading_detects_new_changed_and_deleted_trials(board, opened):
    write_rows(board, "b" * 11 + "c", [row("svhn", top1=25.0)])
    write_rows(board, "0" * 12, [row("svhn", top1=1.0)])
    write_rows(board, B, [row("stl10", top1=23.0), row("svhn", top1=22.0), row("dtd", top1=24.0)])
    rows_file(board, C).unlink()
    found = read(board)
    assert set(opened) == {f"{'b' * 11}c.parquet", f"{'0' * 12}.parquet", f"{B}.parquet"}
    assert found["top1"].fillna(-1).tolist() == [1.0, 10.0, 11.0, 23.0, 22.0, 24.0, 25.0, -1.0]
    Path(board, COPY).unlink()
    pd.testing.assert_frame_equal(found, read(board))


def test_a_replaced_file_of_the_same_size_is_detected(board):
    size = rows_file(board, A).stat().st_size
    write_rows(board, A, [row("svhn", top1=12.0), row("stl10", top1=13.0, seen=False)])
    assert rows_file(board, A).stat().st_size == size
    assert tops(board)[A] == [12.0, 13.0]


def test_files_modified_shortly_before_compaction_are_read_directly(board, opened):
    """Two versions written within a tick of the file system's clock have the same modification time."""
    write_rows(board, A, [row("svhn", top1=14.0)])
    assert compact(board)[1:] == (4, 3, 1)
    first = rows_file(board, A).stat()
    write_rows(board, A, [row("svhn", top1=15.0)])
    os.utime(rows_file(board, A), ns=(first.st_atime_ns, first.st_mtime_ns))
    assert rows_file(board, A).stat().st_size == first.st_size
    opened.clear()
    assert tops(board)[A] == [15.0]
    assert opened == [f"{A}.parquet"]


def test_a_leaderboard_with_all_files_deleted_is_empty(board):
    for file in Path(board, "leaderboard").iterdir():
        file.unlink()
    assert read(board).empty


def test_a_copy_from_another_leaderboard_is_ignored(board, tmp_path):
    other = str(tmp_path / "other")
    write_rows(other, A, [row("svhn", top1=77.0)])
    Path(other, COPY).write_bytes(Path(board, COPY).read_bytes())
    assert tops(other) == {A: [77.0]}


def flipped(good: bytes, at: int) -> bytes:
    return good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]


def rewritten(good: bytes, change) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(pa.BufferReader(good))), buffer)
    return buffer.getvalue().to_pybytes()


def of_the_future(table: pa.Table) -> pa.Table:
    place = table.column_names.index("schema_version")
    return table.set_column(place, table.field(place), pa.array([SCHEMA_VERSION + 1] * len(table)))


UNBELIEVABLE = {
    "empty": lambda good: b"",
    "cut off": lambda good: good[: len(good) // 2],
    "text": lambda good: b"remember the milk, and more",
    "a page that rotted": lambda good: flipped(good, 40),
    "an end that rotted": lambda good: flipped(good, len(good) - 6),
    "without stamps": lambda good: rewritten(good, lambda table: table.replace_schema_metadata()),
    "with other stamps": lambda good: rewritten(
        good, lambda table: table.replace_schema_metadata({"mdssl.leaderboard_files": json.dumps([1, 2])})
    ),
    "rows taken away": lambda good: rewritten(good, lambda table: table.slice(1)),
    "rows twice": lambda good: rewritten(good, lambda table: pa.concat_tables([table, table])),
    "another column": lambda good: rewritten(good, lambda table: table.append_column("mine", table["top1"])),
    "a newer version": lambda good: rewritten(good, of_the_future),
}


def test_a_copy_of_version_1_is_read(board, opened, caplog):
    """The copy as mdssl wrote it before there were validation columns."""
    expected = read(board)
    copy = Path(board, COPY)
    new = [column.name for column in COLUMNS if column.since > 1]
    copy.write_bytes(rewritten(copy.read_bytes(), lambda table: table.drop_columns(new)))
    pd.testing.assert_frame_equal(read(board), expected)
    assert (opened, caplog.records) == ([], [])


@pytest.mark.parametrize("case", UNBELIEVABLE)
def test_an_invalid_copy_is_ignored_with_a_warning(board, case, caplog):
    expected = read(board)
    copy = Path(board, COPY)
    copy.write_bytes(UNBELIEVABLE[case](copy.read_bytes()))
    with caplog.at_level(logging.WARNING):
        pd.testing.assert_frame_equal(read(board), expected)
    (record,) = caplog.records
    assert str(copy) in record.getMessage()
    assert "mdssl leaderboard --compact" in record.getMessage()
    caplog.clear()
    compact(board)
    pd.testing.assert_frame_equal(read(board), expected)
    assert not caplog.records


def test_a_foreign_file_is_refused_also_with_a_copy(board):
    Path(board, "leaderboard", "notes.parquet").write_bytes(b"remember the milk, and more")
    for use in (read, compact):
        with pytest.raises(ValueError, match="notes.parquet is not a leaderboard file"):
            use(board) if use is read else (written_long_ago(board), use(board))


def test_a_damaged_file_is_refused_although_the_copy_has_its_rows(board):
    rows_file(board, A).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"{A}.parquet is not a leaderboard file"):
        read(board)


def test_compact_reports_the_numbers_of_rows_and_trials(board):
    write_rows(board, A, [row()])
    assert str(compact(board)) == (
        f"{board}/{COPY}: 4 rows of 3 trials in one file; 1 of the last ten seconds will be read from their files"
    )


def test_the_copy_is_renewed_if_it_lacks_many_files(board, monkeypatch):
    assert renew(board) is None, "four files are too few to compact"
    monkeypatch.setattr(compacted, "_MANY", 2)
    assert renew(board) is None, "the copy contains all files"
    write_rows(board, A, [row("svhn", top1=99.0)])
    assert renew(board) is None, "one new file is too few to compact again"
    write_rows(board, B, [row("svhn", top1=98.0)])
    written_long_ago(board)
    assert renew(board)[1:] == (4, 4, 0)
    assert tops(board)[A] == [99.0]
    Path(board, COPY).unlink()
    Path(board, "leaderboard", "foreign.parquet").write_bytes(b"what")
    written_long_ago(board)
    assert renew(board) is None, "reading the folder reports the foreign file"


def test_an_empty_leaderboard_is_not_compacted(storage):
    with pytest.raises(ValueError, match="is empty: run a sweep"):
        compact(storage)
    assert not Path(storage).exists()


def test_a_storage_without_modification_times_is_not_compacted():
    storage = f"memory://{uuid.uuid4().hex}"
    write_rows(storage, A, [row()])
    with pytest.raises(ValueError, match="cannot be compacted: .*no modification times"):
        compact(storage)
    assert len(read(storage)) == 1


def test_one_foreign_file_among_many_is_refused_by_name(storage):
    for number in range(150):
        write_rows(storage, f"{number:012x}", [row()])
    copy = rows_file(storage, "f" * 12)
    copy.write_bytes(rows_file(storage, f"{7:012x}").read_bytes())
    with pytest.raises(ValueError, match=f"{copy} is not a leaderboard file: it holds rows of another trial"):
        read(storage)
    copy.unlink()
    assert list(read(storage)["trial_id"]) == [f"{number:012x}" for number in range(150)]


def test_a_compacted_file_can_be_read_as_a_leaderboard(board, tmp_path, capsys):
    file = tmp_path / "study.parquet"
    file.write_bytes(Path(board, COPY).read_bytes())
    pd.testing.assert_frame_equal(read(str(file)).drop(columns="checkpoint"), read(board).drop(columns="checkpoint"))
    assert read(str(file))["checkpoint"].isna().all(), "a file of rows has no encoders"
    assert read(str(file), trial_id=[A])["top1"].tolist() == read(board, trial_id=[A])["top1"].tolist()
    outputs = []
    for storage in (board, str(file)):
        assert main(["leaderboard", "--storage", storage, "--columns", "trial_id", "top1", "--format", "csv"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""
    assert main(["status", "--storage", str(file)]) == 2
    assert "give a folder" in capsys.readouterr().err
    assert main(["leaderboard", "--storage", str(file), "--compact"]) == 2
    assert "one file already" in capsys.readouterr().err


def test_a_file_of_rows_with_repeated_scores_or_an_index_is_refused(board, tmp_path):
    rows = pd.read_parquet(Path(board, COPY))
    for name, wrong, message in (
        ("twice", pd.concat([rows, rows[rows["trial_id"] == A]]), rf"repeats 2 row\(s\).* of trial {A} on"),
        ("index", rows[rows["trial_id"] == A].set_axis([3, 5]), "index=False"),
    ):
        wrong.to_parquet(tmp_path / f"{name}.parquet", index=name == "index")
        with pytest.raises(InputError, match=message):
            read(str(tmp_path / f"{name}.parquet"))
    rows[rows["trial_id"] == A].to_parquet(tmp_path / "some.parquet", index=False)
    assert read(str(tmp_path / "some.parquet"))["top1"].tolist() == [10.0, 11.0]


def test_the_rows_of_a_copy_can_be_written_to_another_storage(board, tmp_path):
    other = str(tmp_path / "other")
    for trial_id, rows in read_rows_of(Path(board, COPY), set(read(board)["trial_id"])).items():
        write_rows(other, trial_id, rows)
    pd.testing.assert_frame_equal(read(other).drop(columns="checkpoint"), read(board).drop(columns="checkpoint"))
