"""The output of `mdssl status`: its table, reasons, ETA and JSON."""

import io
import json
import os

import pytest
from rich.console import Console
from status_parts import begin, config, finished_score

from mdssl.leaderboard.board import write_rows
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import stop_request, trial_dir_in
from mdssl.trials.describe import duration, labels
from mdssl.trials.status import trial_statuses
from mdssl.trials.status_output import print_json, print_status, watch_status


@pytest.fixture
def storage(tmp_path):
    return Location.of(tmp_path)


def test_trials_stopped_early_are_distinguished_from_interrupted_trials(storage):
    early, interrupted, again, asked = (config(seed=seed) for seed in range(4))
    ended = {"status": "stopped", "step": 40, "iterations": 100, "variants": {}}
    row = finished_score(early, "a") | dict.fromkeys(("top1", "probe", "num_classes", "num_train", "num_test"))
    write_rows(storage, early.trial_id, [row | {"status": "stopped", "step": 40, "val_linear_top1": 30.0}])
    begin(storage, early, step=30, training=ended, claimed=False)
    begin(storage, interrupted, step=40, claimed=False)
    begin(storage, again, step=60, training=ended)
    begin(storage, asked, step=40, training=ended, claimed=False)
    stop_request(trial_dir_in(storage, asked.trial_id)).write_bytes(b"{}")
    found = {trial.config.seed: trial for trial in trial_statuses(storage)}
    assert [found[seed].state for seed in range(4)] == ["stopped", "stopped", "training", "stopped"]
    said = f"trial {early.trial_id} was stopped early at step 40 of 100"
    by_request = (
        f"trial {asked.trial_id} was stopped early at step 40 of 100 by `mdssl stop`; after `mdssl retry "
        f"{asked.trial_id} --storage {storage}` the same command trains it further"
    )
    assert [found[seed].stopped_early for seed in range(4)] == [said, "", "", by_request]
    assert found[2].step == 60
    assert (found[0].step, found[0].scores, found[0].error) == (40, 0, "")
    out = io.StringIO()
    print_status(storage, Console(file=out, width=80))
    *_, first, second, third = out.getvalue().splitlines()
    assert {first, second} == {said, by_request}
    assert third == f"interrupted, and resumed by the same command: {interrupted.trial_id}"


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.6, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (5 * 3600 + 4 * 60 + 59, "5h04m")]
)
def test_durations_are_in_the_two_largest_units(seconds, said):
    assert duration(seconds) == said


def test_trials_are_described_without_opening_the_buckets_of_their_first_weights():
    trials = [config(init=f"gone://bucket/{name}.pth?a=/b", init_fingerprint=name) for name in "ab"]
    assert all(f"init={name}.pth" in label for name, label in zip("ab", labels(trials).values(), strict=True))


def test_trained_trials_without_scores_are_distinguished_from_interrupted_trials(storage, capsys):
    interrupted, trained, scoring = (config(seed=seed) for seed in range(3))
    begin(storage, interrupted, step=40, claimed=False)
    begin(storage, trained, step=100, training={"status": "finished", "step": 100}, claimed=False)
    begin(storage, scoring, step=100, training={"status": "finished", "step": 100})
    print_json(storage)
    found = {entry["config"]["seed"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert [found[seed]["state"] for seed in range(3)] == ["stopped", "stopped", "evaluating"]
    assert [found[seed]["unscored"] for seed in range(3)] == [False, True, False]
    out = io.StringIO()
    print_status(storage, Console(file=out, width=80))
    *_, first, second = out.getvalue().splitlines()
    assert first == (
        f"trained, without scores; `mdssl probe TRIAL_ID --storage {storage}` scores it (a sweep that has it does so, "
        f"too): {trained.trial_id}"
    )
    assert second == f"interrupted, and resumed by the same command: {interrupted.trial_id}"


def test_json_has_an_entry_for_each_trial(storage, capsys):
    begin(storage, config(seed=1), step=40)
    print_json(storage)
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["trial_id"], entry["state"], entry["step"]) == (config(seed=1).trial_id, "training", 40)
    assert (entry["host"], entry["eta_seconds"], entry["config"]["seed"]) == ("gpu3", 48.0, 1)


def test_watch_status_prints_repeatedly_until_interrupted(storage, monkeypatch, capsys):
    begin(storage, config(), step=40)
    (storage / "trials" / config().trial_id / "run.json").write_bytes(b'{"host": "evil\\u001b[2J", "device": "cpu"}')
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt
        begin(storage, config(), step=60)

    monkeypatch.setattr("mdssl.trials.status_output.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch_status(storage)
    printed = capsys.readouterr().out
    assert printed.index("40/100") < printed.index("60/100")
    assert "evil\\x1b[2J" in printed, "control characters are escaped"
    assert looks == [5.0, 5.0]


def test_printed_status_shows_counts_progress_and_errors(storage):
    begin(storage, config(seed=1), step=40)
    failed = {"status": "failed", "step": 7, "error": "the loss is nan [at step 7]"}
    begin(storage, config(seed=2), training=failed, claimed=False)
    (storage / "trials" / config(seed=2).trial_id / "logs" / "a.txt").write_bytes(b"what it said")
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    printed = console.file.getvalue()
    assert f"{storage.uri}: 1 failed, 1 training" in printed
    line = next(line for line in printed.splitlines() if config(seed=1).trial_id in line)
    assert "40/100" in line and "48s" in line
    assert "seed=1" in printed
    on = f"{config(seed=1).trial_id} on gpu3 (NVIDIA H200, 2 workers), claimed by head:"
    assert any(said.startswith(on) and said.endswith(" (lambda_grid)") for said in printed.splitlines())
    log = storage / "trials" / config(seed=2).trial_id / "logs"
    assert f"{config(seed=2).trial_id} failed: the loss is nan [at step 7]; log: {log}" in printed
    table = [line for line in printed.splitlines() if "/100 " in line]
    assert max(map(len, table)) <= 80
    (head,) = (line for line in printed.splitlines() if "views/s" in line)
    assert head.index("step") + len("step") == table[0].index("/100") + len("/100"), "numbers are right-aligned"
    narrow = Console(file=io.StringIO(), width=50)
    print_status(storage, narrow)
    assert table[1].rstrip() in narrow.file.getvalue(), "the table is not cropped"
    (storage / "trials" / config(seed=1).trial_id / "run.json").write_bytes(b'{"host": "gpu3", "workers": 1}')
    print_status(storage, narrow)
    assert f"{config(seed=1).trial_id} on gpu3 (), claimed" in narrow.file.getvalue()


def test_mixtures_show_dataset_variants_before_their_trials_finish(storage):
    part = {"status": "finished", "step": 100, "variants": {"svhn": "4,434 of 73,257"}}
    own = {"domains": ("cifar10", "svhn"), "data_fingerprint": "f" * 64}
    begin(storage, config(**own), step=100, training=part)
    begin(storage, config(**own, seed=1), step=40)
    begin(storage, config(domains=("cifar10", "stl10")), step=40)
    marked = "cifar10+svhn (4,434 of 73,257)"
    assert {trial.mixture for trial in trial_statuses(storage)} == {marked, "cifar10+stl10"}
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    assert "4,434 of" in console.file.getvalue()


def test_an_empty_storage_has_no_trials(tmp_path):
    os.mkdir(tmp_path / "[red]")
    storage = Location.of(tmp_path / "[red]")
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    assert console.file.getvalue().strip() == f"{storage.uri}: no trials"


def test_trials_that_cannot_be_read_are_named_beside_the_others(storage, capsys):
    begin(storage, config(), step=40)
    newer, scored = config(seed=1), config(seed=2)
    begin(storage, newer)
    (storage / "trials" / newer.trial_id / "config.json").write_bytes(json.dumps({"method": "later"}).encode())
    row = finished_score(scored, "a")
    write_rows(storage, scored.trial_id, [row | {"config_json": row["config_json"].replace('"mdssl"', '"later"')}])
    console = Console(file=io.StringIO(), width=80)
    print_status(storage, console)
    printed = console.file.getvalue()
    assert "1 training, 2 unreadable" in printed and config().trial_id in printed
    print_json(storage)
    output, errors = capsys.readouterr()
    assert [entry["trial_id"] for entry in json.loads(output)] == [config().trial_id]
    for text in (printed, errors):
        assert f"{newer.trial_id}/config.json: unknown method 'later'" in text and "A newer mdssl may have it" in text
        assert f"trial {scored.trial_id} on the leaderboard: unknown method 'later'" in text


def test_eta_includes_evaluation_of_training_and_evaluating_trials(storage):
    def said():
        out = io.StringIO()
        print_status(storage, Console(file=out, width=80))
        return out.getvalue().splitlines()[0]

    slow, evaluated, done = config(seed=0), config(seed=1), config(seed=2)
    begin(storage, slow, step=40, views_per_second=20.0)
    begin(storage, evaluated, step=100, training={"status": "finished", "step": 100})
    # 60 steps with 40 views each.
    assert said().endswith("1 training, 1 evaluating; ETA over 2m00s for running trials")
    scores = [finished_score(done, name) | {"eval_seconds": seconds} for name, seconds in (("a", 90.0), ("b", 60.0))]
    write_rows(storage, done.trial_id, scores)
    # Evaluations run one after another: the second begins 30 seconds after its training.
    assert said().endswith("1 training, 1 evaluating, 1 finished; ETA 5m00s for running trials")
