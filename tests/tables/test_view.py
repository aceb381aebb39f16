"""Views compared with plain pandas, on the results of a real sweep and on synthetic leaderboards."""

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, failed, row

from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.tables.select import parse_condition
from mdssl.tables.sweep_table import sweep_table
from mdssl.tables.view import view

DATASETS = ["builtin-clutter", "builtin-shapes", "builtin-textures", "builtin-digits"]
SETTINGS = ["method", "lambda1", "lambda2"]


@pytest.fixture(scope="module")
def board(sweep_results) -> pd.DataFrame:
    return with_settings(read(sweep_results))


def conditions(*texts: str) -> list:
    return [parse_condition(text) for text in texts]


def test_the_default_view_has_a_row_per_trial_a_column_per_dataset_and_an_average(board):
    shown = view(board)
    assert list(shown.frame) == ["trial_id", *SETTINGS, "seed", *DATASETS, "average"]
    expected = board.pivot(index="trial_id", columns="eval_dataset", values="top1")[DATASETS]
    found = shown.frame.set_index("trial_id")
    pd.testing.assert_frame_equal(found[DATASETS].sort_index(), expected, check_names=False)
    pd.testing.assert_series_equal(found["average"].sort_index(), expected.mean(axis=1), check_names=False)
    assert shown.frame["method"].tolist() == ["random"] * 2 + ["simclr"] * 2 + ["mdssl"] * 12


def test_rows_over_seeds_show_mean_deviation_and_number_of_seeds(board):
    frame = view(board, over_seeds=True).frame
    assert list(frame)[:3] == SETTINGS
    groups = board.groupby([*SETTINGS, "eval_dataset"], dropna=False)["top1"].agg(["mean", "std", "count"])
    for own in frame.to_dict("records"):
        for name in DATASETS:
            of_seeds = board[
                (board["method"] == own["method"])
                & ((board["lambda1"] == own["lambda1"]) | (own["method"] == "random"))
                & ((board["lambda2"] == own["lambda2"]) | (own["method"] == "random"))
                & (board["eval_dataset"] == name)
            ]["top1"]
            assert own[f"{name}_mean"] == pytest.approx(of_seeds.mean())
            assert own[f"{name}_sd"] == pytest.approx(of_seeds.std())
            assert own[f"{name}_seeds"] == 2
    assert len(frame) * len(DATASETS) == len(groups)


def test_a_view_can_pivot_over_a_setting(board):
    shown = view(
        board,
        columns=("method", "lambda1", "top1", "knn_top1"),
        pivot="lambda2",
        where=conditions("eval_dataset=builtin-digits", "seed=1", "method=mdssl"),
    )
    chosen = board.query("eval_dataset == 'builtin-digits' and seed == 1 and method == 'mdssl'")
    expected = chosen.pivot(index="lambda1", columns="lambda2", values=["top1", "knn_top1"])
    found = shown.frame.set_index("lambda1").sort_index()
    for measure in ("top1", "knn_top1"):
        for lambda2 in (0.0, 0.05, 0.1):
            assert found[f"lambda2={lambda2:g}_{measure}"].tolist() == expected[measure, lambda2].tolist()


def test_a_view_has_the_given_columns_and_order_of_rows(board):
    where = conditions("top1>50", "method!=random")
    columns = ("method", "seed", "eval_dataset", "top1")
    frame = view(board, columns=columns, where=where, sort=("seed", "top1:desc")).frame
    expected = board[(board["top1"] > 50) & (board["method"] != "random")]
    expected = expected.sort_values(["seed", "top1"], ascending=[True, False])[list(columns)]
    assert frame[["seed", "top1"]].values.tolist() == expected[["seed", "top1"]].values.tolist()
    by_cost = view(board, columns=columns, sort=("train_seconds",)).frame
    assert by_cost["method"].tolist()[:8] == ["random"] * 8


def test_columns_all_shows_leaderboard_columns_and_hidden_settings(board):
    frame = view(board, columns=("all",)).frame
    assert set(frame) == set(board) - {"config_json"}
    key = ["trial_id", "eval_dataset"]
    pd.testing.assert_frame_equal(
        frame.sort_values(key, ignore_index=True),
        board.sort_values(key, ignore_index=True)[list(frame)],
        check_dtype=False,
    )


def test_the_baseline_is_found_even_if_a_filter_excludes_it(board):
    frame = view(board, where=conditions("method=mdssl", "eval_dataset=builtin-digits"), baseline=("simclr",)).frame
    simclr = board[(board["method"] == "simclr") & (board["eval_dataset"] == "builtin-digits")].set_index("seed")[
        "top1"
    ]
    found = frame["builtin-digits"] - frame["builtin-digits_vs_simclr"]
    assert found.tolist() == pytest.approx([simclr[seed] for seed in frame["seed"]])


def test_a_varying_hidden_setting_becomes_a_column_and_is_never_averaged(board):
    varied = board.copy()
    varied.loc[varied["seed"] == 1, "weight_decay"] = 0.1
    assert "weight_decay" in view(varied, over_seeds=True).frame
    with pytest.raises(ValueError, match="differ in weight_decay: .* Add weight_decay to columns"):
        view(varied, columns=(*SETTINGS, "eval_dataset", "top1"), over_seeds=True)


def test_an_average_requires_scores_on_all_datasets(board):
    lacking = board.drop(board.index[board["trial_id"] == "a8775168321c"][0])
    frame = view(lacking).frame.set_index("trial_id")
    assert frame.index[frame["average"].isna()].tolist() == ["a8775168321c"]


def test_averages_ignore_datasets_that_few_trials_have(board):
    before = view(board, baseline=("simclr",)).frame.set_index("trial_id")
    one = board[board["method"] == "mdssl"].iloc[:1]
    # Scores on another dataset with the same probe, and on a third dataset with another probe.
    more = [one.assign(eval_dataset="cifar10", top1=99.0), one.assign(eval_dataset="svhn", top1=99.0, probe="sgd")]
    few = one.assign(trial_id="f" * 12, eval_dataset="cifar10", top1=99.5, lambda2=0.7)
    larger = pd.concat([board, *more, few], ignore_index=True)
    shown = view(larger, baseline=("simclr",), sort=("average:desc",))
    after = shown.frame[shown.frame["probe"] == "lbfgs"].set_index("trial_id")
    columns = ["average", "average_vs_simclr"]
    pd.testing.assert_frame_equal(after.loc[before.index, columns], before[columns])
    assert after.index[-1] == "f" * 12 and pd.isna(after["average"].iloc[-1])
    assert after["average"].iloc[0] == before["average"].max()
    assert any("left out" in note and "cifar10" in note for note in shown.notes)


def test_differences_are_the_same_in_views_and_in_the_sweep_table(board):
    draw = np.random.default_rng(0)
    noisy = board.assign(top1=draw.uniform(20, 90, len(board)).round(2))
    in_table = sweep_table(noisy, mixtures=list(set(noisy["train_mixture"]) - {""}), datasets=DATASETS[::-1])
    in_view = view(noisy, baseline=("simclr",)).frame.set_index("trial_id")
    # A baseline has no difference to itself, and an untrained encoder has several baselines in the view.
    trained = in_table.index[in_table["method"] == "mdssl"]
    assert in_table.loc[trained, "vs simclr"].tolist() == in_view.loc[trained, "average_vs_simclr"].tolist()


@pytest.fixture(scope="module")
def scored_on_three(tmp_path_factory) -> pd.DataFrame:
    """Two seeds each of three methods, trained on cifar10, on datasets that differ in classes and test images."""
    folder = tmp_path_factory.mktemp("results")
    sizes = {"cifar10": (10, 10000), "stl10": (10, 8000), "cifar100": (100, 10000)}
    draw = np.random.default_rng(0)
    for number in range(6):
        method = ("random", "simclr", "mdssl")[number // 2]
        rows = []
        for name, (classes, images) in sizes.items():
            top1 = 50 + 10 * (number // 2) - (30 if classes == 100 else 0) + round(draw.normal(0, 4), 1)
            own = {"seed": number % 2, "top1": top1, "knn_top1": top1 - 5, "seen": name == "cifar10"}
            own |= {"num_classes": classes, "num_test": images, "eval_seconds": draw.uniform(1, 9)}
            rows.append(row(name, method=method, train_mixture="cifar10", **own))
        write_rows(str(folder), f"{number:012x}", rows)
    return with_settings(read(str(folder)))


CHOICES = {
    "seen!=true": "seen != True",
    "num_test>9000": "num_test > 9000",
    "num_classes=10": "num_classes == 10",
    "top1>40": "top1 > 40",
    "knn_top1>20": "knn_top1 > 20",
    "eval_seconds<7": "eval_seconds < 7",
    "method=simclr,mdssl": "method != 'random'",
    "eval_dataset!=stl10": "eval_dataset != 'stl10'",
}


def means_in_pandas(rows: pd.DataFrame, over: list[str] | None = None) -> pd.Series:
    """The mean of each trial over ``over`` (default: datasets of most trained trials); null if a score is missing."""
    table = rows.pivot(index="trial_id", columns="eval_dataset", values="top1")
    return table[over or datasets_of_most(rows)].mean(axis=1, skipna=False).rename(None)


def datasets_of_most(rows: pd.DataFrame) -> list[str]:
    trained = rows[rows["train_mixture"] != ""]
    shares = trained.groupby("eval_dataset")["trial_id"].nunique() / trained["trial_id"].nunique()
    return list(shares.index[shares > 0.5])


@pytest.mark.parametrize("condition", CHOICES)
def test_the_average_is_over_the_datasets_that_the_table_shows(scored_on_three, condition):
    chosen = scored_on_three.query(CHOICES[condition])
    frame = view(scored_on_three, where=conditions(condition)).frame.set_index("trial_id").sort_index()
    pd.testing.assert_series_equal(frame["average"], means_in_pandas(chosen), check_names=False)
    assert set(chosen["eval_dataset"].unique()) <= set(frame)

    # Scores of the baseline count even if they do not meet the condition.
    same = scored_on_three[scored_on_three["eval_dataset"].isin(chosen["eval_dataset"])]
    of_baseline = means_in_pandas(same[same["method"] == "simclr"], datasets_of_most(chosen)).to_numpy()
    compared = view(scored_on_three, where=conditions(condition), baseline=("simclr",)).frame.set_index("trial_id")
    differences = compared["average_vs_simclr"].sort_index()
    expected = means_in_pandas(chosen) - of_baseline[[int(name, 16) % 2 for name in differences.index]]
    expected[compared["method"].sort_index() == "simclr"] = np.nan
    pd.testing.assert_series_equal(differences, expected, check_names=False)

    over_seeds = view(scored_on_three, where=conditions(condition), over_seeds=True).frame.set_index("method")
    methods = chosen.drop_duplicates("trial_id").set_index("trial_id")["method"]
    by_method = means_in_pandas(chosen).groupby(methods).mean()
    pd.testing.assert_series_equal(over_seeds["average_mean"].sort_index(), by_method, check_names=False)


def test_an_average_over_different_numbers_of_classes_has_no_number_of_classes(scored_on_three):
    columns = ("trial_id", "num_classes", "top1")
    frame = view(scored_on_three, columns=columns, pivot="eval_dataset").frame
    assert frame.loc[frame["average"].notna(), "num_classes"].isna().all()
    frame = view(scored_on_three, columns=columns, pivot="eval_dataset", where=conditions("num_classes=10")).frame
    assert frame["num_classes"].tolist() == [10] * 6 and frame["average"].notna().all()


def test_trials_without_scores_are_counted_in_a_note(storage):
    write_rows(storage, "1" * 12, [row("svhn")])
    write_rows(storage, "2" * 12, [failed()])
    rows = with_settings(read(storage))
    shown = view(rows)
    assert shown.frame["trial_id"].tolist() == ["1" * 12]
    assert "have no eval_dataset are not shown: 1, 1 of which failed" in shown.notes[0]
    assert view(rows, columns=("trial_id", "error"), where=conditions("status=failed")).frame.values.tolist() == [
        ["2" * 12, "the loss is nan"]
    ]


def test_scores_on_earlier_images_are_left_out_with_a_note(storage):
    for number, fingerprint in enumerate(["old", "new"]):
        config = f'{{"evaluation": {{"data_fingerprint": "{fingerprint}"}}, "recipe_version": 1, "trial": {{}}}}'
        finished = f"2026-11-0{number + 1}T10:00:00+00:00"
        write_rows(storage, f"{number:012x}", [row("svhn", seed=number, config_json=config, finished_at=finished)])
    rows = with_settings(read(storage))
    shown = view(rows, over_seeds=True)
    assert shown.frame["svhn_seeds"].tolist() == [1]
    assert "1 scores on earlier images of svhn" in shown.notes[0]
    assert view(rows, where=conditions("eval_fingerprint=old")).frame["trial_id"].tolist() == [f"{0:012x}"]


def test_mixtures_and_untrained_encoders_are_shown_in_one_table(storage):
    for number, mixture in enumerate(["cifar10+svhn", "cifar10"]):
        write_rows(storage, f"{number:012x}", [row("svhn", train_mixture=mixture)])
    write_rows(storage, "f" * 12, [row("svhn", **UNTRAINED)])
    frame = view(with_settings(read(storage))).frame
    assert frame["train_mixture"].tolist() == ["", "cifar10", "cifar10+svhn"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"columns": ("metod", "top1")}, "unknown leaderboard column 'metod'.*Did you mean 'method'"),
        ({"columns": ("all", "top1")}, "columns are all top1; 'all' cannot be combined"),
        ({"columns": ("all",), "over_seeds": True}, "columns are 'all', which cannot be combined with --over-seeds"),
        ({"columns": ("all",), "pivot": "lambda2"}, "columns are 'all', which cannot be combined with --pivot"),
        ({"pivot": "top1"}, "pivot is 'top1', which is a measured number"),
        ({"pivot": "lambda2", "columns": ("lambda2", "top1")}, "'lambda2' is both a column and the pivot"),
        ({"pivot": "lambda2", "columns": ("method",)}, "pivot: the columns have no measured number"),
        ({"baseline": ("simclr",), "columns": ("method",)}, "baseline: the columns have no measured number"),
        ({"over_seeds": True, "columns": ("seed", "top1")}, "a mean over seeds has no seed; leave out"),
        ({"over_seeds": True, "columns": ("trial_id", "top1")}, "no trial_id; leave out"),
        ({"over_seeds": True, "columns": ("method", "top1")}, "differ in eval_dataset: .* Add eval_dataset"),
        ({"pivot": "eval_dataset", "columns": (*SETTINGS, "top1")}, r"differ in seed: 0, 1.*\(--over-seeds\)"),
        ({"pivot": "eval_dataset", "columns": ("top1",)}, r"differ in train_mixture: \(none\), "),
        ({"sort": ("top1:desc",)}, "unknown column to sort by 'top1'.*is the pivoted number"),
        ({"sort": ("average:up",)}, "unknown direction to sort in 'up'; allowed: desc"),
        ({"sort": ("avrage:dsc",)}, "unknown column to sort by 'avrage'. Did you mean 'average'"),
    ],
)
def test_invalid_arguments_of_a_view_are_refused(board, asked, message):
    with pytest.raises(ValueError, match=message):
        view(board, **asked)


def test_only_rankings_by_test_scores_are_noted_as_optimistic(board):
    shown = ("trial_id", "eval_dataset", "top1", "train_seconds")
    says = "optimistic, the more so with more trials"
    assert says in " ".join(view(board, columns=shown, sort=("top1:desc",)).notes)
    assert says in " ".join(view(board, sort=("average",)).notes)
    for sort in ((), ("train_seconds",), ("eval_dataset",)):
        assert says not in " ".join(view(board, columns=shown, sort=sort).notes)
    validated = view(board.assign(val_top1=board["top1"]), columns=(*shown, "val_top1"), sort=("val_top1:desc",))
    assert says not in " ".join(validated.notes)
