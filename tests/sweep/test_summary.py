"""The plan that a sweep prints at its start, and the pandas line at its end."""

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
from factories import CONTEXT, row
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.leaderboard.board import write_rows
from mdssl.storage.location import Location
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


def test_parts_of_a_dataset_are_not_averaged_with_the_whole(tmp_path):
    for number, (variant, top1) in enumerate([("", 70.0), ("4,434 of 73,257", 40.0)]):
        made = {"evaluation": {"data_fingerprint": str(number), "variant": variant}, "variants": {"svhn": variant}}
        write_rows(tmp_path, f"{number:012x}", [row("svhn", top1=top1, config_json=json.dumps(made))])
    assert scores(str(tmp_path), "svhn") == [40.0, 70.0]


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


def test_a_grid_over_lambda2_on_one_domain_gives_a_note(tiny_data, tmp_path):
    asked = {"data": str(tiny_data), "storage": str(tmp_path), "batch_per_domain": 8, "precision": "fp32"}
    console = Console(file=io.StringIO(), width=200)
    for domains in (("tiny-a",), ("tiny-a", "tiny-b")):
        settings = SweepSettings(domains=domains, lambda2=(0.0, 0.1), **asked)
        print_plan(console, "sweep", settings, Location.of(str(tmp_path)), [])
    assert console.file.getvalue().count("there is one training domain, tiny-a: lambda2 pushes") == 1
    assert "archived" not in console.file.getvalue()
