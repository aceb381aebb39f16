"""The replay of searches: costs against values counted by hand, and the information that contenders get."""

import importlib
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import row

from mdssl.leaderboard.board import write_rows
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in


@pytest.fixture(scope="module")
def replays(folder):
    return importlib.import_module("replay")


@pytest.fixture(scope="module")
def search(folder):
    return importlib.import_module("search")


@pytest.fixture
def table(replays):
    """Eight settings, the last two within half a point of the best. Scores at all steps rank the settings equally."""
    points = [
        dict(zip(replays.AXES, (a, b, c, 0.1), strict=True)) for a in (0.9, 1.0) for b in (0.0, 0.1) for c in (1.0, 2.0)
    ]
    value = np.array([10.0, 20.0, 30.0, 35.0, 40.0, 45.0, 49.7, 50.0])
    return replays.Table(points, [10, 20, 30, 40], np.outer(value, [0.5, 0.7, 0.8, 0.9]), value, value - 5)


class Scripted:
    """Proposes settings in the given order, and ends the trials in ``ended`` at their first score."""

    def __init__(self, table, order, ended=()):
        self.table, self.order, self.ended, self.heard = table, order, ended, []

    def propose(self, trial):
        return self.table.points[self.order[trial]] if trial < len(self.order) else None

    def ends(self, trial, step, score):
        self.heard.append((trial, step, score))
        return trial in self.ended

    def finished(self, trial, step, score, value):
        self.heard.append((trial, step, value))


def test_cost_is_the_trained_fraction_of_the_grid(replays, table):
    contender = Scripted(table, [0, 1, 7], ended=[1])
    # The trials take 40, 10 and 40 of 8 × 40 steps.
    assert list(replays.replay(table, contender, 1)) == [(40 / 320, 0), (90 / 320, 7)]
    assert contender.heard[:5] == [(0, 10, 5.0), (0, 20, 7.0), (0, 30, 8.0), (0, 40, 10.0), (1, 10, 10.0)]
    assert contender.heard[-1] == (2, 40, 50.0)


def test_slots_train_in_parallel_and_the_cost_includes_all_slots(replays, table):
    contender = Scripted(table, [0, 1, 7], ended=[1])
    # Setting 7 starts at step 10, when setting 1 has ended, and finishes at step 50.
    assert list(replays.replay(table, contender, 2)) == [(2 * 40 / 320, 0), (2 * 50 / 320, 7)]


def test_steps_that_a_setting_has_trained_are_not_counted_again(replays, table):
    ended_and_again = Scripted(table, [7, 7, 7], ended=[0])
    assert list(replays.replay(table, ended_and_again, 1)) == [(40 / 320, 7), (40 / 320, 7)]


def test_replay_of_a_contender_that_repeats_a_setting_ends(replays, table):
    contender = Scripted(table, [0] * 1000)
    assert len(list(replays.replay(table, contender, 1))) == 10 * len(table.points)


def test_target_is_half_a_point_below_the_best_value_of_the_table(replays, table):
    found = replays.outcome(table, Scripted(table, [0, 5, 6, 7]), 1)
    assert found == replays.Outcome(cost=3 / 8, gap=5.0, test=pytest.approx(44.7))
    never = replays.outcome(table, Scripted(table, [0, 5]), 1)
    assert never.cost == float("inf") and never.gap == 5.0 and np.isnan(never.test)
    nothing = replays.outcome(table, Scripted(table, [7], ended=[0]), 1)
    assert nothing.gap == 50 - np.median(table.value), "no trial has finished, so any setting may be chosen"


@pytest.fixture
def made(replays, table, tmp_path):
    return replays.contenders(table, tmp_path)


def settings_of(replays, table, contender):
    return [setting for _, setting in replays.replay(table, contender, 1)]


@pytest.mark.parametrize("name", ["random", "TPE"])
def test_search_without_early_stopping_trains_each_setting_once(replays, table, made, name):
    orders = [settings_of(replays, table, made[name](seed)) for seed in (0, 1)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1]
    assert settings_of(replays, table, made[name](0)) == orders[0]


def test_asha_ends_trials_outside_the_best_third_of_a_rung(replays, table, made):
    for seed in range(12):
        contender, proposed = made["ASHA"](seed), []
        propose = contender.propose
        contender.propose = lambda trial, propose=propose, proposed=proposed: (
            proposed.append(propose(trial)) or proposed[-1]
        )
        finished = settings_of(replays, table, contender)
        order = [table.number(point) for point in proposed if point]
        assert sorted(order) == list(range(8)), "each setting was started"
        assert finished == finished_by_definition(table, order)
        points = {known.status: [] for known in contender.known}
        for known in contender.known:
            points[known.status].append(table.number(contender.space.fixed | contender.space.point_of(known.config)))
        assert sorted(points["finished"]) == sorted(finished) and points.keys() == {"finished", "stopped"}


def finished_by_definition(table, order):
    """The settings that finish by the definition of ASHA, one trial at a time, with rungs at 10 and 30 steps."""
    at_rung, finished = {10: [], 30: []}, []
    for setting in order:
        for step, there in at_rung.items():
            score = setting_score(table, setting, step)
            ends = bool(there) and score < np.percentile(there, 100 * 2 / 3)
            there.append(score)
            if ends:
                break
        else:
            finished.append(setting)
    return finished


def setting_score(table, setting, step):
    return table.scores[setting, table.steps.index(step)]


@pytest.mark.parametrize("pruner", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_optuna_is_told_which_trials_end_early_and_which_finish(replays, table, made, pruner):
    contender = made[f"Optuna, {pruner}"](0)
    finished = settings_of(replays, table, contender)
    trials = contender.study.trials
    states = {state: [t for t in trials if t.state.name == state] for state in ("COMPLETE", "PRUNED", "RUNNING")}
    assert [t.value for t in states["COMPLETE"]] == [table.value[setting] for setting in finished]
    assert states["PRUNED"] and not states["RUNNING"]
    assert all(max(t.intermediate_values) in (10, 30) for t in states["PRUNED"]), "Optuna ends trials only at its rungs"


def test_asha_makes_the_same_decisions_as_syne_tune(search, replays, table, tmp_path):
    pytest.importorskip("syne_tune")
    points = [point | {"temperature": value} for value in (0.1, 0.2, 0.3) for point in table.points]
    scores = np.random.default_rng(0).uniform(0, 100, (24, 4))
    larger = replays.Table(points, table.steps, scores, scores[:, 0], scores[:, 0])
    assert "all where the rules coincide" in search.check(larger, replays.contenders(larger, tmp_path))


def test_correlations_are_rank_correlations(search, replays, table):
    scores = table.scores.copy()
    scores[:, 0] = -scores[:, 0]
    scores[:, 1] = np.exp(scores[:, 1])
    turned = replays.Table(table.points, table.steps, scores, table.value, table.test[[1, 0, *range(2, 8)]])
    # Spearman's correlation with one pair of neighbors exchanged is 1 - 6 · 2 / (8 · 63).
    ranks = [row[1:] for row in search.rank_correlations(turned)]
    assert ranks == [["-1.00", "-0.98"], ["1.00", "0.98"], ["1.00", "0.98"], ["1.00", "0.98"], ["1.00", "0.98"]]


def test_record_writes_a_table_from_the_trials_of_a_sweep(search, replays, tmp_path, monkeypatch):
    storage = Location.of(tmp_path / "results")
    monkeypatch.setattr(search, "TABLE", tmp_path / "table.parquet")
    for number, lambda2 in enumerate((0.0, 0.4)):
        trial_id = f"{number:012x}"
        shared = {
            "trial_id": trial_id,
            "lambda2": lambda2,
            "learning_rate": 2.0,
            "iterations": 30,
            "train_seconds": 7.0,
        }
        shared |= {"data_fingerprint": "f", "torch_version": "2"}
        scores = {"cifar10": (50.0, 40.0, 44.0), "svhn": (20.0, 30.0, 34.0)}
        write_rows(storage, trial_id, [
            row(name, top1=top1 + number, val_top1=val, val_linear_top1=knn, **shared)
            for name, (top1, val, knn) in scores.items()
        ])  # fmt: skip
        scored = [
            {"step": at, "val_linear_top1/cifar10": 10.0 + at, "val_linear_top1/svhn": 20.0 + at} for at in (10, 20)
        ]
        steps = [{"step": 5}, *scored, {"step": 30}]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(pd.DataFrame(steps)), sink)
        (trial_dir_in(storage, trial_id) / "metrics.parquet").write_bytes(sink.getvalue())
    other = {"trial_id": "f" * 12, "method": "simclr", "lambda1": None, "lambda2": None}
    write_rows(storage, "f" * 12, [row("cifar10", **other), row("svhn", **other)])
    search.record(storage, "python sweeps/search.py")
    table = replays.Table.read(search.TABLE)
    assert table.points == [
        dict(lambda1=0.9, lambda2=value, learning_rate=2.0, temperature=0.1) for value in (0.0, 0.4)
    ]
    assert table.steps == [10, 20, 30]
    assert table.scores.tolist() == [[25.0, 35.0, 39.0]] * 2, "means of both datasets, and last the score of the rows"
    assert table.value.tolist() == [35.0, 35.0] and table.test.tolist() == [35.0, 36.0]
    assert pq.read_schema(search.TABLE).metadata[b"command"] == b"python sweeps/search.py"


def test_recorded_table_is_complete(search, replays):
    table = replays.Table.read(search.TABLE)
    assert len(table.points) >= 48 and len(table.steps) >= 8
    assert len(table.points) == np.prod([len(values) for values in table.choices.values()]), "each combination is there"
    assert search.TABLE.stat().st_size < 100_000
    assert b"learning_rate" in pq.read_schema(search.TABLE).metadata[b"command"]
