"""Writing and reading rows of the leaderboard, filters, and files of earlier versions."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import failed, row, rows_file, stopped

from mdssl.errors import InputError
from mdssl.leaderboard.board import (
    COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    read,
    read_leaderboard,
    read_rows,
    read_rows_of,
    with_settings,
    write_rows,
)

A, B, C = "a" * 12, "b" * 12, "c" * 12


DESIGNED_TEXT = """
trial_id sweep status error
method train_mixture num_domains lambda1 lambda2 temperature arch stem batching batch_per_domain iterations optimizer
learning_rate precision seed num_clusters warmup_iterations recluster_every epsilon outlier_rule preset
eval_dataset seen features probe top1 top1_sd top5 balanced_accuracy macro_f1 knn_top1
val_top1 val_knn_top1 val_linear_top1 num_classes num_train num_test step
train_seconds eval_seconds gpu_hours num_workers device views_seen views_per_second peak_memory_mb encoder_mb final_loss
config_json data_fingerprint git_commit mdssl_version torch_version ray_version started_at finished_at checkpoint
schema_version
"""


DESIGNED = DESIGNED_TEXT.split()


def test_the_schema_has_the_designed_columns_in_order(storage):
    assert SCHEMA.names == DESIGNED
    assert all(column.meaning for column in COLUMNS)
    write_rows(storage, A, [row()])
    assert list(pd.read_parquet(rows_file(storage, A)).columns) == DESIGNED


def test_written_rows_are_read_back_unchanged(storage):
    rows = [row("svhn", top1=np.float64(61.5)), row("stl10", seen=False, top5=None, views_seen=np.int64(2**40))]
    write_rows(storage, A, rows)
    back = read_rows(storage, A)
    assert [set(found) for found in back] == [set(DESIGNED)] * 2
    started = datetime(2026, 11, 2, 10, 0, 0, 250_000, tzinfo=UTC)
    for found, given in zip(back, rows, strict=True):
        complete = dict.fromkeys(DESIGNED) | {"trial_id": A, "schema_version": SCHEMA_VERSION} | given
        assert found == complete | {"started_at": started}


def test_rows_read_back_can_be_written_with_additional_rows(storage):
    write_rows(storage, A, [row("svhn")])
    write_rows(storage, A, [*read_rows(storage, A), row("stl10", seen=False)])
    assert [found["eval_dataset"] for found in read_rows(storage, A)] == ["svhn", "stl10"]


def test_a_file_has_exactly_the_schema_of_the_leaderboard(storage):
    write_rows(storage, A, [failed()])
    assert pq.read_schema(rows_file(storage, A)).equals(SCHEMA)


def test_writing_replaces_the_whole_file(storage):
    write_rows(storage, A, [row("svhn"), row("stl10")])
    write_rows(storage, A, [failed()])
    assert [found["status"] for found in read_rows(storage, A)] == ["failed"]
    assert [path.name for path in Path(storage, "leaderboard").iterdir()] == [f"{A}.parquet"]


def test_a_trial_without_a_file_has_no_rows(storage):
    assert read_rows(storage, A) == []


@pytest.mark.parametrize("trial_id", ["../../etc/x", "A" * 12, "a" * 11, "a" * 13, "", "a" * 12 + "\n"])
def test_invalid_trial_ids_are_refused(storage, trial_id):
    for use in (lambda: write_rows(storage, trial_id, [row()]), lambda: read_rows(storage, trial_id)):
        with pytest.raises(ValueError, match="12 hex digits"):
            use()
    assert not Path(storage).exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(tpo1=3)], "no such leaderboard columns.*tpo1"),
        ([row(method=None)], "lacks.*method"),
        ([row(top1=None)], "a finished row .* lacks.*top1"),
        ([row(status="done")], "status 'done'"),
        ([row(trial_id=B)], "row of trial bbb"),
        ([row("svhn"), row("svhn")], "repeat a score"),
    ],
)
def test_writing_invalid_rows_raises_an_assertion_error(storage, rows, message):
    with pytest.raises(AssertionError, match=message):
        write_rows(storage, A, rows)
    assert not Path(storage).exists()


def test_an_empty_leaderboard_has_the_same_dtypes_as_a_full_one(storage):
    empty = read(storage)
    write_rows(storage, A, [row(num_clusters=2, seen=True)])
    write_rows(storage, B, [failed()])
    full = read(storage)
    assert (len(empty), len(full)) == (0, 2)
    pd.testing.assert_series_equal(empty.dtypes, full.dtypes)
    assert full.dtypes["seed"] == full.dtypes["num_clusters"] == "Int64"
    assert (full.dtypes["seen"], full.dtypes["top1"]) == ("boolean", "float64")
    assert str(full.dtypes["started_at"]) == "datetime64[ms, UTC]"


@pytest.mark.parametrize(
    ("filters", "trials"),
    [
        ({}, "aabbcd"),
        ({"method": "mdssl"}, "aabbd"),
        ({"lambda1": 1}, "bb"),
        ({"lambda1": [0.9, 1.0]}, "aabbd"),
        ({"lambda1": None}, "c"),
        ({"lambda1": (None, 1.0)}, "bbc"),
        ({"seed": {1}}, "bb"),
        ({"seen": True}, "ab"),
        ({"seen": None}, "d"),
        ({"eval_dataset": ["svhn", "stl10"], "status": "finished", "method": "mdssl"}, "aabb"),
        ({"status": "failed"}, "d"),
        ({"method": "nothing of the kind"}, ""),
        ({"trial_id": []}, ""),
    ],
)
def test_only_rows_that_match_all_filters_are_read(filled, filters, trials):
    found = read(filled, **filters)
    assert "".join(trial_id[0] for trial_id in found["trial_id"]) == trials
    assert list(found.index) == list(range(len(found)))
    pd.testing.assert_series_equal(found.dtypes, read(filled).dtypes)


def test_filters_on_unknown_columns_are_refused_with_the_nearest_name(filled):
    with pytest.raises(ValueError, match=r"unknown leaderboard column 'lamda1'.*Did you mean 'lambda1'"):
        read(filled, lamda1=0.9)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"lambda1": "0.9"}, "filter lambda1 is '0.9'; values of this column are of type double"),
        ({"method": [1, "mdssl"]}, "filter method is 1; values of this column are of type string"),
        ({"features": ["encoder", "encodr"]}, "unknown features 'encodr'. Did you mean 'encoder'"),
        ({"trial_id": A, "eval_dataset": "svnh"}, "unknown eval_dataset 'svnh'. Did you mean 'svhn'"),
    ],
)
def test_the_public_reader_refuses_values_that_no_row_can_have(filled, filters, message):
    with pytest.raises(InputError, match=message):
        read_leaderboard(filled, **filters)


def test_the_public_reader_refuses_a_missing_storage_and_reads_an_empty_one(filled, tmp_path):
    for missing in ("nope", "nope.parquet"):
        with pytest.raises(InputError, match="there is no such"):
            read_leaderboard(tmp_path / missing)
    (tmp_path / "empty").mkdir()
    assert len(read_leaderboard(str(tmp_path / "empty"), method="mdssl")) == 0
    for filters in ({}, {"features": "encoder", "lambda1": (1, None)}, {"train_mixture": ("",)}):
        pd.testing.assert_frame_equal(read_leaderboard(filled, **filters), read(filled, **filters))


@pytest.mark.parametrize(
    "said",
    [
        {"evaluation": {"data_fingerprint": "images"}, "recipe_version": 3, "trial": {"weight_decay": 0.5}},
        {"trial": {"weight_decay": 0.5}, "recipe_version": 3, "evaluation": {"data_fingerprint": "images"}},
        {
            "evaluation": {
                "data_fingerprint": "images",
                "x": {"a": 1, "recipe_version": 9},
                "y": ', "recipe_version": ',
            },
            "recipe_version": 3,
            "trial": {"weight_decay": 0.5},
        },
    ],
)
def test_settings_are_read_from_config_json_in_any_key_order(storage, said):
    write_rows(storage, A, [row("svhn", config_json=json.dumps(said)), row("stl10", config_json=json.dumps(said))])
    write_rows(storage, B, [row("svhn", config_json="{}")])
    found = with_settings(read(storage))
    assert found["eval_fingerprint"].tolist() == ["images", "images", ""]
    assert found["weight_decay"].fillna(-1).tolist() == [0.5, 0.5, -1]
    assert found["recipe_version"].fillna(-1).tolist() == [3, 3, -1]


def test_reading_some_trials_opens_only_their_files(filled):
    (Path(str(filled)) / "leaderboard" / "stray.parquet").write_bytes(b"not a table")
    assert set(read(filled, trial_id=A)["trial_id"]) == set(read(filled, trial_id=[A])["trial_id"]) == {A}
    with pytest.raises(ValueError, match="stray.parquet is not a leaderboard file"):
        read(filled)


def test_trial_ids_may_repeat(filled):
    board = read(filled)
    pd.testing.assert_frame_equal(read(filled, trial_id=board["trial_id"]), board)
    assert {name: len(rows) for name, rows in read_rows_of(filled, [A, B, A]).items()} == {A: 2, B: 2}


def test_plain_pandas_reads_files_with_empty_columns(storage):
    """The first file determines the schema of the folder. Here, all of its optional columns are null."""
    bare = {key: value for key, value in failed().items() if value is not None}
    write_rows(storage, A, [bare | {"lambda1": None, "lambda2": None, "temperature": None}])
    write_rows(storage, B, [row(num_clusters=3, outlier_rule="farthest", top5=99.0, views_seen=7)])
    both = pd.read_parquet(Path(storage, "leaderboard"))
    assert both["outlier_rule"].tolist()[1] == "farthest"
    assert both[["num_clusters", "top5", "views_seen", "lambda1"]].iloc[1].tolist() == [3, 99.0, 7, 0.9]
    assert both.iloc[0][["num_clusters", "top5", "seen", "lambda1"]].isna().all()


@pytest.mark.parametrize("lacking", ["eval_dataset", "features", "step"])
def test_a_stopped_row_requires_dataset_features_and_step_but_no_score(storage, lacking):
    whole = stopped(step=50, val_linear_top1=40.0)
    write_rows(storage, A, [whole])
    (found,) = read_rows(storage, A)
    assert (found["status"], found["step"], found["val_linear_top1"], found["top1"]) == ("stopped", 50, 40.0, None)
    with pytest.raises(AssertionError, match=f"a stopped row of trial {A} lacks \\['{lacking}'\\]"):
        write_rows(storage, A, [whole | {lacking: None}])


VERSION_1 = Path(__file__).parents[1] / "compatibility" / "5dacb93" / "leaderboard"
"""Files that mdssl wrote when the schema had version 1."""


@pytest.mark.parametrize("new_trial", ["0" * 12, "f" * 12])
def test_files_of_version_1_and_of_the_current_version_are_read_together(storage, new_trial):
    folder = Path(shutil.copytree(VERSION_1, Path(storage) / "leaderboard"))
    old = pd.concat([pq.read_table(file).to_pandas() for file in sorted(folder.iterdir())])
    assert "val_top1" not in old and set(old["schema_version"]) == {1}
    write_rows(storage, new_trial, [row("svhn", val_top1=44.0, val_linear_top1=40.0, step=150)])
    both = read(storage)
    assert list(both.columns) == DESIGNED
    assert both.groupby("schema_version").size().to_dict() == {1: len(old), SCHEMA_VERSION: 1}
    before = both[both["schema_version"] == 1]
    assert before[["val_top1", "val_linear_top1", "step"]].isna().all(axis=None)
    assert before["top1"].tolist() == old["top1"].tolist()
    assert both.loc[
        both["schema_version"] == SCHEMA_VERSION, ["val_top1", "val_linear_top1", "step"]
    ].values.tolist() == [[44, 40, 150]]
    bare = pd.read_parquet(folder)
    assert sorted(bare["trial_id"]) == sorted(both["trial_id"])
    assert sorted(bare["top1"].dropna()) == sorted(both["top1"].dropna())
    # With an explicit schema, pandas reads the validation columns for any order of the files.
    assert pd.read_parquet(folder, schema=SCHEMA)["val_top1"].dropna().tolist() == [44.0]


@pytest.mark.parametrize("version", [2, 3])
def test_columns_added_after_the_version_of_a_file_are_read_as_missing(storage, version):
    write_rows(storage, A, [row("svhn", val_top1=44.0, macro_f1=50.0, top1_sd=0.5)])
    file = rows_file(storage, A)
    table = pq.read_table(file).drop_columns([column.name for column in COLUMNS if column.since > version])
    place = table.column_names.index("schema_version")
    pq.write_table(table.set_column(place, "schema_version", pa.array([version])), file, store_schema=False)
    write_rows(storage, B, [row("svhn", macro_f1=60.0)])
    both = read(storage)
    assert list(both.columns) == DESIGNED
    assert both["macro_f1"].isna().tolist() == [True, False] and both["val_top1"].iloc[0] == 44.0


def test_rows_of_version_1_are_upgraded_when_written_again(storage):
    folder = Path(shutil.copytree(VERSION_1, Path(storage) / "leaderboard"))
    trial_id = min(file.stem for file in folder.iterdir())
    rows = read_rows(storage, trial_id)
    write_rows(storage, trial_id, rows)
    assert pq.read_schema(rows_file(storage, trial_id)).equals(SCHEMA)
    assert read_rows(storage, trial_id) == [found | {"schema_version": SCHEMA_VERSION} for found in rows]
