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
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.grid import evaluation_fingerprint
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

    found = history().ordered()
    assert [each.config.lambda1 for each in found] == [0.85, 0.8, 0.95, 0.9], "trials are ordered by their start"
    assert [each.status for each in found] == ["failed", "finished", "finished", "training"]
    assert [each.value for each in found] == [None, 50.0, None, None], "no mean where a dataset has no score"
    assert [each.scores for each in found] == [{}, {10: 30.0, 30: 34.0}, {}, {}]


def test_a_trial_stopped_early_keeps_its_scores(storage, settings, space, history):
    config = space.trial({"lambda1": 0.8})
    ended = TRAINING | {"started_at": "2026-01-01T00:00:00.000+00:00", "step": 30, "variants": {}}
    ended["val_linear_top1"] = dict.fromkeys(NAMES, 20.0)
    write_rows(storage, config.trial_id, stopped_rows(config, ended, context=CONTEXT))
    write_metrics(storage, config, {10: 30.0, 30: 20.0})
    (found,) = history().ordered()
    assert (found.status, found.value, found.last_score) == ("stopped", None, 20.0)


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


def test_the_same_extend_chooses_the_same_trials_again(storage, settings):
    asked = replace(settings, storage=str(storage.path), search="grid", range=(), trials=None, scheduler="asha")
    asked = replace(asked, lambda1=(1.0,), lambda2=(0.0, 0.1, 0.2, 0.3))
    stopped = {config.trial_id: config for config in Trials(storage, asked, ["mdssl"]).configs}
    for score, config in enumerate(stopped.values()):
        ended = TRAINING | {"status": "stopped", "step": 10, "started_at": "2026-01-01T00:00:00.000+00:00"}
        ended |= {"val_linear_top1": dict.fromkeys(NAMES, 20.0 + score), "variants": {}}
        ended |= {"val_fingerprints": {name: evaluation_fingerprint(settings.data, name) for name in NAMES}}
        write_rows(storage, config.trial_id, stopped_rows(config, ended, context=CONTEXT))
        write_metrics(storage, config, {10: 20.0 + score})

    def left(extend):
        trials = Trials(storage, replace(asked, extend=extend), ["mdssl"])
        trials.record_extended()
        return {work.config.trial_id for work in trials.works() if work.is_left}

    second, best = list(stopped)[-2:]
    assert left(2) == {second, best}
    finish(storage, settings, stopped[best], (1.0, 1.0))
    assert left(2) == {second}, "after an interruption"
    finish(storage, settings, stopped[second], (1.0, 1.0))
    assert left(2) == set()
    assert left(3) == {list(stopped)[1]}
    with pytest.raises(InputError, match="extend is 5, but 4 of this sweep's trials ended early"):
        left(5)
