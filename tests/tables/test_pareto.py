"""Pareto fronts of the leaderboard, tested by comparing all pairs of trials."""

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, row, stopped

from mdssl.cli.main import main
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.tables.pareto import objective_values, pareto_front
from mdssl.tables.view import view

DATASETS = ("cifar10", "svhn", "stl10", "eurosat")
OPTIMISTIC = "Best scores are selected on the test split and therefore optimistic, the more so with more trials."


def write(storage: str, number: int, scores: tuple[float, ...], val: tuple = (None,) * 4, **changes) -> None:
    scored = zip(DATASETS, scores, val, strict=True)
    rows = [row(name, top1=top1, val_top1=held_out, **changes) for name, top1, held_out in scored]
    write_rows(storage, f"{number:012x}", rows)


def on_front(storage: str, *names: str, **asked) -> tuple[list[int], str]:
    table = view(with_settings(read(storage)), pareto=names, **asked)
    return sorted({int(trial_id, 16) for trial_id in table.frame["trial_id"]}), " ".join(table.notes)


def test_the_pareto_front_matches_a_comparison_of_all_pairs():
    random = np.random.default_rng(0)
    for _ in range(20):
        # Few distinct values, so that many points are equal in one or both objectives.
        costs, scores = random.integers(0, 8, 40).astype(float), random.integers(0, 8, 40).astype(float)
        costs[random.integers(40)], scores[random.integers(40)] = np.nan, np.nan
        beaten = [
            any(
                (c <= cost and s >= score) and (c < cost or s > score)
                for c, s in zip(costs, scores, strict=True)
                if not np.isnan(c + s)
            )
            for cost, score in zip(costs, scores, strict=True)
        ]
        expected = ~np.array(beaten) & ~np.isnan(costs + scores)
        np.testing.assert_array_equal(pareto_front(costs, scores), expected)


@pytest.fixture
def traded(storage):
    """By test scores on seen and unseen datasets, trials 1 to 3 are on the Pareto front and trial 4 is dominated."""
    write(storage, 1, (70, 60, 20, 10), train_seconds=100.0)
    write(storage, 2, (60, 50, 30, 20), train_seconds=200.0)
    write(storage, 3, (50, 40, 50, 60), train_seconds=300.0)
    write(storage, 4, (55, 45, 29, 19), train_seconds=50.0)
    write(storage, 5, (99, 99, 99, 99), **UNTRAINED)
    write_rows(storage, "6" * 12, [stopped("cifar10", val_linear_top1=99.0)])
    return storage


def test_a_front_by_test_scores_has_a_note_that_they_are_optimistic(traded):
    found, notes = on_front(traded, "seen", "unseen")
    assert found == [1, 2, 3]
    assert f"on the Pareto front of seen and unseen: 3 of 4 trials, by test scores. {OPTIMISTIC}" in notes
    # Computed by hand; the seen datasets are cifar10 and svhn.
    values = objective_values(with_settings(read(traded)), ("seen", "unseen"))
    assert values.loc[f"{3:012x}", ["seen", "unseen"]].tolist() == [45, 55]


def test_fewer_training_hours_are_better(traded):
    # Averages 40, 40, 50, 37 in 100, 200, 300, 50 s.
    assert on_front(traded, "hours", "average")[0] == on_front(traded, "average", "hours")[0] == [1, 3, 4]
    assert on_front(traded, "svhn", "stl10")[0] == [1, 2, 3]


def test_the_front_uses_validation_scores_if_all_trials_have_them(storage):
    write(storage, 1, (70, 60, 40, 30), val=(20, 20, 20, 20))
    write(storage, 2, (60, 50, 30, 20), val=(60, 60, 60, 60))
    found, notes = on_front(storage, "seen", "unseen")
    assert found == [2] and "1 of 2 trials, by validation scores (val_top1)" in notes
    assert OPTIMISTIC not in notes
    write(storage, 3, (10, 10, 10, 10))
    assert on_front(storage, "seen", "unseen")[0] == [1]


def test_mixtures_with_different_seen_datasets_have_separate_fronts(traded):
    write(traded, 7, (1, 1, 1, 1), train_mixture="stl10+eurosat")
    assert on_front(traded, "seen", "unseen")[0] == [1, 2, 3, 7]
    assert on_front(traded, "average", "svhn")[0] == [1, 3, 7]
    assert on_front(traded, "stl10", "svhn")[0] == [1, 2, 3]


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (("seen",), {}, "pareto is seen; it must be two different objectives: seen unseen, average hours"),
        (("seen", "seen"), {}, "two different objectives"),
        (("seen", "svhm"), {}, r"unknown objective 'svhm'.*Did you mean 'svhn'"),
        (("seen", "unseen"), {"over_seeds": True}, "a mean over seeds would be biased"),
    ],
)
def test_invalid_objectives_are_refused(traded, names, asked, message):
    with pytest.raises(ValueError, match=message):
        on_front(traded, *names, **asked)


def test_hours_of_several_devices_and_scores_of_several_probes_are_refused(traded):
    write(traded, 7, (1, 1, 1, 1), device="NVIDIA H200", train_seconds=1.0)
    write(traded, 8, (1, 1, 1, 1), device="cpu", train_seconds=1.0)
    with pytest.raises(ValueError, match="hours on several devices cannot be compared: NVIDIA H200, cpu"):
        on_front(traded, "average", "hours")
    write(traded, 9, (1, 1, 1, 1), probe="sgd")
    with pytest.raises(ValueError, match="one probe, but there are several: lbfgs, sgd"):
        on_front(traded, "seen", "unseen")


def test_the_leaderboard_command_uses_seen_and_unseen_objectives_by_default(traded, capsys):
    assert main(["leaderboard", "--storage", traded, "--pareto"]) == 0
    printed = capsys.readouterr().out
    ids = [line.split()[0] for line in printed.splitlines() if line.startswith("0000")]
    assert {int(trial_id, 16) for trial_id in ids} == {1, 2, 3}
    assert main(["leaderboard", "--storage", traded, "--pareto", "average", "hours", "--format", "csv"]) == 0
    assert set(pd.Series(capsys.readouterr().out.splitlines()[1:]).str[:12]) == {f"{n:012x}" for n in (1, 3, 4)}
