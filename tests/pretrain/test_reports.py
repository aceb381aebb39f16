"""Reports: when they are made, which are due, and that those of a GPU are made later with the same values."""

import json
from functools import partial

import pandas as pd
import pytest
from factories import Killed, kill_at, tiny_trial

from mdssl.config.run import RunSettings
from mdssl.pretrain import loop, stopping
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import NonFiniteLossError
from mdssl.pretrain.stopping import StoppedError


@pytest.fixture
def steps(monkeypatch):
    """The steps that have begun."""
    begun = []

    def watched(config, mixture, groups, step, *more, **named):
        begun.append(step + 1)
        return two_views(config, mixture, groups, step, *more, **named)

    two_views = loop.two_views
    monkeypatch.setattr(loop, "two_views", watched)
    return begun


def run(data, folder, *, report=lambda progress: None, iterations=8, report_every=2, seconds=1000, **more):
    settings = RunSettings(
        report_every=report_every, checkpoint_seconds=seconds, score_every=more.pop("score_every", 0)
    )
    trial = tiny_trial(iterations=iterations, **more.pop("trial", {}))
    return train(trial, data=data, trial_dir=folder, settings=settings, device="cpu", report=report, **more)


def numbers(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns="views_per_second")


def encoder(folder):
    return (folder / "encoder.safetensors").read_bytes()


@pytest.fixture(scope="module")
def on_cpu(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu")
    run(tiny_data, folder)
    return folder


def made(data, folder, steps, **more):
    """Pairs of the step of a report and the number of steps begun when the report was made."""
    found = []
    run(data, folder, report=lambda progress: found.append((progress.step, steps[-1])), **more)
    return found


def test_report_on_a_cpu_is_made_after_its_last_step(tiny_data, tmp_path, steps):
    assert made(tiny_data, tmp_path, steps) == [(2, 2), (4, 4), (6, 6), (8, 8)]


def test_report_on_a_gpu_is_made_one_report_later_with_the_same_values(tiny_data, tmp_path, on_cpu, gpu, steps):
    assert made(tiny_data, tmp_path, steps) == [(2, 4), (4, 6), (6, 8), (8, 8)]
    pd.testing.assert_frame_equal(numbers(tmp_path), numbers(on_cpu), check_exact=True)
    assert encoder(tmp_path) == encoder(on_cpu)


def test_scores_and_checkpoints_wait_for_the_reports_of_all_earlier_steps(tiny_data, tmp_path, gpu, steps):
    scored = made(tiny_data, tmp_path / "scored", steps, score_every=5, validate=lambda model: {"a": float(steps[-1])})
    assert scored == [(2, 4), (4, 5), (5, 5), (7, 8), (8, 8)]
    assert numbers(tmp_path / "scored")["val_linear_top1"].dropna().tolist() == [5.0]
    assert made(tiny_data, tmp_path / "saved", steps, seconds=0) == [(2, 2), (4, 4), (6, 6), (8, 8)]


@pytest.mark.parametrize("after", range(1, 8))
def test_stopped_run_on_a_gpu_resumes_to_the_same_result(tiny_data, tmp_path, on_cpu, gpu, steps, after):
    found = []
    own = {"report": lambda progress: found.append(progress.step)}
    with pytest.raises(StoppedError, match=f"stopped at step {after} of 8"):
        run(tiny_data, tmp_path, **own, stop_requested=lambda: bool(steps) and steps[-1] >= after)
    assert found == [step for step in (2, 4, 6) if step <= after], "reports of steps that are not repeated are made"
    run(tiny_data, tmp_path, **own)
    assert found == [2, 4, 6, 8]
    pd.testing.assert_frame_equal(numbers(tmp_path), numbers(on_cpu), check_exact=True)
    assert encoder(tmp_path) == encoder(on_cpu)


def test_run_on_a_gpu_killed_in_a_report_resumes_to_the_same_result(tiny_data, tmp_path, on_cpu, gpu):
    with pytest.raises(Killed):
        run(tiny_data, tmp_path, seconds=0, report=kill_at(6))
    run(tiny_data, tmp_path)
    pd.testing.assert_frame_equal(numbers(tmp_path), numbers(on_cpu), check_exact=True)
    assert encoder(tmp_path) == encoder(on_cpu)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_checkpoint_requested_after_a_stop_between_reports_counts_no_step_twice(
    tiny_data, tmp_path, on_cpu, steps, device, request
):
    if device == "gpu":
        request.getfixturevalue("gpu")
    with pytest.raises(StoppedError, match="stopped at step 1 of 8"):
        run(tiny_data, tmp_path, stop_requested=lambda: bool(steps))
    with pytest.raises(Killed):
        run(tiny_data, tmp_path, report=lambda progress: "save" if progress.step == 2 else kill_at(8)(progress))
    run(tiny_data, tmp_path)
    pd.testing.assert_frame_equal(numbers(tmp_path), numbers(on_cpu), check_exact=True)


def test_requested_checkpoint_on_a_gpu_is_saved_with_the_next_report(tiny_data, tmp_path, gpu, steps):
    saved = {}

    def report(progress):
        folder = tmp_path / "checkpoints"
        saved[progress.step] = sorted(file.name[12:13] for file in folder.iterdir()) if folder.exists() else []
        return "save" if progress.step == 2 else None

    run(tiny_data, tmp_path, report=report, iterations=12)
    # The checkpoint is requested at step 4, when the report of step 2 is made, and saved at step 6.
    assert saved == {2: [], 4: [], 6: [], 8: ["6"], 10: ["6"], 12: ["6"]}


def test_non_finite_loss_on_a_gpu_is_recorded_as_on_a_cpu(tiny_data, tmp_path, gpu, monkeypatch):
    trial = {"learning_rate": 1e30, "optimizer": "sgd", "lr_warmup_iterations": 0}
    for name in ("gpu", "cpu"):
        if name == "cpu":
            monkeypatch.setattr(loop, "pick_device", lambda device: "cpu")
        with pytest.raises(NonFiniteLossError):
            run(tiny_data, tmp_path / name, trial=trial, seconds=1000)
    of_gpu, of_cpu = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("gpu", "cpu"))
    assert of_gpu == of_cpu
    assert not (tmp_path / "gpu/checkpoints").exists()


@pytest.fixture
def time_passes(monkeypatch):
    """A clock that advances only in steps, by 0.375 s per step."""
    now = [1000.0]

    def watched(*arguments, **named):
        now[0] += 0.375
        return two_views(*arguments, **named)

    two_views = loop.two_views
    monkeypatch.setattr(loop, "two_views", watched)
    clock = type("Clock", (), {"monotonic": lambda: now[0], "perf_counter": lambda: now[0]})
    monkeypatch.setattr(stopping, "time", clock)
    monkeypatch.setattr(loop, "time", clock)


def test_report_is_due_every_second_and_at_scores_checkpoints_and_stops(tiny_data, tmp_path, time_passes):
    due = []

    def report(progress):
        due.extend([progress.step] if progress.is_due else [])

    own = {"validate": lambda model: {"a": 50.0}, "rungs": (5,)}
    run(tiny_data, tmp_path / "a", report=report, report_every=1, iterations=11, **own)
    # Step 1 is the first; then reports are due after 1.125 s. Step 5 has a score; step 11 is the last.
    assert due == [1, 4, 5, 7, 10, 11]
    due.clear()
    # Step 5 has a checkpoint, which is saved after 1.875 s; the trial stops at step 6.
    stops = partial(next, iter([False] * 6 + [True]))
    with pytest.raises(StoppedError):
        run(
            tiny_data, tmp_path / "b", report=report, report_every=1, iterations=11, seconds=1.875, stop_requested=stops
        )
    assert due == [1, 4, 5, 6]


def test_log_mentions_the_warmup_only_if_it_takes_the_whole_training(tiny_data, tmp_path, caplog):
    caplog.set_level("INFO")
    for warm_up in (1, 2):
        run(tiny_data, tmp_path / str(warm_up), iterations=2, trial={"lr_warmup_iterations": warm_up})
        assert sum("the learning rate warms up over 2 iterations" in said for said in caplog.messages) == warm_up - 1
    (_, start), *_ = enumerate(said for said in caplog.messages if "steps 0 to 2 of 8 images per domain" in said)
    assert "on tiny-a+tiny-b (tiny-a 64, tiny-b 64 images)" in start and all(caplog.messages)
    run(tiny_data, tmp_path / "all", iterations=1, trial={"sampling": "proportional"})
    assert "steps 0 to 1 of 16 images in proportion" in caplog.text
