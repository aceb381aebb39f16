"""The plan that a sweep prints at its start, and the pandas line at its end."""

import io
import json
import sys
from dataclasses import replace

import pandas as pd
import pytest
from factories import CONTEXT, row, tiny_trial
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.leaderboard.board import write_rows
from mdssl.storage.location import Location
from mdssl.sweep import launch, summary
from mdssl.sweep.grid import Work
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.summary import pandas_line, print_plan
from mdssl.trials.rows import failed_row


def write(storage: str, score: float, probe: str = "lbfgs", **changes) -> None:
    config = TrialConfig(**{"domains": ("a", "b"), "lambda2": 0.1, "precision": "fp32"} | changes)
    made = failed_row(config, "", context=CONTEXT, started_at="2026-11-02T10:00:00+00:00")
    scored = {"eval_dataset": "a", "seen": True, "features": "encoder", "probe": probe, "top1": score}
    counts = {"num_classes": 2, "num_train": 4, "num_test": 4}
    write_rows(storage, config.trial_id, [made | scored | counts | {"status": "finished", "error": None}])


def scores(storage, dataset: str = "a") -> list[float]:
    table = eval(pandas_line(Location.of(storage)), {"pd": pd})
    return sorted(float(value) for value in table[dataset])


@pytest.mark.parametrize(
    "changes",
    [{"domains": ("a", "c")}, {"temperature": 0.5}, {"weight_decay": 0.1}, {"probe": "sgd", "stem": "cifar"}],
    ids=["mixtures", "a setting with a column", "a setting without one", "probes"],
)
def test_settings_that_differ_between_rows_are_in_the_index(tmp_path, changes):
    write(str(tmp_path), 50.0)
    write(str(tmp_path), 60.0, **changes)
    assert scores(str(tmp_path)) == [50.0, 60.0]
    assert ('"temperature"' in pandas_line(Location.of(str(tmp_path)))) == ("temperature" in changes)


def test_parts_of_a_dataset_are_not_averaged_with_the_whole(tmp_path):
    for number, (variant, top1) in enumerate([("", 70.0), ("4,434 of 73,257", 40.0)]):
        made = {"evaluation": {"data_fingerprint": str(number), "variant": variant}, "variants": {"svhn": variant}}
        write_rows(tmp_path, f"{number:012x}", [row("svhn", top1=top1, config_json=json.dumps(made))])
    assert scores(str(tmp_path), "svhn") == [40.0, 70.0]


def test_the_index_names_mixtures_and_not_their_images_or_failed_trials(tmp_path):
    storage = Location.of(str(tmp_path))
    write(str(tmp_path), 50.0, data_fingerprint="x")
    assert "train_mixture" not in pandas_line(storage)
    write(str(tmp_path), 60.0, domains=("a", "c"), data_fingerprint="y")
    other = TrialConfig(domains=("a", "b"), lambda2=0.1, precision="fp32", data_fingerprint="x", temperature=0.5)
    score = {"eval_dataset": "a", "probe": "lbfgs", "data_fingerprint": ""}
    failure = failed_row(other, "e", context=CONTEXT, started_at="2026-11-02T10:00:00+00:00", score=score)
    write_rows(storage, other.trial_id, [failure])
    line = pandas_line(storage)
    assert '"train_mixture"' in line and "data_fingerprint" not in line and "temperature" not in line


def test_seeds_are_averaged(tmp_path):
    write(str(tmp_path), 50.0)
    write(str(tmp_path), 60.0, seed=1)
    assert scores(str(tmp_path)) == [55.0]


def test_a_foreign_file_gives_a_note(tmp_path):
    write(str(tmp_path), 50.0)
    (tmp_path / "leaderboard/stray.parquet").write_bytes(b"no table")
    assert pandas_line(Location.of(str(tmp_path))).startswith("note: ")


def test_the_plan_shows_the_cost_of_validation_scores(tiny_data, tmp_path):
    """The cost is measured in passes of an image through the network: one to score, six to train."""
    asked = {"domains": ("tiny-a", "tiny-b"), "batch_per_domain": 8, "iterations": 90, "scheduler": "asha"}
    settings = SweepSettings(data=str(tiny_data), storage=str(tmp_path), precision="fp32", **asked)
    counts = [len(open_dataset(tiny_data, name).split("train").labels) for name in ("tiny-a", "tiny-b")]
    console = Console(file=io.StringIO(), width=200)
    print_plan(console, "sweep", settings, Location.of(str(tmp_path)), [])
    share = 2 * sum(counts) / (90 * 2 * 8 * 6)
    text = console.file.getvalue()
    assert f"the 2 validation scores of a trial take some {100 * share:.2g} % of its time" in text
    assert ("takes 3 % of" in text) == (share > 0.03)
    print_plan(console, "sweep", replace(settings, scheduler="none"), Location.of(str(tmp_path)), [])
    assert console.file.getvalue().count("validation scores") == 1


def test_the_plan_is_complete_in_a_narrow_terminal(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "VALIDATION_FIT", 40)
    monkeypatch.setattr(summary, "VALIDATION_SCORED", 10)
    storage, out = Location.of(tmp_path / "[red]"), io.StringIO()
    first, second = (tiny_trial(iterations=90, seed=seed) for seed in range(2))
    (storage / "archive" / "trials" / first.trial_id / "config.json").write_bytes(b"{}")
    shared = {"domains": first.domains, "batch_per_domain": 8, "iterations": 90, "lr_warmup_iterations": 2}
    asked = SweepSettings(**shared, data=tiny_data, precision="fp32", score_every=23, dry_run=True)
    works = [Work(first, "queued", ("tiny-a", "tiny-b"), "train"), Work(second, "finished", ())]
    print_plan(Console(file=out, width=40), "sweep", asked, storage, works)
    random = replace(asked, search="random", trials=5, range=(("lambda1", "0.8", "1"),), score_every=None)
    space = Space(random, [{"method": "mdssl"}])
    print_plan(Console(file=out, width=40), "sweep", random, storage, [], to_choose=5, space=space)
    # Each of the 3 scores passes 50 images of 2 datasets; training passes 2 × 8 images 6 times at each of 90 steps.
    cost = "take some 3.5 % of its time; the same number takes 3 % of 104 steps"
    assert out.getvalue().splitlines() == [
        f"sweep: 2 trials on tiny-a+tiny-b in {storage.uri}: 1 finished, 1 queued to train",
        f"note: the 3 validation scores of a trial {cost}",
        f"note: {first.trial_id}: archived, and trained anew here; `mdssl archive --undo` brings trials back",
        f"  {first.trial_id}  mdssl λ1=0.9 λ2=0.1 seed=0  queued to train; to score: tiny-a, tiny-b",
        f"  {second.trial_id}  mdssl λ1=0.9 λ2=0.1 seed=1  finished",
        f"sweep: 0 trials on 0 mixtures in {storage.uri}: 5 chosen by random search as it runs",
        "search over lambda1 from 0.8 to 1",
    ]


def test_a_grid_over_lambda2_on_one_domain_gives_a_note(tiny_data, tmp_path):
    asked = {"data": str(tiny_data), "storage": str(tmp_path), "batch_per_domain": 8, "precision": "fp32"}
    console = Console(file=io.StringIO(), width=200)
    for domains, lambda2 in ((("tiny-a",), (0.1,)), (("tiny-a", "tiny-b"), (0.0, 0.1)), (("tiny-a",), (0.0, 0.1))):
        assert "there is one training domain" not in console.file.getvalue()
        settings = SweepSettings(domains=domains, lambda2=lambda2, **asked)
        print_plan(console, "sweep", settings, Location.of(str(tmp_path)), [])
    assert console.file.getvalue().count("there is one training domain, tiny-a: lambda2 pushes") == 1
    assert "archived" not in console.file.getvalue()


@pytest.mark.parametrize(("is_terminal", "width"), [(True, 77), (False, 160)])
def test_a_terminal_gets_lines_of_its_width_and_a_file_of_160(tiny_data, tmp_path, monkeypatch, is_terminal, width):
    seen = []
    monkeypatch.setenv("COLUMNS", "77")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setattr(launch, "print_plan", lambda console, *plan, **more: seen.append(console.width))
    settings = SweepSettings(domains=("tiny-a",), data=tiny_data, storage=str(tmp_path), dry_run=True)
    assert launch.run_sweep("sweep", settings, ["random"]) == 0
    assert seen == [width]
