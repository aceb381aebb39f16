import io
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from factories import failed
from figure_board import MIXTURES, a_board, at_one_lambda, board_of_all_kinds, grid_of, trial
from matplotlib import colors as matplotlib_colors
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from mdssl import figures
from mdssl.figures.cost import costs_and_scores
from mdssl.figures.saving import to_bytes
from mdssl.figures.style import COLORS, METHODS, wrapped


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return board_of_all_kinds()


def test_a_heat_map_writes_the_means_that_pandas_finds_and_frames_the_best(board):
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


def test_colors_diverge_about_the_baseline_and_a_best_below_it_has_no_frame(board):
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


def test_a_cell_without_a_trial_is_empty_and_not_zero(board):
    hole = grid_of(board)[lambda df: ~((df["lambda1"] == 0.9) & (df["lambda2"] == 0.1))]
    texts = [text.get_text() for text in figures.lambda_heatmap(hole, "svhn").axes[0].texts]
    assert texts.count("–") == 1 and "0.0" not in texts


def test_curves_are_means_over_seeds_with_a_band_of_95_percent_intervals(board):
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


def test_one_seed_has_no_band(board):
    figure = figures.lambda_curves(board[board["seed"] == 0], mixture=MIXTURES[2])
    assert not any(axis.collections for axis in figure.axes)
    assert "One seed" in figure.get_supxlabel()


def test_single_domain_baselines_are_lines_at_their_score_and_unseen_datasets_are_hollow(board):
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


def test_bars_are_as_high_as_the_means_of_each_method(board):
    (axis,) = figures.methods_bars(at_one_lambda(board), mixture=MIXTURES[2]).axes
    heights = [bar.get_height() for bars in axis.containers if hasattr(bars, "patches") for bar in bars]
    together = at_one_lambda(board)[lambda df: df["train_mixture"] == MIXTURES[2]].dropna(subset="top1")
    means = together.groupby(["method", "eval_dataset"])["top1"].mean()
    alone = board[(board["train_mixture"] == board["eval_dataset"])]["top1"]
    np.testing.assert_allclose(sorted(heights), sorted([*means, *alone]))
    assert axis.get_ylim()[0] == 0


def test_hours_are_those_of_the_trials(board):
    (axis,) = figures.training_hours(board).axes
    trials = board[(board["method"] == "mdssl") & (board["status"] == "finished")].drop_duplicates("trial_id")
    minutes = trials.groupby("num_domains")["train_seconds"].mean() / 60
    assert any(np.allclose(line.get_ydata(), minutes) for line in axis.lines if len(line.get_ydata()) == 3)
    assert "minutes" in axis.get_ylabel()


def test_a_trial_that_lacks_a_score_has_no_point(board):
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
def test_what_differs_in_more_than_is_shown_is_refused_by_name(board, changes, draw, message):
    grid = grid_of(board)
    other = grid[grid["seed"] == 0].assign(**changes).assign(trial_id=lambda df: "e" + df["trial_id"].str[1:])
    with pytest.raises(ValueError, match=message):
        draw(pd.concat([grid, other]))


def test_settings_that_only_the_json_tells_are_not_averaged_over_either(board):
    grid = grid_of(board).copy()
    grid["config_json"] = [f'{{"trial": {{"weight_decay": {seed}}}}}' for seed in grid["seed"]]
    with pytest.raises(ValueError, match="differ in weight_decay"):
        figures.lambda_heatmap(grid, "svhn")


def test_an_unknown_dataset_is_answered_with_the_nearest(board):
    with pytest.raises(ValueError, match=r"unknown evaluation dataset 'svnh'.*Did you mean 'svhn'"):
        figures.lambda_heatmap(grid_of(board), "svnh")


def test_names_are_text_and_neither_mathematics_nor_markup(board):
    name = "$\\frac$ <b>&_\x1b[2J_" + "x" * 80
    grid = grid_of(board).replace({"eval_dataset": {"stl10": name}})
    svg = to_bytes(figures.lambda_heatmap(grid, name), "svg").decode()
    assert "$\\frac$ &lt;b&gt;&amp;_" in svg
    assert "\x1b" not in svg and "<b>" not in svg
    to_bytes(figures.lambda_curves(grid), "svg")


def frames_of(figure) -> int:
    return sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches)


def test_cells_that_tie_at_the_shown_digit_are_all_framed(board):
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


def test_all_maps_of_a_grid_have_the_cells_of_failed_trials_too(board):
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
def test_scores_of_zero_and_names_in_any_script_warn_of_nothing_and_no_axis_goes_below_zero(board):
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


def large_serif(folder) -> str:
    (folder / "serif.mplstyle").write_text("font.family: serif\nfont.size: 10\nbackend: TkAgg\n")
    return str(folder / "serif.mplstyle")


def test_a_label_that_does_not_fit_makes_the_file_larger_and_is_whole(board):
    figure = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)
    figure.axes[0].annotate("behind the edge", (1, 1), xycoords="figure fraction", annotation_clip=False)
    assert float(re.search(rb'width="([\d.]+)pt"', to_bytes(figure, "svg"))[1]) > 72 * 3.3 + 30


def test_a_figure_keeps_the_look_in_which_it_was_drawn(board, tmp_path):
    plain = figures.lambda_heatmap(board, "svhn", mixture=MIXTURES[2])
    with figures.style_context("paper", large_serif(tmp_path)):
        figure = figures.lambda_heatmap(board, "svhn", mixture=MIXTURES[2])
        inside = to_bytes(figure, "svg")
    assert to_bytes(figure, "svg") == inside
    assert b"One seed" not in inside and b"Means over" not in inside and not figure.get_supxlabel()
    assert plain.get_supxlabel() and b"Means over" in to_bytes(plain, "svg")
    sizes = [text.get_fontsize() for one in (figure, plain) for text in one.axes[0].texts[:1]]
    assert sizes == [10, 7]
    assert b"DejaVu Serif" in inside and b"Serif" not in to_bytes(plain, "svg")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["paperr"], r"unknown style 'paperr'; allowed: report, paper, .*Did you mean 'paper'\?"),
        (["paper", "report"], "styles paper and report cannot be combined"),
        (["none.mplstyle"], "style file none.mplstyle cannot be read: .*No such file"),
        (["wrong.mplstyle"], "style file wrong.mplstyle cannot be read: .*large-ish"),
        (["latex.mplstyle"], "set text.usetex, but these figures do not use LaTeX"),
    ],
)
def test_a_wrong_style_is_one_message(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.mplstyle").write_text("font.size: large-ish\n")
    (tmp_path / "latex.mplstyle").write_text("text.usetex: True\n")
    with pytest.raises(ValueError, match=message), figures.style_context(*names):
        pass


def test_no_label_runs_off_its_figure(board, tmp_path):
    name = "x" * 90
    grid = grid_of(board).replace({"eval_dataset": {"stl10": name}})
    three = {"builtin-clutter": 5, "builtin-shapes": 5, "builtin-textures": 5}
    drawn = [
        *(figures.lambda_heatmap(grid, name, width=width) for width in (None, 3.3, 7)),
        *(figures.class_similarity(dict.fromkeys(map(str, range(n)), np.eye(15)), three) for n in (1, 2, 5)),
    ]
    two = {"cifar10 (1,500 of 50,000)": 8, "svhn (1,500 of 73,257)": 8}
    four = {f"λ1 = {a:g}, λ2 = {b:g}": np.eye(16) for a in (1, 0.9) for b in (0.1, 0.4)}
    similarities = figures.class_similarity(four, two, per_row=2)
    drawn += [similarities]
    with figures.style_context("paper", large_serif(tmp_path)):
        drawn += [
            figures.class_similarity(four, two, per_row=2, width=3.3),
            figures.lambda_heatmap(grid, name, width=3.3),
            *(figures.methods_bars(at_one_lambda(board), mixture=MIXTURES[2], width=width) for width in (3.3, 7)),
        ]
    for figure in drawn:
        figure.draw_without_rendering()
        for axis in figure.axes:
            for text in axis.findobj(Text):
                box = text.get_window_extent()
                if text.get_visible() and text.get_text():
                    assert box.x0 >= -2 and box.x1 <= figure.bbox.x1 + 2, text.get_text()
                    assert box.y0 >= -2 and box.y1 <= figure.bbox.y1 + 2, text.get_text()
        titles = [axis._left_title.get_window_extent() for axis in figure.axes if axis.get_title(loc="left")]
        assert not any(one.overlaps(other) for one, other in combinations(titles, 2))
    # In a file the layout is another one, and a label that does not fit makes it larger.
    file = Image.open(io.BytesIO(to_bytes(similarities, "png")))
    assert file.size == pytest.approx(similarities.get_size_inches() * 200, abs=1)


def test_names_of_the_pareto_front_lie_on_no_point():
    random = np.random.default_rng(0)
    rows = [
        one
        for number in range(300)
        for one in trial(
            number + 1,
            ("svhn",),
            iterations=number + 1,
            lambda1=random.choice([1, 0.9]),
            lambda2=random.choice([0.1, 0.2]),
        )
    ]
    dense = a_board(rows).assign(top1=lambda df: 25 * np.log10(df["train_seconds"]) + random.normal(0, 5, len(df)))
    for width in (figures.COLUMN, figures.PAGE):
        figure = figures.cost_against_score(dense, width=width)
        figure.draw_without_rendering()
        (axis,) = figure.axes
        points = np.concatenate([axis.transData.transform(drawn.get_offsets()) for drawn in axis.collections])
        assert len(axis.texts) >= 3
        for text in axis.texts:
            box = text.get_window_extent()
            assert not any(box.contains(*point) for point in points), text.get_text()


def test_times_of_equal_compute_are_no_front_but_chance(board):
    grid = grid_of(board)
    with pytest.raises(ValueError, match=r"all 11 trials compute as much, so differences .* are chance"):
        figures.cost_against_score(grid)
    longer = grid[grid["seed"] == 0].assign(iterations=999, train_seconds=2000.0)
    longer["trial_id"] = "e" + longer["trial_id"].str[1:]
    points = costs_and_scores(pd.concat([grid, longer]))
    short = grid.drop_duplicates("trial_id")["train_seconds"].median() / 3600
    by_length = points.groupby("iterations")["cost"].unique()
    assert [list(costs) for costs in by_length] == [[pytest.approx(short)], [pytest.approx(2000 / 3600)]]
    assert points[points["on_front"]].groupby("iterations").size().max() == 1


def test_bars_are_of_the_lambdas_that_validation_scores_choose(board):
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


def test_what_has_no_training_time_says_so(board):
    untimed = grid_of(board).assign(train_seconds=None)
    assert "no trial has a training time" in figures.gallery(untimed).absent["cost-against-score"]
    with pytest.raises(ValueError, match="no trial has a training time"):
        figures.cost_against_score(untimed)


def test_bars_say_at_which_lambdas_they_are(board):
    note = figures.methods_bars(at_one_lambda(board), mixture=MIXTURES[2]).get_supxlabel().replace("\n", " ")
    assert note.endswith("(Student's t). MDSSL (λ1 = 0.9, λ2 = 0.1).")
    clustered = board[(board["method"] != "mdssl") | ((board["lambda1"] == 1.0) & (board["lambda2"] == 0.0))]
    note = figures.methods_bars(clustered, mixture=MIXTURES[2]).get_supxlabel().replace("\n", " ")
    assert "MDSSL (λ1 = 1, λ2 = 0). MDSSL, clustered (λ1 = 0.9, λ2 = 0.1)." in note


def test_a_long_name_breaks_at_its_joints_and_loses_no_character():
    assert wrapped("builtin-clutter+builtin-shapes", 18) == "builtin-clutter+\nbuiltin-shapes"
    assert wrapped("a" * 25, 10).replace("\n", "") == "a" * 25
    assert wrapped("a" * 99, 10).endswith("…") and len(wrapped("a" * 99, 10)) <= 32


def test_built_in_domains_are_marked_as_synthetic(board):
    grid = grid_of(board).replace({"eval_dataset": {"svhn": "builtin-shapes"}})
    assert b"(synthetic)" in to_bytes(figures.lambda_heatmap(grid, "builtin-shapes"), "svg")


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_same_figure_is_the_same_bytes(board, suffix):
    first, second = (to_bytes(figures.lambda_heatmap(grid_of(board), "svhn"), suffix) for _ in range(2))
    assert first == second
    assert b"Date" not in first and b"date>" not in first


def test_a_saved_figure_can_be_saved_again_as_it_was(board, tmp_path):
    figure = figures.lambda_curves(grid_of(board), width=figures.COLUMN)
    first = to_bytes(figure, "svg")
    to_bytes(figure, "png")
    assert to_bytes(figure, "svg") == first
    assert float(re.search(rb'width="([\d.]+)pt"', first)[1]) == pytest.approx(72 * 3.3)
    with pytest.raises(ValueError, match="figure format 'gif'"):
        figures.save(figure, tmp_path / "curves.gif")
    assert not list(tmp_path.iterdir())


def test_text_in_an_svg_stays_text(board):
    assert b">\xce\xbb2</text>" in to_bytes(figures.lambda_heatmap(grid_of(board), "svhn"), "svg")


def test_a_notebook_gets_a_picture_as_large_as_the_figure_whatever_its_style(board):
    import matplotlib

    figure = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)
    with matplotlib.rc_context({"text.color": "white", "font.size": 30}):
        png, size = figure._repr_png_()
        again = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)._repr_png_()[0]
    assert png.startswith(b"\x89PNG") and png == again
    assert size["width"] == 330


def test_colors_differ_for_those_who_see_no_red_or_no_green():
    """Machado, Oliveira and Fernandes 2009, severity 1; distances in CIELAB of 1976."""
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(linear: np.ndarray) -> np.ndarray:
        xyz = (linear.clip(0, 1) @ to_xyz.T) / (to_xyz @ np.ones(3))
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)

    for palette in (COLORS, [method.color for method in METHODS.values()]):
        rgb = np.array([matplotlib_colors.to_rgb(colour) for colour in palette])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        for seen in (np.eye(3), deutan, protan):
            found = lab(linear @ np.array(seen).T)
            distances = np.linalg.norm(found[:, None] - found[None], axis=2)[np.triu_indices(len(found), 1)]
            assert distances.min() > 10


def test_similarities_have_one_scale_and_named_blocks():
    matrix = np.array([[1, 0.5, -0.5], [0.5, 1, 0], [-0.5, 0, 1]])
    figure = figures.class_similarity({"λ1 = 1": matrix, "λ1 = 0.9": matrix}, {"cifar10": 2, "svhn": 1})
    maps = [axis.images[0] for axis in figure.axes[:2]]
    assert [image.get_clim() for image in maps] == [(-1, 1), (-1, 1)]
    np.testing.assert_array_equal(maps[0].get_array(), matrix)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["cifar10", "svhn"]
    assert list(figure.axes[0].get_xticks()) == [0.5, 2]
    with pytest.raises(ValueError, match=r"shape \(3, 3\).*4 classes in total require \(4, 4\)"):
        figures.class_similarity({"λ1 = 1": matrix}, {"cifar10": 2, "svhn": 2})


def test_an_embedding_has_each_image_once_and_keeps_far_domains_apart():
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
