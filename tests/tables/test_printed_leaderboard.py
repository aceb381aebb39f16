"""The leaderboard as text: a table for each mixture and probe, and notes below the tables."""

import io
import json
from pathlib import Path

import pytest
from factories import UNTRAINED, row
from rich.console import Console
from small_board import DATASETS, printed, table, trial

from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.tables.compare import settings_of
from mdssl.tables.printing import print_leaderboard


def leaderboard_text(storage: str, width: int = 80, **asked) -> str:
    out = io.StringIO()
    print_leaderboard(storage, console=Console(file=out, width=width), **asked)
    return out.getvalue()


def test_the_leaderboard_has_a_table_per_mixture_and_probe(swept):
    trial(swept, 9, (11.5, 12.5, 13.5, 14.5), train_mixture="stl10+cifar10", probe="sgd-raw")
    *tables, said = leaderboard_text(swept, width=100).strip().split("\n\n")
    assert said.startswith("note: No trial has a validation score")
    assert [text.splitlines()[0] for text in tables] == [
        "cifar10+svhn: top-1 in percent on the test split, lbfgs probe on encoder features",
        "stl10+cifar10: top-1 in percent on the test split, lbfgs probe on encoder features",
        "stl10+cifar10: top-1 in percent on the test split, sgd-raw probe on encoder features",
    ]
    assert "11.5" not in tables[0]
    # Seen datasets are first, in the order of the mixture. Means: seen (13.5 + 11.5) / 2, unseen (14.5 + 12.5) / 2.
    last = tables[2].splitlines()
    assert last[1].split() == [
        "trial_id",
        "method",
        "λ1",
        "λ2",
        "stl10",
        "cifar10",
        "eurosat",
        "svhn",
        "seen",
        "unseen",
    ]
    assert last[-1].split()[1:] == ["mdssl", "0.9", "0.1", "13.5", "11.5", "14.5", "12.5", "12.5", "13.5"]


def test_the_printed_leaderboard_can_be_filtered(swept):
    trial(swept, 9, (11.5,) * 4, train_mixture="stl10+cifar10")
    asked = {"method": ["mdssl", "random"], "train_mixture": ["cifar10+svhn"], "evaluate": ["stl10"]}
    lines = leaderboard_text(swept, probe="lbfgs", **asked).strip().splitlines()
    assert lines[2].split() == ["trial_id", "method", "λ1", "λ2", "stl10", "unseen", "simclr", "status"]
    assert "No trial has a validation score" in lines[-1] and "optimistic, the more so with more trials" in lines[-1]
    lines = lines[:-2]
    assert [line.split()[1] for line in lines[4:-1]] == ["random", *["mdssl"] * 4]
    # The baseline (44.0 on stl10) is not shown, but the other trials are compared with it.
    assert lines[-2].split() == ["000000000001", "mdssl", "0.9", "0.1", "50.0", "50.0", "+6.0", "finished"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": ["simclrr"]}, "unknown method 'simclrr'. Did you mean 'simclr'.*: mdssl, random, simclr"),
        ({"train_mixture": ["svhn+cifar10"]}, "unknown train_mixture"),
        ({"evaluate": ["stl"]}, "unknown eval_dataset 'stl'.*Did you mean 'stl10'"),
        ({"probe": "sgd-raw"}, "unknown probe 'sgd-raw'; allowed: lbfgs"),
        ({"features": "projection"}, "unknown features 'projection'; allowed: encoder"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_name(swept, asked, message):
    with pytest.raises(ValueError, match=message):
        leaderboard_text(swept, **asked)


def test_an_empty_leaderboard_prints_a_message(storage):
    Path(storage).mkdir()
    assert "is empty: run a sweep" in leaderboard_text(storage)


def test_a_note_lists_scores_that_depend_on_rounding(storage):
    unstable = json.dumps({"evaluation": {"unstable": True, "top1_in_other_order": 51.0}})
    trial(storage, 1, (70, 60, 50, 40), lambda1=0.9, probe="sgd-raw", config_json=unstable)
    trial(storage, 2, (61, 62, 63, 64), lambda1=1.0, probe="sgd-raw")
    df = table(storage, probe="sgd-raw")
    assert df.attrs["notes"] == [
        "unstable: rounding changes scores of sgd-raw for 000000000001 on cifar10, 000000000001 on svhn, 000000000001 "
        "on stl10 and 1 more; --probe sgd is stable"
    ]
    assert "note: unstable: rounding changes" in printed(df)
    assert "note: unstable: rounding changes scores of sgd-raw" in leaderboard_text(storage)
    assert "unstable" not in settings_of(with_settings(read(storage)))


def test_a_note_names_the_best_trial_of_a_mixture_by_validation_score(storage):
    for number, (test, val) in enumerate(((70, 40), (60, 50), (99, None))):
        rows = [row(name, top1=test, val_top1=None if val is None else val + 0.5) for name in DATASETS]
        write_rows(storage, f"{number:012x}", [one | {"lambda2": number / 10} for one in rows])
    write_rows(storage, "9" * 12, [row("svhn", top1=1, val_top1=99.0, train_mixture="svhn+dtd")])
    df = table(storage)
    assert df["val"].fillna(-1).to_dict() == {f"{0:012x}": 40.5, f"{1:012x}": 50.5, f"{2:012x}": -1}
    assert df["seen"].tolist() == [70, 60, 99]
    assert df.attrs["notes"] == ["best trial by validation score: 000000000001, mdssl, val 50.5"]
    both = table(storage, mixtures=["cifar10+svhn", "svhn+dtd"])
    assert both["val"].fillna(-1).tolist() == [40.5, 50.5, -1, 99.0]
    assert [line.split()[-1] for line in printed(df).splitlines()[2:-1]] == ["40.5", "50.5", "-"]
    text = leaderboard_text(storage, train_mixture=["cifar10+svhn"])
    assert "note: best trial by validation score: 000000000001, mdssl, val 50.5" in text
    assert "No trial has a validation score" not in text and "optimistic, the more so with more trials" in text


@pytest.mark.parametrize(("val", "behind"), [(50.0, 2), (44.5, 1), (40.0, 0)])
def test_a_note_reports_trials_that_do_not_exceed_an_untrained_encoder(storage, val, behind):
    for number in range(2):
        rows = [row(name, val_top1=44.0 + number) for name in DATASETS]
        write_rows(storage, f"{number:012x}", [one | {"lambda2": number / 10} for one in rows])
    write_rows(storage, "f" * 12, [row(name, val_top1=val, **UNTRAINED) for name in DATASETS])
    said = f"an untrained encoder has val {val}, which {behind} of 2 trained trials do not exceed: train longer"
    assert any(said in note for note in table(storage).attrs["notes"]) == bool(behind)
