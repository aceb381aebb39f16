"""The history of a search is read from the storage alone: rows, metrics, and folders of trials without rows."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import CONTEXT

from mdssl.errors import InputError
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.trial_files import write_config
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import extension, trial_dir_in
from mdssl.sweep import ray_session
from mdssl.sweep.grid import evaluation_fingerprint
from mdssl.sweep.launch import run_sweep
from mdssl.sweep.search.history import History
from mdssl.sweep.search.search import Trials
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.rows import failed_row, finished_row, stopped_rows

NAMES = ("tiny-a", "tiny-b")
TRAINING = {
    "step": 90, "train_seconds": 1.0, "gpu_hours": 0.0, "num_workers": 1, "device": "cpu", "views_seen": 9,
    "views_per_second": 9.0, "peak_memory_mb": 1.0, "encoder_mb": 1.0, "final_loss": 1.0, "torch_version": "2",
}  # fmt: skip


@pytest.fixture
def settings(tiny_data):
    return SweepSettings(
        domains=NAMES,
        arch="resnet18",
        batch_per_domain=8,
        iterations=90,
        precision="fp32",
        data=tiny_data,
        search="random",
        trials=9,
        range=(("lambda1", "0.8", "1", "0.05"),),
    )


@pytest.fixture
def space(settings):
    return Space(settings, [{"method": "mdssl"}])


@pytest.fixture
def storage(tmp_path):
    return Location.of(tmp_path / "results")


@pytest.fixture
def history(storage, settings, space):
    return lambda: History(storage, settings, lambda config: space.point_of(config) is not None)


def write_metrics(storage, config, scores, names=NAMES):
    rows = [{"step": step, **{f"val_linear_top1/{name}": value for name in names}} for step, value in scores.items()]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    (trial_dir_in(storage, config.trial_id) / "metrics.parquet").write_bytes(sink.getvalue())


def finish(storage, settings, config, values, started_at="2026-01-01T00:00:00.000+00:00", **changes):
    rows = []
    for name, value in zip(NAMES, values, strict=True):
        score = {
            "eval_dataset": name, "features": "encoder", "probe": "lbfgs", "top1": 10.0, "top5": None, "knn_top1": 10.0,
            "val_top1": value, "num_classes": 4, "num_train": 64, "num_test": 32, "eval_seconds": 1.0,
            "probe_settings": {}, "data_fingerprint": evaluation_fingerprint(settings.data, name),
        }  # fmt: skip
        training = TRAINING | {"started_at": started_at}
        trial_dir = trial_dir_in(storage, config.trial_id)
        rows.append(finished_row(config, training, score | changes, context=CONTEXT, trial_dir=trial_dir))
    write_rows(storage, config.trial_id, rows)


def test_history_reads_trials_of_any_sweep_from_rows_metrics_and_folders(storage, settings, space, history):
    assert history().trials == {}, "the storage does not exist yet"
    configs = [space.trial({"lambda1": value}) for value in (0.8, 0.85, 0.9, 0.95)]
    finish(storage, settings, configs[0], (60.0, 40.0), started_at="2026-01-02T00:00:00.000+00:00")
    write_metrics(storage, configs[0], {10: 30.0, 20: None, 30: 34.0})
    failure = failed_row(configs[1], "it failed", context=CONTEXT, started_at="2026-01-01T00:00:00.000+00:00")
    write_rows(storage, configs[1].trial_id, [failure])
    write_config(trial_dir_in(storage, configs[2].trial_id), configs[2])
    finish(storage, settings, configs[3], (70.0, None), started_at="2026-01-03T00:00:00.000+00:00")
    write_metrics(storage, configs[3], {10: 1.0}, names=("tiny-a",))
    write_metrics(storage, configs[1], {10: 5.0, 20: float("nan")})
    write_metrics(storage, configs[2], {10: 7.0})

    found = history().ordered()
    assert [each.config.lambda1 for each in found] == [0.85, 0.8, 0.95, 0.9], "trials are ordered by their start"
    assert [each.status for each in found] == ["failed", "finished", "finished", "training"]
    assert [each.value for each in found] == [None, 50.0, None, None], "no mean where a dataset has no score"
    assert [each.scores for each in found] == [{10: 5.0}, {10: 30.0, 30: 34.0}, {}, {10: 7.0}]


def test_a_trial_stopped_early_keeps_its_scores(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    ended = TRAINING | {"started_at": "2026-01-01T00:00:00.000+00:00", "step": 30, "variants": {}}
    ended["val_linear_top1"] = dict.fromkeys(NAMES, 20.0)
    write_rows(storage, config.trial_id, stopped_rows(config, ended, context=CONTEXT))
    write_metrics(storage, config, {10: 30.0, 30: 20.0})
    (found,) = history().ordered()
    assert (found.status, found.value, found.last_score) == ("stopped", None, 20.0)


def test_history_reads_ended_and_foreign_trials_once(storage, settings, space, history, monkeypatch):
    config = space.trial({"lambda1": 0.8})
    finish(storage, settings, config, (60.0, 40.0))
    for each in (config, replace(config, weight_decay=0.1)):
        write_config(trial_dir_in(storage, each.trial_id), each)
    monkeypatch.setattr("mdssl.sweep.search.history.read_rows", lambda *arguments: pytest.fail("rows are read again"))
    known = history()
    monkeypatch.setattr(known, "_config_of", lambda trial_id: pytest.fail("a trial is read again"))
    known.refresh()
    assert [(each.status, each.value) for each in known.ordered()] == [("finished", 50.0)]


def test_a_failed_score_beside_others_is_no_failure_of_the_trial(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    finish(storage, settings, config, (60.0, float("nan")))
    score = {"eval_dataset": "tiny-b", "probe": "sgd", "data_fingerprint": "x"}
    failure = failed_row(config, "it failed", context=CONTEXT, started_at="2026-01-02T00:00:00+00:00", score=score)
    write_rows(storage, config.trial_id, [*read_rows(storage, config.trial_id), failure])
    (found,) = history().ordered()
    assert (found.status, found.value) == ("finished", None), "the validation score of tiny-b is no number"


def test_history_ignores_trials_outside_the_space(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    for other in (
        replace(config, lambda1=0.81),
        replace(config, weight_decay=0.1),
        replace(config, data_fingerprint="0"),
    ):
        finish(storage, settings, other, (1.0, 1.0))
        write_config(trial_dir_in(storage, other.trial_id), other)
    assert history().trials == {}


def test_scores_of_another_probe_give_no_value(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    finish(storage, settings, config, (1.0, 1.0), probe="sgd-raw")
    assert [each.value for each in history().ordered()] == [None]


def test_refresh_reads_changes_of_other_processes(storage, settings, space, history):
    known = history()
    config = space.trial({"lambda1": 0.8})
    write_config(trial_dir_in(storage, config.trial_id), config)
    known.refresh()
    assert [each.status for each in known.ordered()] == ["training"]
    finish(storage, settings, config, (60.0, 40.0))
    known.refresh()
    assert [(each.status, each.value) for each in known.ordered()] == [("finished", 50.0)]
    assert known.ordered() == history().ordered(), "refreshing gives the same as reading anew"


def test_a_failed_training_beside_scores_is_failed_also_when_it_is_read_first(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    finish(storage, settings, config, (60.0, 40.0))
    failure = failed_row(config, "it failed", context=CONTEXT, started_at="2026-01-01T00:00:00.000+00:00")
    write_rows(storage, config.trial_id, [*read_rows(storage, config.trial_id), failure])
    known = history()
    assert [each.status for each in known.ordered()] == ["failed"]
    known.update(config.trial_id)
    assert [each.status for each in known.ordered()] == ["failed"]


def test_the_same_extend_chooses_the_same_trials_again(storage, settings, monkeypatch):
    asked = replace(settings, storage=str(storage.path), search="grid", range=(), trials=None, scheduler="asha")
    asked = replace(asked, lambda1=(1.0,), lambda2=(0.0, 0.1, 0.2, 0.3))
    stopped = {config.trial_id: config for config in Trials(storage, asked, ["mdssl"]).configs}
    for score, config in enumerate(stopped.values()):
        ended = TRAINING | {"status": "stopped", "step": 10, "started_at": "2026-01-01T00:00:00.000+00:00"}
        ended |= {"val_linear_top1": dict.fromkeys(NAMES, 20.0 + score), "variants": {}}
        ended |= {"val_fingerprints": {name: evaluation_fingerprint(settings.data, name) for name in NAMES}}
        write_rows(storage, config.trial_id, stopped_rows(config, ended, context=CONTEXT))
        write_metrics(storage, config, {10: 20.0 + score})

    def cannot_start(*arguments):
        raise InputError("Ray cannot start here")

    monkeypatch.setattr(ray_session, "ray_session", cannot_start)
    with pytest.raises(InputError, match="Ray cannot start here"):
        run_sweep("search", replace(asked, extend=2), ["mdssl"])
    assert not [each for each in stopped if extension(trial_dir_in(storage, each)).exists()], "none is recorded yet"

    def left(extend):
        trials = Trials(storage, replace(asked, extend=extend), ["mdssl"])
        trials.record_extended()
        return {work.config.trial_id for work in trials.works() if work.is_left}

    second, best = list(stopped)[-2:]
    assert left(2) == {second, best}
    works = {str(work): work.may_end_early for work in Trials(storage, replace(asked, extend=2), ["mdssl"]).works()}
    assert works == {"stopped": True, "queued to resume": False}, "trials that are extended train to the end"
    assert left(1) == {second, best}, "once chosen, they stay chosen"
    finish(storage, settings, stopped[best], (1.0, 1.0))
    assert left(2) == {second}, "after an interruption"
    finish(storage, settings, stopped[second], (1.0, 1.0))
    assert left(2) == set()
    assert left(3) == {list(stopped)[1]}
    with pytest.raises(InputError, match="extend is 5, but 4 of this sweep's trials ended early"):
        left(5)


def test_a_search_chooses_its_trials_beside_the_baselines(storage, settings):
    asked = replace(
        settings, search="random", range=(), trials=2, temperature=(0.1, 0.2), grid=(("norm", "batch", "group"),)
    )
    trials = Trials(storage, asked, ["random", "simclr", "mdssl"])
    assert [config.method for config in trials.configs] == ["random", "simclr"], "one of each baseline"
    first, second = trials.choose(), trials.choose()
    assert first.config.trial_id != second.config.trial_id and trials.to_choose == 0 and trials.choose() is None
    assert [str(first), first.config.method, first.may_end_early] == ["queued to train", "mdssl", False]
    write_config(trial_dir_in(storage, first.config.trial_id), first.config)
    other = Trials(storage, replace(asked, trials=9), ["mdssl"])
    assert [config.trial_id for config in other.configs] == [first.config.trial_id] and other.to_choose == 8
    write_config(trial_dir_in(storage, second.config.trial_id), second.config)
    chosen = [other.choose().config.trial_id for _ in range(2)]
    assert len({first.config.trial_id, second.config.trial_id, *chosen}) == 4, (
        "also none that another process has begun"
    )
    assert other.choose() is None, "the space has four points"
    assert Trials(storage, replace(asked, trials=1), ["mdssl"]).to_choose == 0


def test_a_scheduler_may_end_searched_trials_of_one_length(storage, settings, monkeypatch):
    grid = replace(settings, search="grid", range=(), trials=None, iterations=9)
    plain, asha = (Trials(storage, replace(grid, scheduler=name), ["simclr", "mdssl"]) for name in ("none", "asha"))
    assert [work.may_end_early for work in (*plain.works(), *asha.works())] == [False, False, False, True]
    assert (plain.history, plain.to_choose, plain.choose()) == (None, 0, None)
    for change in ({"grid": (("iterations", "9", "18"),)}, {"range": (("iterations", "9", "18", "9"),)}):
        with pytest.raises(InputError, match="compares trials of one length, but iterations varies"):
            Trials(storage, replace(grid, scheduler="asha", **change), ["mdssl"])
    monkeypatch.setattr("mdssl.sweep.search.search._MOST_OF_A_GRID", 3)
    assert len(Trials(storage, replace(grid, range=(("lambda1", "0.8", "1", "0.1"),)), ["mdssl"]).configs) == 3
    for change, message in (
        ({"range": (("lambda1", "0.8", "1", "0.05"),)}, "has 5 trials; give each --range a step"),
        ({"range": (("lambda1", "0.8", "1"),)}, "infinitely many trials"),
        ({"search": "random", "trials": 1}, "has no setting to vary"),
    ):
        with pytest.raises(InputError, match=message):
            Trials(storage, replace(grid, **change), ["mdssl"])
