import json
import math
from collections import Counter

import pandas as pd
import pytest
from factories import failed, row
from paper_rows import FOUR, MDSSL, SIMCLR, shown, write

from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.paper.printing import print_side_by_side
from mdssl.paper.published import averages, published, side_by_side

# Means that the paper prints: (table, mixture, method, kind of mean) -> percent.
PRINTED_MEANS = {
    ("table1", "cifar10", "simclr", "average"): 70.10,
    ("table1", "stl10", "simclr", "average"): 64.62,
    ("table1", "svhn", "simclr", "average"): 62.57,
    ("table1", "cifar100", "simclr", "average"): 71.57,
    ("table1", "cifar10+cifar100+svhn+stl10", "simclr", "average"): 70.94,
    ("table1", "cifar10+cifar100+svhn+stl10", "mdssl", "average"): 78.20,
    ("table3", "cifar10", "simclr", "average"): 56.80,
    ("table3", "stl10", "simclr", "average"): 53.18,
    ("table3", "svhn", "simclr", "average"): 50.03,
    ("table3", "cifar100", "simclr", "average"): 58.31,
    ("table3", "dtd", "simclr", "average"): 48.71,
    ("table3", "tiny-imagenet", "simclr", "average"): 60.55,
    ("table3", "imagenet250k", "simclr", "average"): 52.38,
    ("table3", "cifar10+stl10+svhn", "simclr", "seen"): 73.09,
    ("table3", "cifar10+stl10+svhn", "simclr", "unseen"): 47.44,
    ("table3", "cifar10+stl10+svhn", "mdssl", "seen"): 80.37,
    ("table3", "cifar10+stl10+svhn", "mdssl", "unseen"): 50.11,
    ("table3", "cifar100+dtd+tiny-imagenet", "simclr", "seen"): 51.98,
    ("table3", "cifar100+dtd+tiny-imagenet", "simclr", "unseen"): 68.18,
    ("table3", "cifar100+dtd+tiny-imagenet", "mdssl", "seen"): 56.29,
    ("table3", "cifar100+dtd+tiny-imagenet", "mdssl", "unseen"): 72.38,
    ("table3", "imagenet250k+cifar100+svhn", "simclr", "seen"): 64.88,
    ("table3", "imagenet250k+cifar100+svhn", "simclr", "unseen"): 57.98,
    ("table3", "imagenet250k+cifar100+svhn", "mdssl", "seen"): 79.40,
    ("table3", "imagenet250k+cifar100+svhn", "mdssl", "unseen"): 61.80,
    ("table4", "eurosat", "simclr", "average"): 76.09,
    ("table4", "chestxray", "simclr", "average"): 75.50,
    ("table4", "dtd", "simclr", "average"): 76.65,
    ("table4", "eurosat+chestxray+dtd", "simclr", "average"): 75.69,
    ("table4", "eurosat+chestxray+dtd", "mdssl", "average"): 77.25,
    ("table5", "imagenet", "pretrained", "average"): 49.05,
    ("table5", "cifar10+stl10+svhn", "mdssl", "average"): 65.24,
    ("table5", "cifar100+dtd+tiny-imagenet", "mdssl", "average"): 64.34,
}


def cell(table: pd.DataFrame, mixture: str, method: str, dataset: str) -> pd.Series:
    found = table[table["train_mixture"].eq(mixture) & table["method"].eq(method) & table["eval_dataset"].eq(dataset)]
    assert len(found) == 1
    return found.iloc[0]


def mdssl_cell(table: pd.DataFrame, dataset: str = "svhn") -> pd.Series:
    return cell(table, "cifar10+cifar100+svhn+stl10", "mdssl", dataset)


def test_published_values_are_complete_and_unique():
    everything = published()
    assert Counter(everything["experiment"]) == {"table1": 24, "table3": 78, "table4": 15, "table5": 18}
    assert not everything.duplicated(["experiment", "train_mixture", "method", "eval_dataset"]).any()
    assert everything["top1"].between(10, 100).all()
    parts = pd.concat([published(name) for name in ("table1", "table3", "table4", "table5")], ignore_index=True)
    pd.testing.assert_frame_equal(parts, everything)


def test_means_of_published_values_equal_the_means_printed_in_the_paper(storage):
    board = read(storage)
    means = pd.concat(averages(side_by_side(board, name)) for name in ("table1", "table3", "table4", "table5"))
    keys = zip(means["experiment"], means["train_mixture"], means["method"], means["eval_dataset"], strict=True)
    exact = dict(zip(keys, means["published"], strict=True))
    assert {key: math.floor(100 * mean + 1e-6) / 100 for key, mean in exact.items()} == PRINTED_MEANS
    # The paper truncates to two digits. Rounding would give these means a hundredth more than the paper prints.
    assert {key for key, mean in exact.items() if mean - PRINTED_MEANS[key] > 0.005 + 1e-6} == {
        ("table3", "cifar10", "simclr", "average"),
        ("table3", "stl10", "simclr", "average"),
        ("table3", "cifar100", "simclr", "average"),
        ("table3", "dtd", "simclr", "average"),
        ("table3", "cifar10+stl10+svhn", "simclr", "seen"),
        ("table3", "cifar10+stl10+svhn", "mdssl", "seen"),
        ("table3", "cifar100+dtd+tiny-imagenet", "mdssl", "unseen"),
        ("table4", "chestxray", "simclr", "average"),
    }


def test_tables_of_the_paper_agree_on_shared_values():
    by_cell = published().groupby(["train_mixture", "method", "lambda1", "lambda2", "eval_dataset"], dropna=False)
    assert (by_cell["top1"].nunique() == 1).all()


def test_an_empty_leaderboard_gives_the_published_values_as_not_run(storage):
    table = side_by_side(read(storage), "table1")
    assert len(table) == 24
    assert table["published"].notna().all()
    assert table[["ours", "difference"]].isna().all(axis=None)
    assert set(table["status"]) == {"not run"} and set(table["seeds"]) == {0}


def test_our_score_is_the_mean_over_seeds_for_any_order_of_domains(storage):
    ids = [write(storage, seed, {"svhn": 70.0 + 4 * seed}, seed=seed, **MDSSL) for seed in (0, 1)]
    # Trials of other models: another method, another lambda, and one more domain.
    write(storage, 7, {"svhn": 1.0}, **SIMCLR, train_mixture="cifar10+svhn")
    write(storage, 8, {"svhn": 2.0}, **MDSSL | {"lambda2": 0.2})
    write(storage, 9, {"svhn": 3.0}, **MDSSL | {"train_mixture": f"{FOUR}+dtd"})
    table = side_by_side(read(storage), "table1")
    found = mdssl_cell(table)
    assert (found["published"], found["ours"], found["seeds"], found["status"]) == (75.35, 72.0, 2, "ours")
    # For two seeds, Student's quantile is 12.706 and the standard error is half of the difference between the scores.
    spread = f"(2 seeds, sd {8**0.5:.2f}, 95 % interval {72 - 2 * 12.7062:.2f} to {72 + 2 * 12.7062:.2f})"
    assert f"mdssl cifar10+cifar100+svhn+stl10 at 1, 0.1 on svhn: 72.00 {spread}" in shown(print_side_by_side, table)
    assert found["difference"] == pytest.approx(-3.35)
    assert sorted(found["trial_ids"]) == ids
    assert found["recipe"] == "resnet18, 150 iterations, lbfgs probe"


def test_simclr_of_one_domain_is_the_single_domain_baseline(storage):
    write(storage, 1, {"svhn": 90.0}, **SIMCLR, train_mixture="svhn")
    write(storage, 2, {"svhn": 60.0}, **SIMCLR, train_mixture=FOUR)
    table = side_by_side(read(storage), "table1")
    assert cell(table, "svhn", "simclr", "svhn")[["published", "ours"]].tolist() == [92.42, 90.0]
    assert cell(table, "cifar10+cifar100+svhn+stl10", "simclr", "svhn")[["published", "ours"]].tolist() == [66.65, 60.0]
    assert Counter(table["status"]) == {"not run": 16, "not scored": 6, "ours": 2}


def test_scores_on_projection_features_are_ignored(storage):
    write_rows(storage, "a" * 12, [row("svhn", features="projection", **MDSSL)])
    assert mdssl_cell(side_by_side(read(storage), "table1"))["status"] == "not scored"


def test_status_gives_the_reason_for_a_missing_score(storage):
    write_rows(storage, "a" * 12, [failed(**MDSSL)])
    failed_score = failed(**MDSSL, **{"eval_dataset": "stl10", "probe": "lbfgs", "seed": 1})
    assert mdssl_cell(side_by_side(read(storage), "table1"))["status"] == "failed"
    write_rows(storage, "b" * 12, [row("svhn", **MDSSL, seed=1), failed_score])
    table = side_by_side(read(storage), "table1")
    assert [mdssl_cell(table, name)["status"] for name in ("svhn", "stl10", "cifar10")] == [
        "ours",
        "failed",
        "not scored",
    ]


def test_rows_that_differ_in_more_than_the_seed_are_not_averaged(storage):
    write(storage, 1, {"svhn": 50.0}, **MDSSL)
    write(storage, 2, {"svhn": 80.0}, **MDSSL, arch="resnet50", iterations=48_000)
    board = read(storage)
    with pytest.raises(ValueError, match=r"arch: resnet18, resnet50; iterations: 150, 48000\. Compare one value"):
        side_by_side(board, "table1")
    assert mdssl_cell(side_by_side(board[board["iterations"] == 48_000], "table1"))["ours"] == 80.0
    assert mdssl_cell(side_by_side(board[board["arch"] == "resnet18"], "table1"))["ours"] == 50.0
    # No model of table 4 is trained on these domains.
    assert set(side_by_side(board, "table4")["status"]) == {"not run"}


def test_settings_of_config_json_are_compared_and_can_be_filtered(storage):
    for number, decay in enumerate((1e-6, 1e-4)):
        said = json.dumps({"trial": {"method": "mdssl", "weight_decay": decay}})
        write(storage, number, {"svhn": 50.0 + number}, **MDSSL, config_json=said)
    board = read(storage)
    with pytest.raises(ValueError, match="weight_decay: 1e-06, 0.0001"):
        side_by_side(board, "table1")
    board = with_settings(board)
    assert mdssl_cell(side_by_side(board[board["weight_decay"] == 1e-4], "table1"))["ours"] == 51.0


def test_a_pretrained_encoder_needs_no_mixture_no_lambda_and_no_iterations(storage):
    nothing = {"train_mixture": "", "lambda1": None, "lambda2": None, "iterations": 0, "seen": False}
    write(storage, 1, {"dtd": 48.0}, method="pretrained", **nothing)
    write(storage, 2, {"dtd": 10.0}, method="random", **nothing)
    table = side_by_side(read(storage), "table5")
    assert cell(table, "imagenet", "pretrained", "dtd")[["published", "ours"]].tolist() == [47.36, 48.0]
    assert Counter(table["status"]) == {"ours": 1, "not scored": 5, "not run": 12}
    write(storage, 3, {"dtd": 49.0}, method="pretrained", **nothing, seed=1)
    text = shown(print_side_by_side, side_by_side(read(storage), "table5"))
    assert any(line.startswith("pretrained imagenet on dtd: 48.50 (2 seeds, ") for line in text)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("tabel1", "unknown experiment with published top-1 'tabel1'.*Did you mean 'table1'"),
        ("figure2", "allowed: table1, table3, table4, table5"),
    ],
)
def test_unknown_experiments_are_refused_with_the_nearest_name(storage, experiment, message):
    with pytest.raises(ValueError, match=message):
        side_by_side(read(storage), experiment)


def test_our_mean_requires_scores_for_all_cells_of_the_published_mean(storage):
    small = {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1, "train_mixture": "imagenet250k+svhn+cifar100"}
    write(storage, 1, {"svhn": 80.0, "cifar100": 60.0, "cifar10": 70.0}, **small)
    means = averages(side_by_side(read(storage), "table3"))
    seen, unseen = (cell(means, "imagenet250k+cifar100+svhn", "mdssl", kind) for kind in ("seen", "unseen"))
    # ImageNet is a training domain, but not an evaluation dataset.
    assert (seen["ours"], seen["status"], seen["seeds"]) == (70.0, "ours", 1)
    assert seen["difference"] == pytest.approx(70.0 - 79.40)
    assert pd.isna(unseen["ours"]) and unseen["status"] == "incomplete"


def test_our_mean_is_over_the_seeds_that_have_all_of_its_scores(storage):
    own = {"method": "mdssl", "lambda1": 0.9, "lambda2": 0.15, "train_mixture": "eurosat+chestxray+dtd"}
    for seed in (0, 1, 2):
        scores = {"eurosat": 60.0 + 10 * seed, "dtd": 50.0} | ({"chestxray": 90.0} if seed < 2 else {})
        write(storage, seed, scores, **own, seed=seed)
    board = read(storage)
    table = side_by_side(board, "table4")
    mean = cell(averages(table), own["train_mixture"], "mdssl", "average")
    assert mean["by_seed"] == {0: pytest.approx(200 / 3), 1: 70.0} and mean["seeds"] == 2
    assert mean["ours"] == pytest.approx(205 / 3)
    assert mean["difference"] == pytest.approx(205 / 3 - mean["published"])
    assert "mdssl eurosat+chestxray+dtd at 0.9, 0.15 on average: 68.33 (2 seeds" in " ".join(
        shown(print_side_by_side, table)
    )
    table = side_by_side(board[(board["seed"] == 2) == (board["eval_dataset"] == "eurosat")], "table4")
    mean = cell(averages(table), own["train_mixture"], "mdssl", "average")
    assert pd.isna(mean["ours"]) and (mean["seeds"], mean["status"]) == (0, "no seed has all of its scores")
    text = shown(print_side_by_side, table)
    assert "no seed has all of its scores: mdssl eurosat+chestxray+dtd on average" in text


@pytest.mark.parametrize("experiment", ["table1", "table3", "table4", "table5"])
def test_the_printed_table_fits_80_columns_and_marks_published_numbers(storage, experiment):
    write(storage, 1, {"svhn": 70.0, "cifar100": 40.0}, **MDSSL)
    table = side_by_side(read(storage), experiment)
    lines = shown(print_side_by_side, table)
    assert max(map(len, lines)) <= 80
    assert "published: numbers of the paper (ICLR 2022 submission), not ours" in lines
    blocks = table["eval_dataset"].nunique() + (3 if experiment == "table3" else 1)
    assert sum("published" in line.split() for line in lines) == blocks
    models = table.drop_duplicates(["method", "train_mixture"])
    assert sum(line.startswith(("simclr ", "mdssl ", "pretrained ")) for line in lines) >= len(models) * (blocks - 2)


def test_lines_show_published_score_ours_and_difference_or_dashes(storage):
    write(storage, 1, {"svhn": 70.0, "cifar100": 40.0}, **MDSSL)
    table = side_by_side(read(storage), "table1")
    text = shown(print_side_by_side, table)
    assert "ours: resnet18, 150 iterations, lbfgs probe" in text
    assert "not scored: mdssl cifar10+cifar100+svhn+stl10 on cifar10, stl10" in text
    lines = [line.split() for line in text]
    mdssl = ["mdssl", "cifar10+cifar100+svhn+stl10", "1", "0.1"]
    assert [*mdssl, "75.35", "70.00", "-5.35"] in lines
    assert [*mdssl, "83.05?", "40.00", "-43.05"] in lines, "CIFAR-100 is marked as implausible"
    assert ["simclr", "svhn", "1", "0", "92.42", "-", "-"] in lines


def test_our_models_with_different_settings_are_listed_separately(storage):
    write(storage, 1, {"svhn": 70.0}, **MDSSL)
    write(storage, 2, {"svhn": 90.0}, **SIMCLR, train_mixture="svhn", iterations=48_000)
    text = shown(print_side_by_side, side_by_side(read(storage), "table1"))
    assert "ours: resnet18, 150 iterations, lbfgs probe: mdssl cifar10+cifar100+svhn+stl10" in text
    assert "ours: resnet18, 48,000 iterations, lbfgs probe: simclr svhn" in text
