"""Requests to stop a trial: in its own process, in a sweep and in `mdssl train`, and after `mdssl retry`."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from factories import CONTEXT, tiny_trial, trial_run

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.leaderboard.board import read, read_rows, write_rows
from mdssl.pretrain.checkpoint import latest_step
from mdssl.pretrain.loop import train
from mdssl.pretrain.stopping import StoppedError
from mdssl.pretrain.trial_files import now
from mdssl.storage import claim as claims
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.sweep import trial as sweep_trial
from mdssl.sweep.grid import plan
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.control import retry_trials, stop_trials
from mdssl.trials.rows import failed_row

TRIAL = "0123456789ab"


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def request_at_step_3(tiny_data, storage):
    """The folder of a trial that received a request to stop during training."""
    trial = tiny_trial()
    folder = Location.of(storage) / "trials" / TRIAL

    def asked(progress):
        if progress.step == 3:
            stop_trials(storage, [TRIAL])

    settings = RunSettings(report_every=1, track=())
    with pytest.raises(StoppedError):
        train(trial, data=tiny_data, trial_dir=folder, settings=settings, device="cpu", report=asked,
              stop_requested=lambda: (folder / "stop.json").exists())  # fmt: skip
    return folder


def test_stop_saves_a_checkpoint_and_training_resumes_after_retry(tiny_data, storage, request_at_step_3):
    folder = request_at_step_3
    said = json.loads((folder / "training.json").read_bytes())
    assert (said["status"], said["step"], said["iterations"], said["val_linear_top1"]) == ("stopped", 4, 6, {})
    assert latest_step(folder / "checkpoints") == 4
    retry_trials(storage, [TRIAL])
    assert not {"stop.json", "training.json"} & set(folder.names())
    ended = train(tiny_trial(), data=tiny_data, trial_dir=folder, settings=RunSettings(track=()), device="cpu")
    assert (ended["status"], ended["step"]) == ("finished", 6)
    assert json.loads((folder / "run.json").read_bytes())["from_step"] == 4


def test_training_that_stops_for_another_reason_is_not_recorded_as_stopped(tiny_data, tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(StoppedError):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=RunSettings(track=()), device="cpu",
              stop_requested=lambda: next(asked))  # fmt: skip
    assert not (tmp_path / "training.json").exists()


def test_the_heartbeat_of_a_claim_detects_a_request_to_stop(storage, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with Claim(Location.of(storage) / "trials" / TRIAL) as claim:
        claim.take()
        beat = claim._heart
        stop_trials(storage, [TRIAL])
        for _ in range(500):
            if claim.stop_asked:
                break
            beat.join(0.01)
        assert claim.stop_asked


def settings_of(storage: str, data: str, **changes) -> SweepSettings:
    own = {name: getattr(tiny_trial(), name) for name in ("arch", "batch_per_domain", "iterations", "precision")}
    return SweepSettings(
        domains=("tiny-a", "tiny-b"), evaluate=("tiny-c",), storage=storage, data=data, **own | changes
    )


def do(config, storage: str, data: str, **changes):
    folder = Location.of(storage) / "trials" / config.trial_id
    work = {"trial": config.to_dict(), "missing": ["tiny-c"], "tried": [], "dead": None, "may_end_early": False}
    with Claim(folder) as claim:
        claim.take()
        return sweep_trial._do(config, work, folder, trial_run(storage, data, **changes), claim)


def test_a_sweep_skips_a_trial_with_a_request_to_stop_until_retry(tiny_data, storage, capsys, monkeypatch):
    config = tiny_trial()
    monkeypatch.setattr(sweep_trial, "_trained", lambda *arguments: pytest.fail("it trained"))
    assert run("stop", config.trial_id, "--storage", Path(storage).parent) == 0
    assert "not begun in" in capsys.readouterr().out
    os.makedirs(storage)
    assert run("stop", config.trial_id, "--storage", storage) == 0
    assert do(config, storage, tiny_data) == {"state": "stopped", "ended_early": True, "on_request": True}
    assert read(storage).empty
    settings = settings_of(storage, tiny_data)
    (work,) = plan(Location.of(storage), [config], settings)
    assert str(work) == "stopped on request" and not work.is_left
    (forced,) = plan(Location.of(storage), [config], replace(settings, force=True))
    assert forced.is_left
    assert run("retry", config.trial_id, "--storage", storage) == 0
    (work,) = plan(Location.of(storage), [config], settings)
    assert str(work) == "queued to train"


def test_a_stopped_trial_has_rows_without_scores_and_tables_show_its_step(
    tiny_data, storage, request_at_step_3, capsys
):
    config = tiny_trial()
    os.rename(Path(storage) / "trials" / TRIAL, Path(storage) / "trials" / config.trial_id)
    write_rows(storage, config.trial_id, [failed_row(config, "an earlier try", context=CONTEXT, started_at=now())])
    do(config, storage, tiny_data)
    (only,) = read_rows(storage, config.trial_id)
    assert (only["status"], only["eval_dataset"], only["step"], only["val_linear_top1"]) == (
        "stopped",
        "tiny-c",
        4,
        None,
    )
    assert run("leaderboard", "--storage", storage) == 0
    assert f"{config.trial_id} was stopped early at step 4 of 6\n" in capsys.readouterr().out
    assert run("report", "--storage", storage, "--output", Path(storage).parent / "report") == 0
    page = (Path(storage).parent / "report" / "trials" / f"{config.trial_id}.html").read_text()
    assert "At step 4 of 6. It has no score on a test split" in page


def test_mdssl_train_refuses_a_trial_with_a_request_to_stop(tiny_data, storage, capsys):
    flags = ["--domains", "tiny-a", "tiny-b", "--iterations", 2, "--batch-per-domain", 8, "--precision", "fp32"]
    flags += ["--device", "cpu", "--storage", storage, "--data", tiny_data, "--tag", "one", "two", "--track", "none"]
    os.makedirs(storage)
    assert run("train", *flags, "--checkpoint-seconds", 0) == 0
    (trial_id,) = os.listdir(Path(storage) / "trials")
    assert run("stop", trial_id, "--storage", storage) == 0
    assert f"{trial_id}: it is trained, nothing to stop" in capsys.readouterr().out
    for name in ("training.json", "encoder.safetensors"):
        os.remove(Path(storage) / "trials" / trial_id / name)
    assert run("stop", trial_id, "--storage", storage) == 0
    assert f"until `mdssl retry {trial_id} --storage {storage}`" in capsys.readouterr().out
    assert run("train", *flags) == 2
    said = f"after `mdssl retry {trial_id} --storage {storage}` the same command trains it further"
    assert said in capsys.readouterr().err
    assert run("tag", trial_id, "--remove", "one", "--storage", storage) == 0
    assert capsys.readouterr().out == f"{trial_id}: two\n"
