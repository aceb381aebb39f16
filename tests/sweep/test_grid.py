"""The plan of a sweep, from the contents of the storage alone. Without Ray."""

import json
from dataclasses import replace

import numpy as np
import pytest
from factories import CONTEXT, prepare_arrays, stripes

from mdssl.config.probe import ProbeConfig
from mdssl.errors import InputError
from mdssl.leaderboard import board
from mdssl.leaderboard.board import read, read_rows, write_rows
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import read_training
from mdssl.storage.location import Location
from mdssl.sweep.grid import evaluation_fingerprint, plan, still_missing, trials
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.waiting import ClaimedElsewhere
from mdssl.trials.rows import failed_row, finished_row, git_commit, merged

METHODS = [{"method": "random"}, {"method": "simclr"}, {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1}]


@pytest.fixture
def settings(tiny_data):
    return SweepSettings(
        domains=("tiny-a", "tiny-b"),
        evaluate=("tiny-a", "tiny-c"),
        arch="resnet18",
        batch_per_domain=8,
        iterations=2,
        data=tiny_data,
        precision="fp32",
    )


def states(storage, settings, methods=METHODS):
    return [str(work) for work in plan(storage, trials(settings, methods), settings)]


def score(settings, dataset, **changes):
    numbers = {"top1": 50.0, "top5": None, "knn_top1": 40.0, "num_classes": 4, "num_train": 64, "num_test": 32}
    return {
        **numbers,
        "features": "encoder",
        "probe": settings.probe_config.each()[0].name,
        "probe_settings": settings.probe_config.each()[0].settings(),
        "eval_seconds": 1.0,
        "eval_dataset": dataset,
        "data_fingerprint": evaluation_fingerprint(settings.data, dataset),
    } | changes


@pytest.fixture
def trained(settings, tmp_path):
    """A storage with a trained mdssl trial and its row on tiny-a."""
    storage = Location.of(tmp_path)
    config = trials(settings, METHODS[2:])[0]
    trial_dir = storage / "trials" / config.trial_id
    training = train(config, data=settings.data, trial_dir=trial_dir, device="cpu")
    row = finished_row(config, training, score(settings, "tiny-a"), context=CONTEXT, trial_dir=trial_dir)
    write_rows(storage, config.trial_id, [row])
    return storage, config, row


def test_each_combination_of_method_temperature_and_seed_is_one_trial(settings):
    settings = replace(settings, temperature=(0.1, 0.2), seeds=(0, 1, 2))
    configs = trials(settings, METHODS)
    assert len({config.trial_id for config in configs}) == len(configs)
    # A random encoder has a seed and no temperature.
    assert [sum(config.method == m for config in configs) for m in ("random", "simclr", "mdssl")] == [3, 6, 6]


def test_with_an_empty_storage_all_trials_are_queued_to_train(settings, tmp_path):
    assert states(Location.of(tmp_path), settings) == ["queued to train"] * 3


def test_a_plan_of_many_new_trials_makes_few_storage_requests(settings, tmp_path, monkeypatch):
    """A request to a bucket takes tens of milliseconds."""
    many = replace(settings, seeds=tuple(range(150)))
    configs, asked, real = trials(many, METHODS[:1]), [], Location._retry
    monkeypatch.setattr(Location, "_retry", lambda self, action: asked.append(self.path) or real(self, action))
    assert {str(work) for work in plan(Location.of(tmp_path), configs, many)} == {"queued to train"}
    assert len([path for path in asked if path.startswith(str(tmp_path))]) <= 3


def test_large_plans_and_small_plans_agree(settings, trained, monkeypatch):
    storage, _, _ = trained
    expected = plan(storage, trials(settings, METHODS), settings)
    monkeypatch.setattr(board, "_MANY", 1)
    assert plan(storage, trials(settings, METHODS), settings) == expected


def test_only_missing_scores_are_computed_for_a_trained_encoder(settings, trained):
    storage, config, _ = trained
    work = plan(storage, [config], settings)[0]
    assert (str(work), work.missing) == ("queued to evaluate", ("tiny-c",))
    assert states(storage, replace(settings, evaluate=("tiny-a",)), METHODS[2:]) == ["finished"]


def test_another_probe_layer_or_dataset_makes_a_score_missing(settings, trained):
    storage, config, row = trained
    only_a = replace(settings, evaluate=("tiny-a",))
    for change in ({"probe": "sgd"}, {"probe_l2": 0.5}, {"features": ("encoder", "projection")}):
        assert states(storage, replace(only_a, **change), METHODS[2:]) == ["queued to evaluate"], change
    evaluation = json.loads(row["config_json"])
    evaluation["evaluation"]["data_fingerprint"] = "of other images"
    write_rows(storage, config.trial_id, [row | {"config_json": json.dumps(evaluation)}])
    assert states(storage, only_a, METHODS[2:]) == ["queued to evaluate"]


def test_an_added_probe_learning_rate_makes_a_score_missing(settings, trained):
    storage, config, _ = trained
    settings = replace(settings, evaluate=("tiny-a",), probe="sgd", probe_learning_rate=(0.1, 0.3))
    rows = [
        finished_row(
            config,
            read_training(storage / "trials" / config.trial_id),
            score(settings, "tiny-a", probe=probe.name, probe_settings=probe.settings()),
            context=CONTEXT,
            trial_dir=storage / "trials" / config.trial_id,
        )
        for probe in settings.probe_config.each()
    ]
    write_rows(storage, config.trial_id, rows[:1])
    assert states(storage, replace(settings, probe_learning_rate=(0.1,)), METHODS[2:]) == ["finished"]
    assert states(storage, settings, METHODS[2:]) == ["queued to evaluate"]
    write_rows(storage, config.trial_id, rows)
    assert states(storage, settings, METHODS[2:]) == ["finished"]


def test_rows_with_the_old_name_of_sgd_raw_count_as_its_scores(settings, trained):
    storage, config, row = trained
    settings = replace(settings, evaluate=("tiny-a",), probe="sgd-raw")
    before = [row | {"probe": "sgd"}, row | {"probe": "sgd(learning_rate=0.3)", "eval_dataset": "tiny-a"}]
    write_rows(storage, config.trial_id, before)
    assert states(storage, settings, METHODS[2:]) == ["finished"]
    assert states(storage, replace(settings, probe_learning_rate=(0.1, 0.3)), METHODS[2:]) == ["finished"]
    assert states(storage, replace(settings, probe="sgd"), METHODS[2:]) == ["queued to evaluate"]
    names = ["sgd-raw", "sgd-raw(learning_rate=0.3)"]
    assert [row["probe"] for row in read_rows(storage, config.trial_id)] == names
    assert list(read(storage)["probe"]) == names
    again = [row | {"top1": 1.0, "probe": name} for name in names]
    assert merged(read_rows(storage, config.trial_id), again) == read_rows(storage, config.trial_id)


def test_a_failed_probe_learning_rate_does_not_affect_the_others(settings, trained):
    storage, config, _ = trained
    settings = replace(settings, evaluate=("tiny-a",), probe="sgd", probe_learning_rate=(0.1, 0.3))
    first, _ = (probe.name for probe in settings.probe_config.each())
    asked = {"eval_dataset": "tiny-a", "data_fingerprint": evaluation_fingerprint(settings.data, "tiny-a")}
    failure = failed_row(
        config, "diverged", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00", score=asked | {"probe": first}
    )
    write_rows(storage, config.trial_id, [failure])
    assert states(storage, settings, METHODS[2:]) == ["queued to evaluate"], "the other learning rate has not failed"
    assert states(storage, replace(settings, probe_learning_rate=(0.1,)), METHODS[2:]) == ["failed"]
    assert states(storage, replace(settings, probe_learning_rate=(0.3,)), METHODS[2:]) == ["queued to evaluate"]


def test_merged_keeps_a_finished_score_unless_the_data_changed(trained):
    _, _, row = trained
    again, elsewhere = row | {"top1": 51.0}, row | {"probe": "sgd"}
    assert [r["top1"] for r in merged([row], [again, elsewhere])] == [50.0, 50.0]
    evaluation = json.loads(row["config_json"])
    evaluation["evaluation"]["data_fingerprint"] = "of other images"
    renewed = again | {"config_json": json.dumps(evaluation)}
    assert [r["top1"] for r in merged([row], [renewed])] == [51.0]


def test_an_interrupted_trial_resumes_and_a_forced_trial_restarts(settings, trained, tmp_path):
    storage, config, _ = trained
    for name in ("training.json", "encoder.safetensors"):
        (storage / "trials" / config.trial_id / name).delete()
    assert states(storage, settings, METHODS[2:]) == ["queued to resume"]
    assert states(storage, replace(settings, force=True), METHODS[2:]) == ["queued to train"]


def test_rows_record_the_actual_precision_and_another_precision_is_refused(settings, trained):
    storage, config, _ = trained
    trial_dir = storage / "trials" / config.trial_id
    training = read_training(trial_dir) | {"precision": "bf16"}
    rows = [
        finished_row(
            replace(config, precision="auto"), training, score(settings, name), context=CONTEXT, trial_dir=trial_dir
        )
        for name in ("tiny-a", "tiny-c")
    ]
    assert [row["precision"] for row in rows] == ["bf16", "bf16"]
    assert {row["trial_id"] for row in rows} == {config.trial_id}
    write_rows(storage, config.trial_id, rows)
    assert states(storage, replace(settings, precision="auto"), METHODS[2:]) == ["finished"]
    with pytest.raises(
        ValueError, match=f"precision is fp32, but trial {config.trial_id} was trained in bf16.*--force"
    ):
        states(storage, settings, METHODS[2:])
    assert states(storage, replace(settings, force=True), METHODS[2:]) == ["queued to train"]


def test_a_failed_trial_is_trained_again_only_with_retry_failed(settings, tmp_path):
    storage = Location.of(tmp_path)
    config = trials(settings, METHODS[2:])[0]
    failure = failed_row(config, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    write_rows(storage, config.trial_id, [failure])
    assert states(storage, settings, METHODS[2:]) == ["failed"]
    assert states(storage, replace(settings, retry_failed=True), METHODS[2:]) == ["queued to train"]


def test_a_failed_score_is_retried_only_on_request_and_affects_no_other_score(settings, trained):
    storage, config, row = trained
    asked = {
        "eval_dataset": "tiny-c",
        "probe": settings.probe_config.name,
        "data_fingerprint": evaluation_fingerprint(settings.data, "tiny-c"),
    }
    failure = failed_row(config, "one class", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00", score=asked)
    rows = merged([row], [failure])
    assert [r["status"] for r in rows] == ["finished", "failed"]
    write_rows(storage, config.trial_id, rows)
    assert states(storage, settings, METHODS[2:]) == ["failed"]
    assert plan(storage, [config], replace(settings, retry_failed=True))[0].missing == ("tiny-c",)
    # The failure stays while other datasets are scored. Sweeps and probes that do not request the score ignore it.
    other = row | {"eval_dataset": "tiny-b"}
    assert [r["eval_dataset"] for r in merged(rows, [other])] == ["tiny-a", "tiny-c", "tiny-b"]
    assert states(storage, replace(settings, evaluate=("tiny-a",)), METHODS[2:]) == ["finished"]
    assert states(storage, replace(settings, knn_neighbors=5), METHODS[2:]) == ["queued to evaluate"]
    better = row | {"eval_dataset": "tiny-c"}
    assert [r["status"] for r in merged(rows, [better])] == ["finished", "finished"]


def test_scores_made_by_another_sweep_since_the_plan_are_not_missing(settings, trained):
    storage, config, _ = trained
    probe, missing = settings.probe_config, ("tiny-a", "tiny-c")
    assert still_missing([], (), missing, settings.data, probe) == (missing, "")
    assert still_missing(read_rows(storage, config.trial_id), (), missing, settings.data, probe) == (("tiny-c",), "")
    failure = failed_row(config, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    write_rows(storage, config.trial_id, [failure])
    assert still_missing(read_rows(storage, config.trial_id), (), missing, settings.data, probe) == ((), "NaN")
    (work,) = plan(storage, [config], replace(settings, retry_failed=True))
    assert still_missing(read_rows(storage, config.trial_id), work.tried, missing, settings.data, probe) == (
        missing,
        "",
    )


def test_only_failures_before_the_plan_are_retried_once_the_claim_is_released(settings, trained):
    storage, config, _ = trained
    failure = failed_row(config, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    write_rows(storage, config.trial_id, [failure | {"finished_at": "2026-01-01T00:00:00.000+00:00"}])
    asked, told = replace(settings, retry_failed=True), []
    (work,) = plan(storage, [config], asked)
    others = ClaimedElsewhere(storage, asked, lambda *said: told.append(said))
    (again,) = others.wait([work])
    assert (again.to_do, again.missing, told) == ("evaluate", work.missing, [])
    write_rows(storage, config.trial_id, [failure])
    assert others.wait([work]) == []
    assert told == [(config.trial_id, {"state": "failed", "error": "NaN"})], "a failure since the plan is not retried"


def test_a_row_records_its_trial_and_evaluation_settings(settings, trained):
    _, config, row = trained
    said = json.loads(row["config_json"])
    assert said["trial"] == config.to_dict()
    assert said["evaluation"] == {
        **ProbeConfig().settings(),
        "data_fingerprint": evaluation_fingerprint(settings.data, "tiny-a"),
    }
    assert (row["seen"], row["views_seen"], row["iterations"]) == (True, 2 * 2 * 2 * 8, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "torchtrain"}, "Did you mean 'torchtrainer'"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "NCCL refuses two ranks"),
        ({"workers": 2, "executor": "inline"}, "use --executor torchtrainer"),
        ({"seeds": ()}, "axis seeds has no value"),
        ({"temperature": (0.1, 0.1)}, "axis temperature has a value twice"),
        ({"domains": ()}, "names no domains"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1.0"),
    ],
)
def test_wrong_settings_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)


def test_unprepared_data_and_too_few_images_are_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="'tiny-x'"):
        trials(replace(settings, domains=("tiny-a", "tiny-x")), METHODS)
    with pytest.raises(ValueError, match="'tiny-x'"):
        plan(Location.of(tmp_path), [], replace(settings, evaluate=("tiny-x",)))
    with pytest.raises(ValueError, match="use at most 64"):
        trials(replace(settings, batch_per_domain=65), METHODS)


def test_git_commit_comes_from_the_environment_without_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr("mdssl.__file__", str(tmp_path / "mdssl" / "__init__.py"))
    monkeypatch.delenv("MDSSL_GIT_COMMIT", raising=False)
    git_commit.cache_clear()
    assert git_commit() == ""
    git_commit.cache_clear()
    monkeypatch.setenv("MDSSL_GIT_COMMIT", "0cba2fd")
    assert git_commit() == "0cba2fd"
    git_commit.cache_clear()


def test_a_search_scores_rows_without_a_validation_score_again(settings, trained):
    """Such rows are of an earlier version. `merged` keeps their other scores."""
    storage, config, _ = trained
    rows = read_rows(storage, config.trial_id)
    assert rows[0]["val_top1"] is None
    search = replace(settings, evaluate=("tiny-a",), search="random", trials=3)
    assert [str(work) for work in plan(storage, [config], search)] == ["queued to evaluate"]
    write_rows(storage, config.trial_id, [row | {"val_top1": 50.0} for row in rows])
    assert [str(work) for work in plan(storage, [config], search)] == ["finished"]
    assert [str(work) for work in plan(storage, [config], replace(settings, evaluate=("tiny-a",)))] == ["finished"]


def test_a_trial_stopped_early_is_complete_only_with_a_scheduler(settings, trained):
    storage, config, _ = trained
    row = read_rows(storage, config.trial_id)[0] | {
        "status": "stopped",
        "probe": None,
        "top1": None,
        "val_knn_top1": 9.0,
    }
    write_rows(storage, config.trial_id, [row])
    done = replace(settings, scheduler="asha", grace_steps=1)
    assert [str(work) for work in plan(storage, [config], done)] == ["stopped"]
    assert [work.is_left for work in plan(storage, [config], settings)] == [True]


@pytest.mark.parametrize("asked", [{"search": "random", "trials": 3}, {"scheduler": "asha", "grace_steps": 1}])
def test_a_dataset_too_small_for_validation_is_refused_before_a_search(settings, tmp_path, asked):
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = stripes(rng, 20, 4, 16, tint=0)
    prepare_arrays("few", tmp_path / "data", 16, **arrays)
    settings = replace(settings, data=str(tmp_path / "data"), domains=("few",), evaluate=("few",), **asked)
    with pytest.raises(InputError, match="dataset 'few' has 20 labelled training images"):
        plan(Location.of(tmp_path), [], settings)
    plan(Location.of(tmp_path), [], replace(settings, search="grid", trials=None, scheduler="none", grace_steps=None))
