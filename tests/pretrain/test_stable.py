"""Schedule wsd: a longer trial resumes from the stable part of a shorter one, to the same result as from step 0."""

import errno
import json
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import with_fingerprint
from mdssl.errors import InputError
from mdssl.pretrain import checkpoint
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer, learning_rate
from mdssl.pretrain.stable import delete_shared, load_shared, save_shared, shared_folder
from mdssl.pretrain.stopping import Agreement
from mdssl.storage.location import Location

SETTINGS = RunSettings(report_every=4, checkpoint_seconds=1000, track=())
NEW = ("schedule", "decay_fraction")
SHORT = {"schedule": "wsd", "decay_fraction": 0.4, "iterations": 5}
LONG = SHORT | {"iterations": 10}


def run(storage, data, settings=SETTINGS, report=lambda progress: None, **changes):
    config = with_fingerprint(tiny_trial(**changes), data)
    folder = storage / "trials" / config.trial_id
    return train(config, data=data, trial_dir=folder, device="cpu", settings=settings, report=report), folder


def shared(storage):
    return sorted(str(file.relative_to(storage / "stable")) for file in (storage / "stable").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def longer(tiny_data, tmp_path_factory):
    """A storage where the short trial was trained before the long trial, which was killed in its fifth step and
    resumed; and the folder of the long trial trained from step 0."""
    storage, alone = (tmp_path_factory.mktemp(name) for name in ("both", "alone"))
    first, short = run(storage, tiny_data, **SHORT)
    steps = []
    with pytest.raises(Killed):
        run(storage, tiny_data, RunSettings(report_every=1, checkpoint_seconds=0, track=()), kill_at(5), **LONG)
    ended, long = run(storage, tiny_data, report=lambda progress: steps.append(progress.step), **LONG)
    straight, beside = run(alone, tiny_data, **LONG)
    return {"storage": storage, "first": first, "short": short, "ended": ended, "long": long, "steps": steps} | {
        "straight": straight,
        "alone": beside,
    }


def test_encoder_equals_that_of_a_trial_from_step_0(longer):
    expected, got = (safetensors.torch.load_file(longer[name] / "encoder.safetensors") for name in ("alone", "long"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    other = safetensors.torch.load_file(longer["short"] / "encoder.safetensors")
    assert not all(torch.equal(other[name], got[name]) for name in expected)


def test_longer_trial_records_its_origin_and_only_its_own_costs(longer):
    first, ended, straight = longer["first"], longer["ended"], longer["straight"]
    assert ended["continued_from"] == {"trial_id": longer["short"].name, "step": 3}
    assert (first["continued_from"], straight["continued_from"]) == (None, None)
    assert ended["views_seen"] == straight["views_seen"] == 10 * 2 * 2 * 8
    assert ended["views_per_second"] == pytest.approx(7 * 2 * 2 * 8 / ended["train_seconds"])
    assert ended["started_at"] > first["finished_at"]
    # The long trial was killed in the report of step 5 and resumed from its own checkpoint of step 4.
    assert longer["steps"][0] == 8
    metrics = pd.read_parquet(longer["long"] / "metrics.parquet")
    assert metrics["step"].iloc[-1] == 10


def test_costs_of_the_stable_part_are_not_counted_in_longer_trials(tmp_path):
    config, folder = tiny_trial(**SHORT), Location.of(tmp_path)
    model = build_model(config)
    optimizer = build_optimizer(config, model)
    costs = {"seconds": 7.0, "gpu_seconds": 7.0, "score_seconds": 7.0, "started_at": "2026-11-02T10:00:00+00:00"}
    state = LoopState(step=3, views=96, **costs)
    save_shared(folder, config, model, optimizer, state)
    found = load_shared(folder, config, model, optimizer, Agreement(lambda: False, "cpu"))
    assert {name: getattr(found, name) for name in costs} == dict.fromkeys(costs, 0.0) | {"started_at": ""}
    assert found.continued_from == {"trial_id": config.trial_id, "step": 3, "views": 96}


def test_each_trial_saves_its_stable_part_for_trials_that_decay_later(longer, tiny_data):
    stable_id = TrialConfig.from_dict(json.loads((longer["long"] / "config.json").read_text())).stable_id
    assert shared(longer["storage"]) == [f"{stable_id}/step-{step:08d}.safetensors" for step in (3, 6)]
    # A trial that decays from step 4 on can resume from step 3, but not from step 6.
    ended, _ = run(longer["storage"], tiny_data, **SHORT | {"iterations": 6, "decay_fraction": 0.3})
    assert ended["continued_from"] == {"trial_id": longer["short"].name, "step": 3}


def test_damaged_stable_part_is_skipped(longer, tiny_data, tmp_path, caplog):
    shutil.copytree(longer["storage"] / "stable", tmp_path / "stable")
    for file in (tmp_path / "stable").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
    ended, _ = run(tmp_path, tiny_data, **LONG)
    assert (ended["continued_from"], ended["views_seen"]) == (None, 10 * 2 * 2 * 8)
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine", "iterations": 3},
        SHORT | {"method": "mdssl-clustered", "warmup_iterations": 1, "recluster_every": 2},
        SHORT | {"decay_fraction": 1.0, "lr_warmup_iterations": 0},
    ],
)
def test_trial_whose_first_steps_depend_on_its_length_shares_nothing(tmp_path, changes):
    config = tiny_trial(**changes)
    assert shared_folder(Location.of(tmp_path) / "trials" / config.trial_id, config) is None


def test_stable_part_of_a_single_step_is_shared(tmp_path):
    config = tiny_trial(schedule="wsd", decay_fraction=0.5, iterations=2, lr_warmup_iterations=1)
    assert shared_folder(Location.of(tmp_path) / "trials" / config.trial_id, config) is not None


@pytest.mark.parametrize(("number", "ends"), [(errno.ENOSPC, False), (errno.ENOTDIR, True)])
def test_only_an_error_that_persists_ends_a_trial_that_shares_its_stable_part(tmp_path, monkeypatch, number, ends):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "write", fail)
    config = tiny_trial(**SHORT)
    model = build_model(config)
    with pytest.raises(OSError, match=os.strerror(number)) if ends else nullcontext():
        save_shared(Location.of(tmp_path), config, model, build_optimizer(config, model), LoopState(step=3))


def test_folder_outside_a_storage_shares_nothing(tmp_path):
    assert shared_folder(Location.of(tmp_path) / "mine", tiny_trial(**SHORT)) is None


def test_delete_shared_deletes_only_stable_parts(tmp_path):
    config = tiny_trial(**SHORT)
    trial_dir = Location.of(tmp_path) / "trials" / config.trial_id
    folder = shared_folder(trial_dir, config)
    for name in ("step-00000003.safetensors", "step-00000006.safetensors", "notes.txt"):
        (folder / name).write_bytes(b"x")
    delete_shared(trial_dir, config)
    assert folder.names() == ["notes.txt"]


def test_stable_id_depends_on_all_settings_but_iterations_and_decay():
    base = tiny_trial(**SHORT)
    same = [tiny_trial(**LONG), tiny_trial(**SHORT | {"decay_fraction": 0.2})]
    assert {one.stable_id for one in same} == {base.stable_id}
    assert len({one.trial_id for one in (base, *same)}) == 3
    others = [{"seed": 1}, {"learning_rate": 0.4}, {"lr_warmup_iterations": 1}, {"data_fingerprint": "x"}]
    assert base.stable_id not in {tiny_trial(**SHORT | other).stable_id for other in others}


def test_default_schedule_and_sampling_do_not_change_the_trial_id():
    before = {
        name: value
        for name, value in tiny_trial().to_dict().items()
        if name not in ("schedule", "decay_fraction", "sampling", "negative_weight")
    }
    assert TrialConfig.from_dict(before).trial_id == tiny_trial().trial_id == "bed99739ec34"
    assert tiny_trial(schedule="wsd", lr_warmup_iterations=2).trial_id != tiny_trial().trial_id
    assert tiny_trial(sampling="proportional").trial_id != tiny_trial().trial_id
    assert tiny_trial(negative_weight=0.3).trial_id == tiny_trial().trial_id, "mdssl has no setting negative_weight"
    weighted = {"method": "simclr-weighted", "lambda1": 1.0, "lambda2": 0.0}
    assert tiny_trial(**weighted, negative_weight=0.3).trial_id != tiny_trial(**weighted).trial_id
    for method in ({"method": "mdssl-shuffled"}, weighted, weighted | {"method": "simclr"}):
        assert tiny_trial(**method, sampling="proportional").trial_id != tiny_trial(**method).trial_id
    clustered = {"method": "mdssl-clustered", "warmup_iterations": 1}
    assert tiny_trial(**clustered, sampling="proportional").trial_id == tiny_trial(**clustered).trial_id


def test_learning_rate_warms_up_stays_constant_and_decays_by_a_square_root():
    config = tiny_trial(learning_rate=2.0, lr_warmup_iterations=2, iterations=10, schedule="wsd", decay_fraction=0.4)
    rates = [learning_rate(config, step) for step in range(10)]
    np.testing.assert_allclose(rates, [1, 2, 2, 2, 2, 2, 2, 1, 2 - 2**0.5, 2 - 3**0.5], rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"decay_fraction": 0.3}, "schedule 'cosine' has no separate decay"),
        (
            {"schedule": "wsd", "decay_fraction": 1.1, "lr_warmup_iterations": 0},
            "from 0 to 1. It is a share",
        ),
        ({"schedule": "wsd", "decay_fraction": 0.9, "lr_warmup_iterations": 2}, "decays after step 1 of 6"),
        ({"schedule": "linear"}, "schedule"),
    ],
)
def test_invalid_settings_of_the_schedule_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        tiny_trial(**changes)
