"""Appearance of figures: styles, layout of labels, colors and file formats."""

import io
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from figure_board import MIXTURES, a_board, at_one_lambda, board_of_all_kinds, grid_of, trial
from matplotlib import colors as matplotlib_colors
from matplotlib.text import Text
from PIL import Image

from mdssl import figures
from mdssl.figures.saving import to_bytes
from mdssl.figures.style import COLORS, METHODS, wrapped


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return board_of_all_kinds()


def test_dataset_names_are_escaped_in_figures(board):
    name = "$\\frac$ <b>&_\x1b[2J_" + "x" * 80
    grid = grid_of(board).replace({"eval_dataset": {"stl10": name}})
    svg = to_bytes(figures.lambda_heatmap(grid, name), "svg").decode()
    assert "$\\frac$ &lt;b&gt;&amp;_" in svg
    assert "\x1b" not in svg and "<b>" not in svg
    to_bytes(figures.lambda_curves(grid), "svg")


def large_serif(folder) -> str:
    (folder / "serif.mplstyle").write_text("font.family: serif\nfont.size: 10\nbackend: TkAgg\n")
    return str(folder / "serif.mplstyle")


def test_saved_figures_grow_to_include_labels_outside_the_figure(board):
    figure = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)
    figure.axes[0].annotate("behind the edge", (1, 1), xycoords="figure fraction", annotation_clip=False)
    assert float(re.search(rb'width="([\d.]+)pt"', to_bytes(figure, "svg"))[1]) > 72 * 3.3 + 30


def test_saving_a_figure_keeps_the_style_in_which_it_was_drawn(board, tmp_path):
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
        (["paperr"], r"unknown style 'paperr'. Did you mean 'paper'\? Allowed: report, paper, "),
        (["paper", "report"], "styles paper and report cannot be combined"),
        (["none.mplstyle"], "style file none.mplstyle cannot be read: .*No such file"),
        (["wrong.mplstyle"], "style file wrong.mplstyle cannot be read: .*large-ish"),
        (["latex.mplstyle"], "set text.usetex, but these figures do not use LaTeX"),
    ],
)
def test_invalid_styles_are_refused(tmp_path, monkeypatch, names, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.mplstyle").write_text("font.size: large-ish\n")
    (tmp_path / "latex.mplstyle").write_text("text.usetex: True\n")
    with pytest.raises(ValueError, match=message), figures.style_context(*names):
        pass


def test_labels_lie_within_the_figure(board, tmp_path):
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
    # A file has its own layout, and a label that does not fit makes the file larger.
    file = Image.open(io.BytesIO(to_bytes(similarities, "png")))
    assert file.size == pytest.approx(similarities.get_size_inches() * 200, abs=1)


def test_labels_of_the_pareto_front_do_not_cover_points():
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


def test_long_names_are_wrapped_at_separators():
    assert wrapped("builtin-clutter+builtin-shapes", 18) == "builtin-clutter+\nbuiltin-shapes"
    assert wrapped("a" * 25, 10).replace("\n", "") == "a" * 25
    assert wrapped("a" * 99, 10).endswith("…") and len(wrapped("a" * 99, 10)) <= 32


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_files_of_the_same_figure_are_byte_identical(board, suffix):
    first, second = (to_bytes(figures.lambda_heatmap(grid_of(board), "svhn"), suffix) for _ in range(2))
    assert first == second
    assert b"Date" not in first and b"date>" not in first


def test_saving_a_figure_twice_gives_the_same_file(board, tmp_path):
    figure = figures.lambda_curves(grid_of(board), width=figures.COLUMN)
    first = to_bytes(figure, "svg")
    to_bytes(figure, "png")
    assert to_bytes(figure, "svg") == first
    assert float(re.search(rb'width="([\d.]+)pt"', first)[1]) == pytest.approx(72 * 3.3)
    with pytest.raises(ValueError, match="figure format 'gif'"):
        figures.save(figure, tmp_path / "curves.gif")
    assert not list(tmp_path.iterdir())


def test_svg_files_keep_text_as_text(board):
    assert b">\xce\xbb2</text>" in to_bytes(figures.lambda_heatmap(grid_of(board), "svhn"), "svg")


def test_notebook_images_do_not_depend_on_the_style_of_the_notebook(board):
    import matplotlib

    figure = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)
    with matplotlib.rc_context({"text.color": "white", "font.size": 30}):
        png, size = figure._repr_png_()
        again = figures.lambda_heatmap(grid_of(board), "svhn", width=3.3)._repr_png_()[0]
    assert png.startswith(b"\x89PNG") and png == again
    assert size["width"] == 330


def test_colors_are_distinct_with_color_vision_deficiency():
    """Simulation by Machado, Oliveira and Fernandes (2009) at severity 1; distances in CIELAB (1976)."""
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
