"""Names of trials that commands accept: ids, prefixes of ids, best and last."""

import json
from pathlib import Path

import pytest
from factories import failed, row

from mdssl.cli.main import main
from mdssl.leaderboard.board import read, write_rows
from mdssl.tables.trial_name import find_trial, is_trial_name

A, B, C = "0123456789ab", "01239999ffff", "fedcba987654"


def scored(storage, trial_id, *, at="10:00:00", **changes):
    write_rows(storage, trial_id, [row(finished_at=f"2026-11-02T{at}+00:00", **changes)])


def trained(storage, trial_id, status="finished", at="10:00:00"):
    folder = Path(storage) / "trials" / trial_id
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"status": status, "finished_at": f"2026-11-02T{at}+00:00"}))


@pytest.fixture
def storage(tmp_path):
    storage = str(tmp_path / "results")
    scored(storage, A)
    scored(storage, B)
    trained(storage, C)
    return storage


@pytest.mark.parametrize(("name", "found"), [(A, A), ("01234", A), ("01239", B), ("fedc", C), (C, C)])
def test_a_trial_is_found_by_its_id_or_a_prefix(storage, name, found):
    assert find_trial(storage, name) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0123", f"'0123' is 2 trials in .*results: {A}, {B}. Give more digits"),
        ("0123456789ac", f"no trial of .*results is '0123456789ac'. Did you mean {A}"),
        ("aaaa", f"no trial of .* There are: {A}, {B}, {C}. .mdssl leaderboard."),
        ("fed", "'fed' is not a trial id .*at least 4"),
        ("0123456789abc", "is not a trial id"),
        ("../../etc", "'../../etc' is not a trial id"),
        ("0123456789AB", "is not a trial id"),
    ],
)
def test_unknown_or_ambiguous_names_are_refused_with_candidates(storage, name, message):
    with pytest.raises(ValueError, match=message):
        find_trial(storage, name)


def test_the_commands_named_for_a_file_of_rows_read_it(storage, tmp_path):
    read(storage).to_parquet(tmp_path / "rows.parquet", index=False)
    with pytest.raises(ValueError, match="`mdssl leaderboard` lists them, and --storage"):
        find_trial(tmp_path / "rows.parquet", "aaaa")


def test_a_long_list_of_candidates_is_shortened(tmp_path):
    for number in range(20):
        scored(tmp_path, f"aaaa{number:08d}")
    with pytest.raises(ValueError, match="is 20 trials in .*: aaaa00000000, .*aaaa00000007 and 12 more"):
        find_trial(tmp_path, "aaaa")


def test_best_is_selected_by_validation_score_regardless_of_test_scores(storage):
    scored(storage, A, top1=90.0, val_top1=40.0)
    scored(storage, B, top1=10.0, val_top1=60.0)
    assert find_trial(storage, "best") == B


def test_best_requires_validation_scores(storage, tmp_path):
    with pytest.raises(ValueError, match="only test scores, by which none is selected. .mdssl probe TRIAL_ID. adds"):
        find_trial(storage, "best")
    write_rows(tmp_path / "other", A, [failed()])
    with pytest.raises(ValueError, match="no scores"):
        find_trial(tmp_path / "other", "best")


def test_best_is_refused_for_scores_of_several_probes(storage):
    scored(storage, A, val_top1=40.0)
    scored(storage, B, val_top1=60.0, probe="sgd-raw")
    with pytest.raises(ValueError, match=r"of several probes \(lbfgs, sgd-raw\)"):
        find_trial(storage, "best")


def test_last_is_the_trial_that_finished_most_recently(tmp_path):
    scored(tmp_path, A, at="11:00:00")
    scored(tmp_path, C, at="12:00:00")
    write_rows(tmp_path, "b" * 12, [failed(finished_at="2026-11-02T15:00:00+00:00")])
    trained(tmp_path, "e" * 12, status="failed", at="16:00:00")
    assert find_trial(tmp_path, "last") == C
    trained(tmp_path, B, at="13:00:00")
    assert find_trial(tmp_path, "last") == B


def test_last_requires_a_finished_trial(tmp_path):
    trained(tmp_path, A, status="stopped")
    with pytest.raises(ValueError, match="no last trial of .*none has finished"):
        find_trial(tmp_path, "last")


@pytest.mark.parametrize("name", ["lambda-heatmap", "cafe.png", "abc", "cells", "dead:test", "random", ""])
def test_other_words_are_not_trial_names(name):
    assert not is_trial_name(name)


def shown(storage, capsys, *flags):
    assert main(["leaderboard", "--storage", storage, "--format", "csv", *flags]) == 0
    return capsys.readouterr().out.splitlines()[1:]


def test_conditions_and_baselines_accept_trial_names(storage, capsys):
    scored(storage, A, top1=60.0, val_top1=60.0)
    scored(storage, B, top1=50.0, lambda1=1.0)
    columns = ["--columns", "trial_id", "top1"]
    assert shown(storage, capsys, *columns, "--where", "trial_id=01234") == [f"{A},60.0"]
    assert shown(storage, capsys, *columns, "--where", "trial_id!=best") == [f"{B},50.0"]
    assert shown(storage, capsys, *columns, "--where", "trial_id=01239,01234") == [f"{B},50.0", f"{A},60.0"]
    assert shown(storage, capsys, *columns, "--baseline", "best") == [f"{B},50.0,-10.0", f"{A},60.0,"]


def test_rows_of_moved_results_contain_the_current_path_of_the_encoder(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    scored(old, A, checkpoint=f"{old}/trials/{A}/encoder.safetensors")
    write_rows(old, B, [failed()])
    old.rename(new)
    places = read(new).set_index("trial_id")["checkpoint"]
    assert places[A] == f"{new}/trials/{A}/encoder.safetensors"
    assert places.isna()[B]
