"""``mdssl leaderboard`` with flags that shape one table."""

import io
import os
import re

import pandas as pd
import pytest
from factories import failed, row

from mdssl.cli.main import main
from mdssl.leaderboard.board import read, write_rows


def run(storage, *arguments: str) -> None:
    assert main(["leaderboard", "--storage", str(storage), *arguments]) == 0


def refused(capsys, storage, *arguments: str) -> str:
    """The error message of the command."""
    capsys.readouterr()
    assert main(["leaderboard", "--storage", str(storage), *arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_flags_that_select_rows_combine_with_flags_that_shape_a_table(sweep_results, capsys):
    run(
        sweep_results,
        "--method",
        "mdssl",
        "--evaluate",
        "builtin-digits",
        "--columns",
        "lambda1",
        "top1",
        "--format",
        "csv",
    )
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    board = read(sweep_results, method="mdssl", eval_dataset="builtin-digits")
    assert sorted(found["top1"]) == sorted(board["top1"])


@pytest.mark.parametrize("suffix", ["txt", "md", "csv", "parquet", "tex", "json"])
def test_an_output_file_equals_the_printed_table(sweep_results, suffix, tmp_path, capsys):
    output = tmp_path / "new" / f"table.{suffix}"
    run(sweep_results, "--over-seeds", "--output", str(output))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{output}: 8 rows" in captured.err
    if suffix == "parquet":
        assert len(pd.read_parquet(output)) == 8
        return
    names = {"txt": "table", "md": "markdown", "tex": "latex"}
    run(sweep_results, "--over-seeds", "--format", names.get(suffix, suffix))
    assert output.read_text() == capsys.readouterr().out


def test_the_output_file_can_be_in_a_bucket(sweep_results, bucket):
    run(sweep_results, "--columns", "all", "--output", f"{bucket}/tables/board.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(f"{bucket}/tables/board.parquet")[["trial_id", "top1"]].sort_values(
            ["trial_id", "top1"], ignore_index=True
        ),
        read(sweep_results)[["trial_id", "top1"]].sort_values(["trial_id", "top1"], ignore_index=True),
    )


def test_errors_leave_an_existing_output_file_unchanged(sweep_results, tmp_path, monkeypatch, capsys):
    output = tmp_path / "table.csv"
    output.write_text("before")
    for wrong in (["--where", "lamda1=1"], ["--sort", "top1"], ["--baseline", "mdssl"], ["--format", "latex"]):
        assert re.search("lamda1|top1|mdssl|latex", refused(capsys, sweep_results, "--output", str(output), *wrong))

    def full(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", full)
    assert main(["leaderboard", "--storage", str(sweep_results), "--output", str(output), "--over-seeds"]) == 130
    assert output.read_text() == "before"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_only_encoder_features_are_shown_by_default(storage, capsys):
    write_rows(storage, "1" * 12, [row("svhn", top1=50.5), row("svhn", features="projection", top1=40.5)])
    write_rows(storage, "2" * 12, [failed("no memory", seed=1)])
    run(storage, "--columns", "features", "top1")
    assert "40.5" not in capsys.readouterr().out
    run(storage, "--columns", "features", "top1", "--where", "features=projection")
    assert "50.5" not in capsys.readouterr().out
    run(storage, "--columns", "trial_id", "error", "--where", "status=failed")
    assert "no memory" in capsys.readouterr().out


def test_a_failed_score_does_not_prevent_means_over_seeds(storage, capsys):
    for seed in range(2):
        write_rows(storage, str(seed) * 12, [row("svhn", seed=seed), row("stl10", seed=seed, top1=60.0 + seed)])
    lost = failed("no memory", seed=2, eval_dataset="stl10", probe="lbfgs")
    write_rows(storage, "2" * 12, [row("svhn", seed=2), lost])
    run(storage, "--over-seeds", "--format", "csv")
    found = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert found[["svhn_seeds", "stl10_seeds", "stl10_mean"]].values.tolist() == [[3, 2, 60.5]]


def test_control_characters_do_not_reach_the_terminal(storage, capsys):
    write_rows(storage, "1" * 12, [failed("\x1b[2Jgone", sweep="\x1b]0;title\x07")])
    for shape in ("table", "markdown", "latex"):
        run(storage, "--columns", "sweep", "error", "--format", shape)
        assert "\x1b" not in capsys.readouterr().out
    assert "no row has sweep" in refused(capsys, storage, "--where", "sweep=x")
    run(storage, "--columns", "error", "--format", "csv")
    assert capsys.readouterr().out == "error\n\x1b[2Jgone\n"


def test_an_empty_leaderboard_is_an_error_only_for_output_files_and_data_formats(storage, tmp_path, capsys):
    os.mkdir(storage)
    run(storage, "--over-seeds")
    assert "is empty: run a sweep" in capsys.readouterr().err
    for wanted in (["--output", str(tmp_path / "table.csv")], ["--format", "csv"]):
        assert "is empty: run a sweep" in refused(capsys, storage, *wanted)
    assert os.listdir(tmp_path) == ["results"]


@pytest.mark.parametrize("flags", [[], ["--over-seeds"], ["--output", "table.csv"]])
def test_a_storage_that_is_missing_or_a_file_is_refused(flags, tmp_path, capsys):
    message = refused(capsys, tmp_path / "results", *flags)
    assert "results has no leaderboard and no trials: there is no such folder" in message
    assert "rows.parquet has no rows: there is no such file. Give a" in refused(
        capsys, tmp_path / "rows.parquet", *flags
    )
    (tmp_path / "results").write_bytes(b"what")
    assert "results is a file" in refused(capsys, str(tmp_path / "results"), *flags)


@pytest.mark.parametrize("text", ["{", "", "[]", '{"evaluation": {}, "recipe_version": {'])
def test_a_file_of_rows_with_invalid_settings_is_refused_with_the_trial(text, storage, tmp_path, capsys):
    write_rows(storage, "1" * 12, [row()])
    write_rows(storage, "2" * 12, [row()])
    rows = read(storage)
    rows.loc[rows["trial_id"] == "2" * 12, "config_json"] = text
    rows.to_parquet(tmp_path / "rows.parquet", index=False)
    for flags in ([], ["--over-seeds"]):
        message = refused(capsys, tmp_path / "rows.parquet", *flags)
        assert f"a row of trial {'2' * 12} has an invalid config_json: {text!r}" in message


@pytest.mark.parametrize("flags", [[], ["--over-seeds"], ["--output", "table.csv"]])
def test_an_empty_storage_name_is_refused(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "name of a folder or bucket is empty" in refused(capsys, "", *flags)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_an_output_that_is_no_regular_file_is_refused_and_stays(kind, sweep_results, tmp_path, capsys):
    target = tmp_path / "d.csv"
    {"folder": os.mkdir, "pipe": os.mkfifo}[kind](target)
    before = os.stat(target)
    said = refused(capsys, sweep_results, "--output", str(target))
    assert f"{target} is a " in said and "leave --output out for standard output" in said
    assert (os.stat(target).st_ino, os.listdir(tmp_path)) == (before.st_ino, ["d.csv"])


def test_conditions_without_matches_print_no_rows(sweep_results, capsys):
    run(sweep_results, "--where", "top1>99.5")
    assert capsys.readouterr().out == "no rows to show\n"
    run(sweep_results, "--where", "top1>99.5", "--over-seeds", "--baseline", "simclr", "--format", "csv")
    assert capsys.readouterr().out.count("\n") == 1


def test_twelve_datasets_and_six_settings_fit_in_80_columns_by_default(storage, capsys):
    draws = {"temperature": [0.1, 0.5], "iterations": [100, 48000], "batch_per_domain": [64, 1024]}
    draws |= {"learning_rate": [1.0, 4.0], "seed": [0, 1]}
    scores = []
    for number in range(2):
        own = {name: values[number] for name, values in draws.items()}
        scores += [round(20 + number + dataset * 1.1, 1) for dataset in range(12)]
        rows = [row(f"dataset-{dataset}", top1=scores[-12 + dataset], **own) for dataset in range(12)]
        write_rows(storage, f"{number:012x}", rows)
    run(storage)
    out = capsys.readouterr().out
    table = out.split("\n", 2)[2].partition("\nnote: ")[0]
    assert max(len(line) for line in table.splitlines()) <= 80
    assert all(f"{score:.1f}" in table for score in scores)
