"""Costs of our trials compared with the costs in table 2."""

import json

import pandas as pd
import pytest
from paper_rows import MDSSL, SIMCLR, shown, write

from mdssl.leaderboard.board import read
from mdssl.paper.costs import resources_side_by_side
from mdssl.paper.ledger import ledger
from mdssl.paper.printing import print_resources


def resource(table: pd.DataFrame, name: str, method: str) -> pd.Series:
    (found,) = (line for _, line in table.iterrows() if (line["resource"], line["method"]) == (name, method))
    return found


COST = {"device": "NVIDIA H200", "num_workers": 1, "encoder_mb": 90.0}


@pytest.fixture
def paid(storage):
    """Four single-domain models of an hour each, svhn with two more seeds, and one MDSSL model of three hours."""
    for number, name in enumerate(("cifar10", "stl10", "svhn", "cifar100")):
        write(storage, number, {name: 50.0, "svhn": 5.0}, **SIMCLR, train_mixture=name, train_seconds=3600.0, **COST)
    for seed, seconds in ((1, 3600.0), (2, 7200.0)):
        changes = {"train_mixture": "svhn", "seed": seed, "train_seconds": seconds}
        write(storage, 10 + seed, {"svhn": 50.0}, **SIMCLR, **changes, **COST)
    write(storage, 20, {"svhn": 50.0}, **MDSSL, train_seconds=10_800.0, **COST | {"num_workers": 2})
    return storage


def test_table_2_sums_four_models_and_counts_each_trial_once(paid):
    table = resources_side_by_side(read(paid))
    hours = resource(table, "training_hours", "simclr")
    assert hours["ours"] == pytest.approx(3 + 4 / 3)
    assert (hours["published"], hours["models"], hours["trained"], len(hours["trial_ids"])) == (42.41, 4, 4, 6)
    assert resource(table, "training_hours", "mdssl")[["published", "ours"]].tolist() == [34.95, 3.0]
    assert [resource(table, "disk_mb", method)["ours"] for method in ("simclr", "mdssl", "change")] == [360, 90, -75]
    assert [resource(table, "gpus", method)["ours"] for method in ("simclr", "mdssl", "change")] == [4, 2, -50]
    # The changes that the paper prints.
    changes = [round(resource(table, name, "change")["published"], 2) for name in ("training_hours", "disk_mb", "gpus")]
    assert changes == [-17.59, -75, -50]
    assert set(table["status"]) == {"ours"}


def test_table_2_has_no_sum_while_a_model_is_missing(storage):
    write(storage, 1, {"svhn": 50.0}, **SIMCLR, train_mixture="svhn", train_seconds=3600.0, **COST)
    line = resource(resources_side_by_side(read(storage)), "training_hours", "simclr")
    assert pd.isna(line["ours"]) and line["status"] == "1 of 4 models"


def test_workers_on_a_cpu_do_not_count_as_gpus(storage):
    write(storage, 1, {"svhn": 50.0}, **MDSSL, train_seconds=60.0, encoder_mb=90.0, device="cpu", num_workers=4)
    assert resource(resources_side_by_side(read(storage)), "gpus", "mdssl")["ours"] == 0


def test_hours_on_different_devices_are_not_averaged(paid):
    write(paid, 30, {"svhn": 50.0}, **MDSSL, seed=1, train_seconds=1.0, **COST | {"device": "cpu"})
    with pytest.raises(ValueError, match="device: NVIDIA H200, cpu; num_workers: 2, 1"):
        resources_side_by_side(read(paid))
    table = resources_side_by_side(read(paid, device="NVIDIA H200"))
    assert resource(table, "training_hours", "mdssl")["ours"] == 3.0


def test_table_2_is_printed_with_published_values(paid):
    table = resources_side_by_side(read(paid))
    lines = shown(print_resources, table)
    assert max(map(len, lines[2:])) <= 80
    assert ["training", "hours", "mdssl", "1", "h", "34.95", "3.00", "-31.95", "ours"] in [
        line.split() for line in lines
    ]


def test_costs_of_training_on_other_data_have_no_verdict(storage):
    recipe = {"arch": "resnet50", "stem": "imagenet", "iterations": 48_000, "batch_per_domain": 1024}
    cost = COST | {"device": "NVIDIA GeForce RTX 2080", "train_seconds": 38_000.0}
    for number, name in enumerate(("cifar10", "stl10", "svhn", "cifar100")):
        said = json.dumps({"variants": {"svhn": "4,434 of 73,257"} if name == "svhn" else {}})
        write(storage, number, {"cifar10": 50.0}, **SIMCLR, train_mixture=name, **recipe, **cost, config_json=said)
    board = read(storage)
    for rows, verdict, why in (
        (board, "different settings", "svhn (4,434 of 73,257) is not the published dataset"),
        (board.assign(config_json="{}"), "agrees", ""),
    ):
        claims = ledger(rows)
        hours = claims[(claims["eval_dataset"] == "training hours") & (claims["method"] == "simclr")].iloc[0]
        assert (hours["verdict"], hours["why"]) == (verdict, why)
