import json

import numpy as np
import pandas as pd
import pytest
from factories import failed, row
from scipy import stats

from mdssl.leaderboard.board import read, write_rows
from mdssl.paper.ledger import ledger
from mdssl.paper.published import published
from mdssl.paper.verdicts import MARGIN, VERDICTS
from mdssl.tables.statistics import interval, over_seeds

PAPER = {
    "arch": "resnet50",
    "stem": "imagenet",
    "iterations": 48_000,
    "batch_per_domain": 1024,
    "optimizer": "lars",
    "learning_rate": 4.0,
    "probe": "sgd-raw",
}
SMALL = PAPER | {"arch": "resnet18", "iterations": 500}
SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}
CIFAR10 = SIMCLR | {"train_mixture": "cifar10", "num_domains": 1}
UNION = SIMCLR | {"train_mixture": "cifar10+stl10+svhn", "num_domains": 3}
MDSSL = UNION | {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1}


@pytest.fixture
def write(storage):
    """A function that writes a trial with given scores and returns the leaderboard."""
    numbers = iter(range(1000))

    def write(scores: dict[str, float], **settings) -> pd.DataFrame:
        rows = [row(name, **{"top1": top1, **settings}) for name, top1 in scores.items()]
        write_rows(storage, f"{next(numbers):012x}", rows)
        return read(storage)

    return write


def claim(
    board: pd.DataFrame, dataset: str = "svhn", kind: str = "score", source: str = "table1", **model
) -> pd.Series:
    wanted = {"source": source, "kind": kind, "eval_dataset": dataset, "train_mixture": "cifar10", **model}
    claims = ledger(board)
    (line,) = [line for _, line in claims.iterrows() if all(line[name] == value for name, value in wanted.items())]
    return line


def test_without_trials_all_published_numbers_are_not_run_or_implausible(storage):
    claims = ledger(read(storage))
    scores = claims[claims["kind"] == "score"]
    assert sorted(scores["published"]) == sorted(published()["top1"])
    assert (claims["kind"] == "cost").sum() == 9
    assert set(claims["verdict"]) == {"not run", "implausible"}
    assert claims["ours"].isna().all()
    assert set(scores.loc[scores["verdict"] == "implausible", "eval_dataset"]) == {"cifar100"}


def test_intervals_over_seeds_have_95_percent_coverage():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 8):
        draws = pd.DataFrame({"draw": np.repeat(range(4000), seeds), "top1": rng.normal(50, 3, 4000 * seeds)})
        found = over_seeds(draws, ["draw"])
        # With 4,000 draws, three standard errors of a share of 95 % are one point.
        assert ((found["mean"] - 50).abs() <= found["half"]).mean() == pytest.approx(0.95, abs=0.0104)
        own = draws["top1"][:seeds]
        assert interval(own) == pytest.approx(stats.t.interval(0.95, seeds - 1, own.mean(), own.sem()))
    assert np.isnan(interval([50.0])).all() and np.isnan(interval([])).all()


# The published score is 55.97. The t-quantile of three seeds is 4.30; the interval is ± 4.30 / √3 = 2.48 deviations.
@pytest.mark.parametrize(
    ("top1", "verdict"),
    [
        ((55.9, 56.0, 56.1), "agrees"),
        ((54.3, 54.4, 54.5), "agrees"),
        ((53.8, 53.9, 54.0), "cannot be told"),
        ((53.2, 53.3, 53.4), "differs"),
        ((58.3, 58.4, 58.5), "differs"),
        ((60.0, 70.0, 80.0), "cannot be told"),
        ((50.0, 56.0, 62.0), "cannot be told"),
        ((56.0,), "cannot be told"),
    ],
)
def test_the_verdict_depends_on_the_interval_over_seeds_and_the_margin(write, top1, verdict):
    for seed, score in enumerate(top1):
        board = write({"svhn": score}, **CIFAR10, **PAPER, seed=seed)
    line = claim(board)
    assert line["verdict"] == verdict
    assert line["difference"] == pytest.approx(np.mean(top1) - 55.97)
    assert line["margin"] == MARGIN == 2
    assert line["command"] == "mdssl sweep paper table1 --probe sgd-raw"


def test_large_variation_over_seeds_prevents_agreement(write):
    ranks = []
    for number, spread in enumerate((0.1, 0.5, 2.0, 8.0)):
        for seed in (0, 1, 2):
            settings = PAPER | {"learning_rate": 4.0, "precision": f"fp{number}"}
            board = write({"svhn": 56.0 + spread * (seed - 1)}, **CIFAR10, **settings, seed=seed)
        newest = board[board["precision"] == f"fp{number}"]
        ranks.append(claim(newest)["verdict"])
    assert ranks == ["agrees", "agrees", "cannot be told", "cannot be told"]


SMALLER = {
    "svhn": ({"num_train": 4_434}, "svhn (4,434 of 73,257) is not the published dataset"),
    "dtd": ({"num_classes": 10}, "dtd (10 of 47 classes) is not the published dataset"),
    "eurosat": ({"num_test": 540}, "eurosat (540 of 5,400 test images) is not the published dataset"),
}


@pytest.mark.parametrize("dataset", SMALLER)
def test_scores_on_a_part_of_a_dataset_are_shown_but_not_compared(write, dataset):
    counts, why = SMALLER[dataset]
    model = {"source": "table3", "train_mixture": "cifar10"} if dataset == "dtd" else {}
    model = {"source": "table4", "train_mixture": "eurosat"} if dataset == "eurosat" else model
    settings = CIFAR10 | {"train_mixture": model.get("train_mixture", "cifar10")}
    for seed in (0, 1, 2):
        board = write({dataset: 60.0}, **settings, **PAPER | counts, seed=seed)
    line = claim(board, dataset, **model)
    assert (line["verdict"], line["ours"]) == ("different settings", 60)
    assert why in line["why"] and np.isnan(line["difference"])


def test_trials_on_whole_datasets_take_precedence_over_trials_on_parts(write):
    part = json.dumps({"recipe_version": 1, "variants": {"cifar10": "64×64 pixels"}})
    board = write({"svhn": 56.0}, **CIFAR10, **PAPER, config_json=part, data_fingerprint="a")
    assert claim(board)["why"] == "cifar10 (64×64 pixels) is not the published dataset"
    whole = json.dumps({"recipe_version": 1, "variants": {}})
    board = write({"svhn": 50.0}, **CIFAR10, **PAPER, config_json=whole, data_fingerprint="b")
    assert (claim(board)["ours"], claim(board)["verdict"]) == (50, "cannot be told")


@pytest.mark.parametrize("off", [{"arch": "resnet18"}, {"iterations": 500}, {"probe": "lbfgs"}])
def test_scores_with_different_settings_are_shown_but_not_compared(write, off):
    line = claim(write({"svhn": 20.0}, **CIFAR10, **PAPER | off))
    assert line["verdict"] == "different settings"
    assert line["ours"] == 20
    ((name, value),) = off.items()
    assert line["why"].startswith(f"{name} {value}")
    assert "(paper: " in line["why"]


@pytest.mark.parametrize(
    ("off", "why"),
    [
        ({"init": "torchvision", "init_fingerprint": "a"}, "init torchvision (paper: random)"),
        ({"encoder_lr_scale": 0.0}, "encoder lr scale 0 (paper: 1)"),
        ({"schedule": "wsd"}, "schedule wsd (paper: cosine)"),
        ({"sampling": "proportional"}, "sampling proportional (paper: balanced)"),
        ({"method": "pretrained", "input_size": 224}, "input size 224 (paper: 32)"),
    ],
)
def test_settings_without_a_column_are_compared_with_the_papers(write, off, why):
    said = json.dumps({"trial": {"method": "simclr", **off}})
    model = {"method": "pretrained", "train_mixture": ""} if "method" in off else CIFAR10
    for seed in (0, 1, 2):
        board = write({"svhn": 55.97}, **model, **PAPER, seed=seed, config_json=said)
    wanted = {"source": "table5", "train_mixture": "imagenet"} if "method" in off else {}
    line = claim(board, **wanted)
    assert line["verdict"] == "different settings" and line["why"].startswith(why)


@pytest.mark.parametrize("probe", ["sgd-raw", "sgd-raw(iterations=30000)"])
def test_both_probe_lengths_of_the_paper_are_comparable(write, probe):
    line = claim(write({"svhn": 50.0}, **CIFAR10, **PAPER | {"probe": probe}))
    assert line["verdict"] == "cannot be told"


def test_implausible_published_numbers_are_marked_and_shown_with_ours(write):
    line = claim(write({"cifar100": 55.0}, **CIFAR10, **PAPER), "cifar100")
    assert (line["verdict"], line["ours"]) == ("implausible", 55)
    assert "top-5" in line["why"]


def test_trials_with_the_settings_closest_to_the_paper_are_selected(write):
    write({"svhn": 30.0, "stl10": 31.0}, **CIFAR10, **PAPER | {"arch": "resnet18", "iterations": 80})
    write({"svhn": 40.0}, **CIFAR10, **PAPER | {"iterations": 500})
    board = write({"svhn": 50.0}, **CIFAR10, **PAPER | {"iterations": 2_000})
    assert claim(board)["ours"] == 50
    # Only the trial with settings farther from the paper has a score on stl10.
    assert claim(board, "stl10")["ours"] == 31
    assert claim(write({"svhn": 56.0}, **CIFAR10, **PAPER))["verdict"] == "cannot be told"


def test_a_failed_trial_gives_the_verdict_not_run_with_the_reason(storage):
    write_rows(storage, "0" * 12, [failed(**CIFAR10)])
    line = claim(read(storage))
    assert (line["verdict"], line["why"]) == ("not run", "it failed")


def test_scores_of_other_models_and_layers_are_ignored(write):
    write({"svhn": 56.0}, **CIFAR10, **PAPER, features="projection")
    write({"svhn": 56.0}, **CIFAR10 | {"method": "mdssl", "lambda2": 0.3}, **PAPER)
    assert claim(write({"svhn": 56.0}, **CIFAR10 | {"train_mixture": "eurosat"}, **PAPER))["verdict"] == "not run"


def test_a_mean_has_a_verdict_only_if_all_its_scores_exist(write):
    mean = {"kind": "mean", "source": "table3", "train_mixture": "cifar10+stl10+svhn", "method": "mdssl"}
    board = write({"cifar10": 87.5, "stl10": 65.0}, **MDSSL, **PAPER)
    line = claim(board, "seen", **mean)
    assert (line["verdict"], line["why"]) == ("not run", "some of its scores are missing")
    # Scores of the seeds differ by points, but their means differ by tenths.
    for seed, off in enumerate((-3.0, 0.0, 3.0)):
        scores = {"svhn": 88.05 + off, "cifar10": 87.5 - off, "stl10": 65.0 + off / 30}
        board = write(scores, **MDSSL, **PAPER | {"precision": "bf16"}, seed=seed)
    board = board[board["precision"] == "bf16"]
    line = claim(board, "seen", **mean)
    assert (line["verdict"], line["seeds"]) == ("agrees", 3)
    assert claim(board, "svhn", **mean | {"kind": "score"})["verdict"] == "cannot be told"
    assert claim(board, "unseen", **mean)["verdict"] == "implausible"


@pytest.mark.parametrize(
    ("recipe", "leads", "verdict"),
    [
        (PAPER, (9.0, 10.0, 11.0), "agrees"),
        (PAPER, (-9.0, -10.0, -11.0), "differs"),
        (PAPER, (-1.0, 0.2, 1.0), "cannot be told"),
        (PAPER, (10.0,), "cannot be told"),
        (SMALL, (9.0, 10.0, 11.0), "different settings"),
    ],
)
def test_a_lead_over_simclr_agrees_if_its_interval_has_the_same_sign(write, recipe, leads, verdict):
    datasets = ("cifar10", "stl10", "svhn", "dtd", "tiny-imagenet")
    for seed, lead in enumerate(leads):
        # Seeds differ by more than the lead, but the lead is paired by seed.
        write(dict.fromkeys(datasets, 50.0 + 20 * seed), **UNION, **recipe, seed=seed)
        board = write(dict.fromkeys(datasets, 50.0 + 20 * seed + lead), **MDSSL, **recipe, seed=seed)
    line = claim(board, "MDSSL − SimCLR", "lead", "table3", train_mixture="cifar10+stl10+svhn")
    assert (line["ours"], line["seeds"]) == (pytest.approx(np.mean(leads)), len(leads))
    assert line["published"] == pytest.approx(5.016)
    assert line["verdict"] == verdict


OF_TABLE_4 = {"source": "table4", "train_mixture": "eurosat+chestxray+dtd"}
MEAN_4, LEAD_4 = ("average", "mean"), ("MDSSL − SimCLR", "lead")


@pytest.mark.parametrize(
    ("of_mdssl", "of_dtd", "difference"),
    [
        ({"precision": "fp32"}, {}, "precision: fp32, bf16"),
        ({"probe": "sgd-raw(iterations=30000)"}, {}, "probe: sgd-raw(iterations=30000), sgd-raw"),
        ({}, {"precision": "fp32"}, "precision: bf16, fp32"),
    ],
)
def test_a_mean_or_lead_of_scores_with_different_settings_is_not_compared(write, of_mdssl, of_dtd, difference):
    model = {"train_mixture": OF_TABLE_4["train_mixture"]}
    usual = PAPER | {"precision": "bf16"}
    for seed in (0, 1, 2):
        write({"eurosat": 86.0, "chestxray": 94.0, "dtd": 46.0}, **UNION | model, **usual, seed=seed)
        mdssl = MDSSL | model | {"lambda2": 0.15} | usual | of_mdssl
        write({"eurosat": 87.0, "chestxray": 94.4}, **mdssl, seed=seed)
        board = write({"dtd": 50.2 + seed / 10}, **mdssl | of_dtd, seed=seed)
    lead = claim(board, *LEAD_4, method="mdssl", **OF_TABLE_4)
    assert lead["verdict"] == "different settings" and difference in lead["why"]
    assert lead["ours"] == pytest.approx(1.9)
    mean = claim(board, *MEAN_4, method="mdssl", **OF_TABLE_4)
    assert mean["verdict"] == ("different settings" if of_dtd else "agrees")


def test_scores_without_a_seed_in_common_have_no_mean_and_no_lead(write):
    model = {"train_mixture": OF_TABLE_4["train_mixture"]}
    mdssl = MDSSL | model | {"lambda2": 0.15} | PAPER
    for seed in (0, 1):
        write({"eurosat": 86.0, "chestxray": 94.0, "dtd": 46.0}, **UNION | model, **PAPER, seed=seed)
        board = write({"eurosat": 87.0, "chestxray": 94.4, "dtd": 50.0}, **mdssl, seed=seed + 2)
    lead = claim(board, *LEAD_4, method="mdssl", **OF_TABLE_4)
    assert (lead["verdict"], lead["seeds"], lead["why"]) == ("cannot be told", 0, "no seed has all of its scores")
    other = board[(board["method"] == "mdssl") & ((board["seed"] == 2) | (board["eval_dataset"] != "dtd"))]
    mean = claim(other, *MEAN_4, method="mdssl", **OF_TABLE_4)
    assert (mean["verdict"], mean["seeds"], mean["why"]) == ("cannot be told", 1, "one seed has no interval")
    other = other[(other["seed"] == 2) == (other["eval_dataset"] == "dtd")]
    mean = claim(other, *MEAN_4, method="mdssl", **OF_TABLE_4)
    assert np.isnan(mean["ours"])
    assert (mean["verdict"], mean["seeds"], mean["why"]) == ("cannot be told", 0, "no seed has all of its scores")


def test_training_hours_on_another_device_are_not_compared(write):
    cost = {"device": "cpu", "train_seconds": 3600.0, "num_workers": 1, "encoder_mb": 90.0}
    for name in ("cifar10", "stl10", "svhn", "cifar100"):
        board = write({"svhn": 50.0}, **CIFAR10 | {"train_mixture": name}, **PAPER, **cost)
    claims = ledger(board)
    hours = claims[(claims["eval_dataset"] == "training hours") & (claims["method"] == "simclr")].iloc[0]
    assert (hours["ours"], hours["verdict"]) == (4, "different settings")
    assert "GeForce RTX 2080" in hours["why"]


def test_every_verdict_is_explained(write):
    board = write({"svhn": 56.0, "stl10": 20.0, "cifar100": 50.0}, **CIFAR10, **PAPER)
    claims = ledger(board)
    assert set(claims["verdict"]) <= set(VERDICTS)
    assert "cannot be told" in set(claims["verdict"])
