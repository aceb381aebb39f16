"""Contents of figures, compared with results of pandas."""

import numpy as np
import pandas as pd
import pytest
from factories import failed
from figure_board import MIXTURES, a_board, at_one_lambda, board_of_all_kinds, grid_of, trial
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from mdssl import figures
from mdssl.figures.cost import costs_and_scores
from mdssl.figures.lambdas import best_lambdas
from mdssl.figures.saving import to_bytes
from mdssl.figures.style import COLORS


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return board_of_all_kinds()


def test_heatmap_cells_equal_pandas_means_and_the_best_cell_is_framed(board):
    figure = figures.lambda_heatmap(board, "svhn", mixture=MIXTURES[2])
    means = grid_of(board)[lambda df: df["eval_dataset"] == "svhn"].pivot_table("top1", "lambda1", "lambda2")
    means = means.sort_index(ascending=False)
    (axis,) = figure.axes
    written = {tuple(map(int, text.get_position()))[::-1]: text.get_text() for text in axis.texts}
    assert written == {place: f"{means.to_numpy()[place]:.1f}" for place in np.ndindex(means.shape)}
    (frame,) = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    best = np.unravel_index(means.to_numpy().argmax(), means.shape)
    assert (frame.get_y() + 0.5, frame.get_x() + 0.5) == best
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "0.9"]
    union = board[(board["method"] == "simclr") & (board["num_domains"] == 2) & (board["eval_dataset"] == "svhn")]
    assert f"SimCLR on the union: {union['top1'].mean():.1f}" in figure.get_supxlabel()


def test_heatmap_colors_diverge_at_the_baseline_and_no_cell_below_it_is_framed(board):
    union = board[(board["method"] == "simclr") & (board["num_domains"] == 2)].groupby("eval_dataset")["top1"].mean()
    for dataset, frames in (("svhn", 1), ("cifar10", 0)):
        figure = figures.lambda_heatmap(board, dataset, mixture=MIXTURES[2])
        image = figure.axes[0].images[0]
        for value in image.get_array().flatten():
            red, _, blue, _ = image.to_rgba(np.array([value]))[0]
            assert (blue > red) == (value > union[dataset]), value
        assert [f"{tick:.1f}" for tick in figure.axes[0].child_axes[0].get_yticks()] == [f"{union[dataset]:.1f}"]
        assert frames_of(figure) == frames
        assert sum(text.get_weight() == "bold" for text in figure.axes[0].texts) == frames
        assert ("No cell is above SimCLR on the union" in figure.get_supxlabel()) == (not frames)


def test_the_baseline_of_a_heatmap_has_the_seeds_of_its_cells(board):
    first = board[(board["method"] != "mdssl") | (board["seed"] == 0)]
    union = board[(board["method"] == "simclr") & (board["num_domains"] == 2) & (board["seed"] == 0)]
    note = figures.lambda_heatmap(first, "svhn", mixture=MIXTURES[2]).get_supxlabel()
    assert f"SimCLR on the union: {union.set_index('eval_dataset')['top1']['svhn']:.1f}" in note


def test_a_heatmap_cell_without_a_trial_is_empty_and_not_zero(board):
    hole = grid_of(board)[lambda df: ~((df["lambda1"] == 0.9) & (df["lambda2"] == 0.1))]
    texts = [text.get_text() for text in figures.lambda_heatmap(hole, "svhn").axes[0].texts]
    assert texts.count("–") == 1 and "0.0" not in texts


def test_lambda_curves_show_means_over_seeds_with_95_percent_intervals(board):
    figure = figures.lambda_curves(board, mixture=MIXTURES[2])
    by_lambda2 = figure.axes[1]
    own = grid_of(board)[lambda df: (df["eval_dataset"] == "cifar10") & (df["lambda1"] == 0.9)]
    spread = own.groupby("lambda2")["top1"].agg(["mean", "std"])
    lines = [line.get_ydata() for line in by_lambda2.lines]
    assert any(len(line) == 3 and np.allclose(line, spread["mean"]) for line in lines)
    corners = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in by_lambda2.collections])
    # 12.706 is Student's t for two seeds, from a table.
    half = 12.706 * spread["std"] / 2**0.5
    for edge in (*(spread["mean"] + half), *(spread["mean"] - half)):
        assert np.isclose(corners, edge, rtol=1e-4).any()
    assert "95 % interval, n = 2" in [text.get_text() for text in figure.legends[0].texts]
    assert "Means over 1 to 2 seeds" in figure.get_supxlabel()


def test_lambda_curves_of_one_seed_have_no_interval(board):
    figure = figures.lambda_curves(board[board["seed"] == 0], mixture=MIXTURES[2])
    assert not any(axis.collections for axis in figure.axes)
    assert "One seed" in figure.get_supxlabel()


def test_single_domain_baselines_are_lines_and_unseen_datasets_have_hollow_markers(board):
    figure = figures.domains_against_top1(at_one_lambda(board))
    for axis, name in zip(figure.axes, ("cifar10", "svhn", "stl10"), strict=True):
        assert axis.get_title(loc="left") == name
        alone = board[(board["train_mixture"] == name) & (board["eval_dataset"] == name)]["top1"]
        dotted = [
            line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2
        ]
        assert dotted == list(alone)
    faces = {
        line.get_markerfacecolor(): list(line.get_xdata()) for line in figure.axes[2].lines if line.get_marker() == "o"
    }
    assert faces == {COLORS[0]: [3, 4], "white": [2]}


def test_bar_heights_equal_the_means_of_each_method(board):
    (axis,) = figures.methods_bars(at_one_lambda(board), mixture=MIXTURES[2]).axes
    heights = [bar.get_height() for bars in axis.containers if hasattr(bars, "patches") for bar in bars]
    together = at_one_lambda(board)[lambda df: df["train_mixture"] == MIXTURES[2]].dropna(subset="top1")
    means = together.groupby(["method", "eval_dataset"])["top1"].mean()
    alone = board[(board["train_mixture"] == board["eval_dataset"])]["top1"]
    np.testing.assert_allclose(sorted(heights), sorted([*means, *alone]))
    assert axis.get_ylim()[0] == 0


def test_intervals_of_bars_are_cut_above_100_percent_and_not_below_the_mean(board):
    high = at_one_lambda(board).assign(top1=lambda df: 97.0 + 2 * df["seed"])
    (axis,) = figures.methods_bars(high, mixture=MIXTURES[2]).axes
    ends = [bars.lines[2][0].get_segments() for bars in axis.containers if isinstance(bars, ErrorbarContainer)]
    segments = [segment for of_method in ends for segment in of_method]
    assert len(segments) == 6
    # 12.706 is Student's t for two seeds, and the standard error is 1.
    for segment in segments:
        np.testing.assert_allclose(segment[:, 1], [98 - 12.706, 100], rtol=1e-4)


def test_lambdas_are_selected_on_the_datasets_that_trials_have_in_common():
    both = trial(1, ("cifar10", "svhn"), lambda1=0.9, lambda2=0.1)
    rows = a_board([*both, *trial(2, ("cifar10",), lambda1=1.0, lambda2=0.0)]).assign(val_top1=[60.0, 40.0, 55.0])
    assert best_lambdas(rows) == (0.9, 0.1)


def test_training_hours_equal_the_mean_training_times_of_the_trials(board):
    (axis,) = figures.training_hours(board).axes
    trials = board[(board["method"] == "mdssl") & (board["status"] == "finished")].drop_duplicates("trial_id")
    minutes = trials.groupby("num_domains")["train_seconds"].mean() / 60
    assert any(np.allclose(line.get_ydata(), minutes) for line in axis.lines if len(line.get_ydata()) == 3)
    assert "minutes" in axis.get_ylabel()


def test_a_trial_with_a_missing_score_has_no_point_in_the_cost_figure(board):
    lacking = board[~((board["trial_id"] == f"{1:012x}") & (board["eval_dataset"] == "svhn"))]
    assert set(board["trial_id"]) - set(costs_and_scores(lacking)["trial_id"]) >= {f"{1:012x}"}
    assert f"{2:012x}" in set(costs_and_scores(lacking)["trial_id"])


@pytest.mark.parametrize(
    ("changes", "draw", "message"),
    [
        ({"iterations": 999}, figures.lambda_curves, "differ in iterations: 150, 999"),
        ({"temperature": 0.5}, lambda df: figures.lambda_heatmap(df, "svhn"), "differ in temperature"),
        ({"probe": "sgd"}, figures.lambda_curves, "several probes: lbfgs, sgd"),
        ({"device": "NVIDIA H200"}, figures.cost_against_score, "on several devices .*: NVIDIA H200, cpu"),
        ({"train_mixture": "svhn+dtd"}, figures.lambda_curves, "several training mixtures"),
    ],
)
def test_figures_refuse_trials_that_differ_in_columns_not_shown(board, changes, draw, message):
    grid = grid_of(board)
    other = grid[grid["seed"] == 0].assign(**changes).assign(trial_id=lambda df: "e" + df["trial_id"].str[1:])
    with pytest.raises(ValueError, match=message):
        draw(pd.concat([grid, other]))


def test_figures_refuse_trials_that_differ_in_a_setting_of_config_json(board):
    grid = grid_of(board).copy()
    grid["config_json"] = [f'{{"trial": {{"weight_decay": {seed}}}}}' for seed in grid["seed"]]
    with pytest.raises(ValueError, match="differ in weight_decay"):
        figures.lambda_heatmap(grid, "svhn")


def test_unknown_datasets_are_refused_with_the_nearest_name(board):
    with pytest.raises(ValueError, match=r"unknown evaluation dataset 'svnh'.*Did you mean 'svhn'"):
        figures.lambda_heatmap(grid_of(board), "svnh")


def frames_of(figure) -> int:
    return sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches)


def test_all_best_cells_equal_to_one_decimal_are_framed(board):
    grid = grid_of(board)[lambda df: df["seed"] == 0].assign(top1=50.0)
    grid.loc[(grid["lambda1"] == 1.0) & (grid["lambda2"] == 0.2), "top1"] = 70.04
    grid.loc[(grid["lambda1"] == 0.9) & (grid["lambda2"] == 0.0), "top1"] = 69.96
    figure = figures.lambda_heatmap(grid, "svhn")
    assert frames_of(figure) == 2
    assert [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"] == ["70.0", "70.0"]
    assert "One seed. Framed: the best 2, equal to one decimal." in figure.get_supxlabel()
    heat = next(entry for entry in figures.gallery(grid).entries if entry.figure == "lambda-heatmap")
    assert heat.caption.startswith("One seed. Framed: the best 2, equal to one decimal.")
    assert (
        "one of 2 that are the best to one decimal"
        in next(entry for entry in figures.gallery(grid).entries if entry.name.endswith("svhn")).alt
    )


def test_all_heatmaps_of_a_grid_include_the_cells_of_failed_trials(board):
    rows = [failed(trial_id="e" * 12, lambda1=0.5, lambda2=0.4), failed(trial_id="d" * 12, lambda1=0.3, iterations=7)]
    rows.append(failed(trial_id="c" * 12, lambda1=0.7, train_mixture="svhn+dtd"))
    grid = grid_of(board)[lambda df: (df["eval_dataset"] != "svhn") | (df["lambda2"] != 0.2)]
    grid = pd.concat([grid, a_board(rows)])
    maps = [entry.draw().axes[0] for entry in figures.gallery(grid).entries if entry.figure == "lambda-heatmap"]
    maps += [figures.lambda_heatmap(grid, "svhn").axes[0]]
    assert len(maps) == 4
    for axis in maps:
        assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "0.9", "0.5"]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.1", "0.2", "0.4"]
    assert [text.get_text() for text in maps[-1].texts].count("–") == 12 - 4


@pytest.mark.filterwarnings("error")
def test_zero_scores_and_non_latin_names_give_no_warnings_and_no_negative_axes(board):
    zero = at_one_lambda(board).assign(top1=lambda df: df["top1"] * 0).replace({"eval_dataset": {"stl10": "手書き"}})
    drawn = [
        *(figures.methods_bars(zero, mixture=MIXTURES[2], width=width) for width in (3.3, 7)),
        figures.domains_against_top1(zero),
        figures.cost_against_score(zero[zero["train_mixture"] == MIXTURES[2]]),
        figures.lambda_curves(grid_of(board).assign(top1=0.0)),
    ]
    for figure in drawn:
        to_bytes(figure, "png")
        for axis in figure.axes:
            low, high = axis.get_ylim()
            assert low <= 0 and not any(low <= tick < 0 for tick in axis.get_yticks()), (low, high)
    assert "手書き".encode() in to_bytes(drawn[0], "svg")


def test_cost_figure_does_not_rank_trials_of_equal_computation_by_time(board):
    grid = grid_of(board)
    with pytest.raises(ValueError, match=r"all 11 trials have the same computation, so .* only by chance"):
        figures.cost_against_score(grid)
    longer = grid[grid["seed"] == 0].assign(iterations=999, train_seconds=2000.0)
    longer["trial_id"] = "e" + longer["trial_id"].str[1:]
    every = pd.concat([grid, longer], ignore_index=True)
    points = costs_and_scores(every)
    short = grid.drop_duplicates("trial_id")["train_seconds"].median() / 3600
    by_length = points.groupby("iterations")["cost"].unique()
    assert [list(costs) for costs in by_length] == [[pytest.approx(short)], [pytest.approx(2000 / 3600)]]
    assert points[points["on_front"]].groupby("iterations").size().max() == 1
    (lacking,) = [entry for entry in figures.gallery(every[1:]).entries if entry.figure == "cost-against-score"]
    assert "Left out: 1 that lack one of these scores" in lacking.caption


def test_bars_show_the_lambdas_selected_by_validation_score(board):
    own = board[board["train_mixture"] == MIXTURES[2]].assign(val_top1=lambda df: 50 - 90 * (df["lambda2"] - 0.2).abs())
    own.loc[own["lambda1"] == 0.9, "val_top1"] -= 1
    (bars,) = [entry for entry in figures.gallery(own).entries if entry.figure == "methods-bars"]
    assert "MDSSL at λ1 = 1, λ2 = 0.2; MDSSL, clustered at λ1 = 0.9, λ2 = 0.1;" in bars.caption
    assert "(the best by validation score)" in bars.caption
    chosen = own[(own["method"] == "mdssl") & (own["lambda1"] == 1) & (own["lambda2"] == 0.2)]
    heights = [
        bar.get_height() for group in bars.draw().axes[0].containers if hasattr(group, "patches") for bar in group
    ]
    for mean in chosen.groupby("eval_dataset")["top1"].mean():
        assert np.isclose(heights, mean).any()


def test_cost_figure_without_training_times_is_refused_with_the_reason(board):
    untimed = grid_of(board).assign(train_seconds=None)
    assert "no trial has a training time" in figures.gallery(untimed).absent["cost-against-score"]
    with pytest.raises(ValueError, match="no trial has a training time"):
        figures.cost_against_score(untimed)


def test_the_note_of_the_bars_states_their_lambdas(board):
    note = figures.methods_bars(at_one_lambda(board), mixture=MIXTURES[2]).get_supxlabel().replace("\n", " ")
    assert note.endswith("(Student's t). MDSSL (λ1 = 0.9, λ2 = 0.1).")
    clustered = board[(board["method"] != "mdssl") | ((board["lambda1"] == 1.0) & (board["lambda2"] == 0.0))]
    note = figures.methods_bars(clustered, mixture=MIXTURES[2]).get_supxlabel().replace("\n", " ")
    assert "MDSSL (λ1 = 1, λ2 = 0). MDSSL, clustered (λ1 = 0.9, λ2 = 0.1)." in note


def test_built_in_domains_are_marked_as_synthetic(board):
    grid = grid_of(board).replace({"eval_dataset": {"svhn": "builtin-shapes"}})
    assert b"(synthetic)" in to_bytes(figures.lambda_heatmap(grid, "builtin-shapes"), "svg")


def test_similarity_matrices_share_one_scale_and_have_labeled_blocks():
    matrix = np.array([[1, 0.5, -0.5], [0.5, 1, 0], [-0.5, 0, 1]])
    figure = figures.class_similarity({"λ1 = 1": matrix, "λ1 = 0.9": matrix}, {"cifar10": 2, "svhn": 1})
    maps = [axis.images[0] for axis in figure.axes[:2]]
    assert [image.get_clim() for image in maps] == [(-1, 1), (-1, 1)]
    np.testing.assert_array_equal(maps[0].get_array(), matrix)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["cifar10", "svhn"]
    assert list(figure.axes[0].get_xticks()) == [0.5, 2]
    with pytest.raises(ValueError, match=r"shape \(3, 3\).*4 classes in total require \(4, 4\)"):
        figures.class_similarity({"λ1 = 1": matrix}, {"cifar10": 2, "svhn": 2})


def test_an_embedding_shows_each_image_once_and_separates_distant_domains():
    random = np.random.default_rng(0)
    domains = {"cifar10": random.normal(0, 1, (20, 8)), "svhn": random.normal(30, 1, (12, 8))}
    (axis,) = figures.embedding({"MDSSL": domains}).axes
    points = {}
    for drawn in axis.collections:
        points.setdefault(tuple(drawn.get_facecolor()[0]), []).append(drawn.get_offsets())
    parts = [np.concatenate(part) for part in points.values()]
    assert sorted(map(len, parts)) == [12, 20]
    every = np.concatenate(parts)
    own = np.repeat([0, 1], [len(part) for part in parts])
    distances = np.linalg.norm(every[:, None] - every[None], axis=2) + np.diag([np.inf] * len(every))
    assert (own[distances.argmin(axis=1)] == own).mean() > 0.9
