import math

import pandas as pd
import pytest
from leaderboard_rows import failed, row

from mdssl.results.leaderboard import read, write_rows
from mdssl.results.ledger import TOLERANCE, VERDICTS, counts, ledger, standard_error
from mdssl.results.published import published

PAPER = {
    "arch": "resnet50",
    "stem": "imagenet",
    "iterations": 48_000,
    "batch_per_domain": 1024,
    "optimizer": "lars",
    "learning_rate": 4.0,
    "probe": "sgd-raw",
    "num_test": 10_000,
}
SMALL = PAPER | {"arch": "resnet18", "iterations": 500}
SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}
CIFAR10 = SIMCLR | {"train_mixture": "cifar10", "num_domains": 1}
UNION = SIMCLR | {"train_mixture": "cifar10+stl10+svhn", "num_domains": 3}
MDSSL = UNION | {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1}


@pytest.fixture
def write(storage):
    """A function that writes a trial with these scores, and gives the leaderboard so far."""
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


def test_without_trials_every_published_number_is_there_and_none_is_judged(storage):
    claims = ledger(read(storage))
    scores = claims[claims["kind"] == "score"]
    assert sorted(scores["published"]) == sorted(published()["top1"])
    assert (claims["kind"] == "cost").sum() == 9
    assert set(claims["verdict"]) == {"not run", "implausible"}
    assert claims["ours"].isna().all()
    assert set(scores.loc[scores["verdict"] == "implausible", "eval_dataset"]) == {"cifar100"}
    assert sum(counts(claims).values()) == len(claims)


@pytest.mark.parametrize(
    ("top1", "verdict"), [(56.9, "agrees"), (55.0, "agrees"), (57.1, "differs"), (54.9, "differs")]
)
def test_ours_by_the_papers_recipe_agree_within_a_point(write, top1, verdict):
    line = claim(write({"svhn": top1}, **CIFAR10, **PAPER))
    assert line["verdict"] == verdict
    assert line["difference"] == pytest.approx(top1 - 55.97)
    assert line["tolerance"] == TOLERANCE
    assert line["command"] == "python sweeps/paper.py table1"


def test_a_spread_over_seeds_widens_the_tolerance(write):
    write({"svhn": 57.0}, **CIFAR10, **PAPER, seed=0)
    line = claim(write({"svhn": 61.0}, **CIFAR10, **PAPER, seed=1))
    # Two seeds 4 points apart: the standard error of their mean is 2, and the test split adds half a point.
    assert line["ours"] == 59 and line["seeds"] == 2
    assert line["standard_error"] == pytest.approx(math.hypot(2, 100 * math.sqrt(0.59 * 0.41 / 10_000)))
    assert line["verdict"] == "agrees"


def test_more_seeds_do_not_shrink_the_error_of_the_test_split():
    assert standard_error([50.0], 2500) == pytest.approx(1)
    assert standard_error([50.0] * 9, 2500) == pytest.approx(1)


def test_a_small_test_split_widens_the_tolerance(write):
    line = claim(write({"svhn": 60.0}, **CIFAR10, **PAPER | {"num_test": 100}))
    assert line["verdict"] == "agrees"
    assert line["tolerance"] > 9


@pytest.mark.parametrize("off", [{"arch": "resnet18"}, {"iterations": 500}, {"probe": "lbfgs"}])
def test_another_recipe_is_shown_and_judges_nothing(write, off):
    line = claim(write({"svhn": 20.0}, **CIFAR10, **PAPER | off))
    assert line["verdict"] == "another recipe"
    assert line["ours"] == 20
    ((name, value),) = off.items()
    assert line["why"].startswith(f"{name} {value}")
    assert "(paper: " in line["why"]


def test_an_implausible_number_is_called_so_with_ours_beside_it(write):
    line = claim(write({"cifar100": 55.0}, **CIFAR10, **PAPER), "cifar100")
    assert (line["verdict"], line["ours"]) == ("implausible", 55)
    assert "top-5" in line["why"]


def test_of_several_recipes_the_closest_to_the_papers_is_taken(write):
    write({"svhn": 30.0, "stl10": 31.0}, **CIFAR10, **PAPER | {"arch": "resnet18", "iterations": 80})
    write({"svhn": 40.0}, **CIFAR10, **PAPER | {"iterations": 500})
    board = write({"svhn": 50.0}, **CIFAR10, **PAPER | {"iterations": 2_000})
    assert claim(board)["ours"] == 50
    # Where only the farther one was scored, it is the closest.
    assert claim(board, "stl10")["ours"] == 31
    assert claim(write({"svhn": 56.0}, **CIFAR10, **PAPER))["verdict"] == "agrees"


def test_a_trial_that_failed_is_not_run_and_says_so(storage):
    write_rows(storage, "0" * 12, [failed(**CIFAR10)])
    line = claim(read(storage))
    assert (line["verdict"], line["why"]) == ("not run", "it failed")


def test_other_models_and_layers_are_none_of_its_business(write):
    write({"svhn": 56.0}, **CIFAR10, **PAPER, features="projection")
    write({"svhn": 56.0}, **CIFAR10 | {"method": "mdssl", "lambda2": 0.3}, **PAPER)
    assert claim(write({"svhn": 56.0}, **CIFAR10 | {"train_mixture": "eurosat"}, **PAPER))["verdict"] == "not run"


def test_a_mean_is_judged_when_all_of_its_scores_are_there(write):
    mean = {"kind": "mean", "source": "table3", "train_mixture": "cifar10+stl10+svhn", "method": "mdssl"}
    board = write({"cifar10": 87.5, "stl10": 65.0}, **MDSSL, **PAPER)
    line = claim(board, "seen", **mean)
    assert (line["verdict"], line["why"]) == ("not run", "not all of its scores are there")
    board = write({"svhn": 88.05, "cifar10": 87.5, "stl10": 65.0}, **MDSSL, **PAPER)
    assert claim(board, "seen", **mean)["verdict"] == "agrees"
    assert claim(board, "unseen", **mean)["verdict"] == "implausible"


@pytest.mark.parametrize(
    ("recipe", "mdssl", "verdict"), [(PAPER, 80.0, "agrees"), (PAPER, 70.2, "differs"), (SMALL, 80.0, "another recipe")]
)
def test_a_lead_over_simclr_needs_the_same_sign_beyond_its_error(write, recipe, mdssl, verdict):
    datasets = ("cifar10", "stl10", "svhn", "dtd", "tiny-imagenet")
    write(dict.fromkeys(datasets, 70.0), **UNION, **recipe)
    board = write(dict.fromkeys(datasets, mdssl), **MDSSL, **recipe)
    line = claim(board, "MDSSL − SimCLR", "lead", "table3", train_mixture="cifar10+stl10+svhn")
    assert line["ours"] == pytest.approx(mdssl - 70)
    assert line["published"] == pytest.approx(5.016)
    assert line["verdict"] == verdict


def test_hours_on_another_device_are_no_evidence(write):
    cost = {"device": "cpu", "train_seconds": 3600.0, "num_workers": 1, "encoder_mb": 90.0}
    for name in ("cifar10", "stl10", "svhn", "cifar100"):
        board = write({"svhn": 50.0}, **CIFAR10 | {"train_mixture": name}, **PAPER, **cost)
    claims = ledger(board)
    hours = claims[(claims["eval_dataset"] == "training hours") & (claims["method"] == "simclr")].iloc[0]
    assert (hours["ours"], hours["verdict"]) == (4, "another recipe")
    assert "GeForce RTX 2080" in hours["why"]


def test_every_verdict_is_explained(write):
    board = write({"svhn": 56.0, "stl10": 20.0, "cifar100": 50.0}, **CIFAR10, **PAPER)
    claims = ledger(board)
    assert set(claims["verdict"]) <= set(VERDICTS)
    assert counts(claims)["agrees"] >= 1
