"""Which scores a sweep still has to compute, and the rows that it keeps. Without Ray."""

import json
from dataclasses import replace

import pytest
from factories import CONTEXT
from grid_parts import METHODS, score, states

from mdssl.config.probe import ProbeConfig
from mdssl.leaderboard.board import read, read_rows, write_rows
from mdssl.pretrain.trial_files import read_training
from mdssl.sweep.grid import evaluation_fingerprint, plan, still_missing
from mdssl.trials.rows import failed_row, finished_row, merged


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


def test_merged_drops_a_failure_of_a_score_that_was_already_there(trained):
    """Two learning rates are tried, of which one has a score; both fail, and then both succeed."""
    _, config, row = trained
    own = {"eval_dataset": "tiny-a", "data_fingerprint": "x"}
    failures = [
        failed_row(config, "it failed", context=CONTEXT, started_at="2026-01-01", score=own | {"probe": probe})
        for probe in (row["probe"], "sgd")
    ]
    before = merged([row], failures)
    assert [each["status"] for each in before] == ["finished", "failed", "failed"]
    assert [each["status"] for each in merged(before, [row, row | {"probe": "sgd"}])] == ["finished"] * 2


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
    (work,) = plan(storage, [config], settings)
    assert (work.state, work.error) == ("failed", "one class")
    after = read_rows(storage, config.trial_id), (), ("tiny-c",), settings.data, settings.probe_config
    assert still_missing(*after) == ((), "one class")
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


def test_a_row_records_its_trial_and_evaluation_settings(settings, trained):
    _, config, row = trained
    said = json.loads(row["config_json"])
    assert said["trial"] == config.to_dict()
    assert said["evaluation"] == {
        **ProbeConfig().settings(),
        "data_fingerprint": evaluation_fingerprint(settings.data, "tiny-a"),
    }
    assert (row["seen"], row["views_seen"], row["iterations"]) == (True, 2 * 2 * 2 * 8, 2)


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
