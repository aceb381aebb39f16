"""The plan of a sweep, from the contents of the storage alone. Without Ray."""

from dataclasses import replace

import numpy as np
import pytest
from factories import CONTEXT, dead_owner, prepare_arrays, stripes
from grid_parts import METHODS, states

from mdssl.errors import InputError
from mdssl.leaderboard import board
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.sweep.grid import plan, trials
from mdssl.sweep.waiting import ClaimedElsewhere
from mdssl.trials.rows import failed_row, git_commit


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


def test_an_interrupted_trial_resumes_and_a_forced_trial_restarts(settings, trained, tmp_path):
    storage, config, _ = trained
    for name in ("training.json", "encoder.safetensors"):
        (storage / "trials" / config.trial_id / name).delete()
    assert states(storage, settings, METHODS[2:]) == ["queued to resume"]
    assert states(storage, replace(settings, force=True), METHODS[2:]) == ["queued to train"]


def test_a_failed_trial_is_trained_again_only_with_retry_failed(settings, tmp_path):
    storage = Location.of(tmp_path)
    config = trials(settings, METHODS[2:])[0]
    failure = failed_row(config, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    write_rows(storage, config.trial_id, [failure])
    (work,) = plan(storage, [config], settings)
    assert (str(work), work.error, work.may_end_early) == ("failed", "NaN", False)
    (begun,) = read_rows(storage, config.trial_id)
    for name, to_do in (("config.json", "train"), ("checkpoints/step-00000001.safetensors", "resume")):
        (work,) = plan(storage, [config], replace(settings, retry_failed=True))
        assert (str(work), work.tried) == ("queued to train", (begun["finished_at"].isoformat(),))
        (storage / "trials" / config.trial_id / name).write_bytes(b"{}")
        (work,) = plan(storage, [config], replace(settings, retry_failed=True))
        assert (str(work), work.tried) == (f"queued to {to_do}", (begun["finished_at"].isoformat(),))


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"lambda1": 1.0}, "names no method"), ("mdsll", "'mdssl'"), ({"method": "mdssl", "lamda1": 1.0}, "'lambda1'")],
)
def test_wrong_methods_are_refused(settings, entry, message):
    with pytest.raises(InputError, match=message):
        settings.entries("simclr", entry)


def test_only_failures_before_the_plan_are_retried_once_the_claim_is_released(settings, trained):
    storage, config, row = trained
    failure = failed_row(config, "NaN", context=CONTEXT, started_at="2026-01-01T00:00:00+00:00")
    write_rows(storage, config.trial_id, [failure | {"finished_at": "2026-01-01T00:00:00.000+00:00"}])
    asked, told = replace(settings, retry_failed=True), []
    (work,) = plan(storage, [config], asked)
    others = ClaimedElsewhere(storage, asked, lambda *said: told.append(said))
    (again,) = others.wait([work], lambda: False)
    assert (again.to_do, again.missing, told) == ("evaluate", work.missing, [])
    with Claim(storage / "trials" / config.trial_id, "another sweep") as claim:
        claim.take()
        assert others.wait([work], lambda: len(told) == 1) == [], "the sweep stops while another one has the trial"
        assert told == [(config.trial_id, {"state": "queued", "owner": str(claim.owner), "reached": 2})]
    told.clear()
    (storage / "trials" / config.trial_id / "claim.json").write_bytes(dead_owner().to_bytes())
    (taken_over,) = others.wait([work], lambda: False)
    assert taken_over.dead == dead_owner()
    (storage / "trials" / config.trial_id / "claim.json").delete()
    (begun,) = others.wait([replace(work, config=replace(config, seed=9))], lambda: False)
    assert (begun.to_do, begun.missing) == ("resume", ("tiny-a", "tiny-c"))
    write_rows(storage, config.trial_id, [row | {"status": "stopped", "probe": None, "top1": None}])
    assert len(others.wait([work], lambda: False)) == 1, "this sweep trains it to the end"
    assert others.wait([replace(work, may_end_early=True)], lambda: False) == []
    assert told.pop() == (config.trial_id, {"state": "stopped", "error": ""})
    write_rows(storage, config.trial_id, [failure])
    assert others.wait([work], lambda: False) == []
    assert told == [(config.trial_id, {"state": "failed", "error": "NaN"})], "a failure since the plan is not retried"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "torchtrain"}, "Did you mean 'torchtrainer'"),
        ({"workers": 2, "gpus_per_worker": 0.5}, "NCCL refuses two ranks"),
        ({"workers": 2, "executor": "inline"}, "use --executor torchtrainer"),
        ({"seeds": ()}, "axis seeds has no value"),
        ({"iterations": 0}, "iterations is 0"),
        ({"knn_neighbors": 0}, "knn_neighbors is 0"),
        ({"lambda1": (0.0,)}, "lambda1 is 0"),
        ({"lambda2": (0.1, -0.1)}, "lambda2 is -0.1"),
        ({"workers": 0}, "workers is 0"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker is -1"),
        ({"max_concurrent": 0}, "max_concurrent is 0"),
        ({"pretrained": ("a.pth",), "features": ("projection",)}, "has no projection head"),
        ({"domains": ("tiny-a", "tiny-a")}, "'tiny-a' is 2 times"),
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
