"""The figure of measures over λ: its numbers compared with pandas, and the sources of the measures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from figure_board import DATASETS, MIXTURES, board_of_all_kinds, grid_of
from test_gallery import write_representations

from mdssl import figures
from mdssl.evaluate import representations
from mdssl.figures import latent_space
from mdssl.figures.gallery import KINDS
from mdssl.figures.scores import settings_groups
from mdssl.figures.style import COLORS, INK
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.storage.location import Location
from mdssl.tables.measures import add_measures

DOMAINS = MIXTURES[2].split("+")
QUANTITIES = ["similarity_within", "alignment", "uniformity", "neighbors_own", "knn_top1"]
"""One quantity of each row of panels."""


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    """A leaderboard with random measures. The best λ1 by validation score is 1."""
    board = board_of_all_kinds()
    random = np.random.default_rng(0)
    measures = {name: random.uniform(-1, 0, len(board)) for name in MEASURE_NAMES}
    measures |= {"neighbors_own": random.uniform(50, 90, len(board)), "knn_top1": random.uniform(20, 80, len(board))}
    board = board.assign(**measures, val_top1=50 + 10 * board["lambda1"].fillna(0))
    return board[board["eval_dataset"].isin(DATASETS)].reset_index(drop=True)


def seeds(rows: pd.DataFrame, name: str, dataset: str | None, by: str) -> pd.DataFrame:
    """Mean and standard deviation over seeds at each λ, of a dataset or of each trial's mean over the domains."""
    own = rows[rows["eval_dataset"].isin([dataset] if dataset else DOMAINS)]
    return own.groupby([by, "trial_id"])[name].mean().groupby(by).agg(["mean", "std"])


def curves_of(axis, color: str) -> list[np.ndarray]:
    return [
        line.get_xydata() for line in axis.lines if line.get_color() == color and line.get_marker() not in (".", "None")
    ]


def test_measure_curves_show_means_with_intervals_and_the_simclr_baseline(board):
    figure = figures.lambda_measures(board, mixture=MIXTURES[2])
    assert len(figure.axes) == 10
    grid, union = grid_of(board), board[(board["method"] == "simclr") & (board["train_mixture"] == MIXTURES[2])]
    slices = {"lambda1": grid[grid["lambda2"] == 0], "lambda2": grid[grid["lambda1"] == 1]}
    for number, name in enumerate(QUANTITIES):
        for axis, (by, rows) in zip(figure.axes[2 * number : 2 * number + 2], slices.items(), strict=True):
            of_all = {"similarity_within": "similarity_across", "alignment": "alignment"}.get(name)
            expected = {} if name == "alignment" else {COLORS[i]: (name, domain) for i, domain in enumerate(DOMAINS)}
            expected |= {INK: (of_all, None)} if of_all else {}
            assert len(axis.collections) == len(expected)
            for band, (color, (column, dataset)) in zip(axis.collections, expected.items(), strict=True):
                means = seeds(rows, column, dataset, by)
                (drawn,) = curves_of(axis, color)
                np.testing.assert_allclose(drawn, means["mean"].reset_index())
                # 12.706 is Student's t for two seeds, from a table.
                high = means["mean"] + 12.706 * means["std"] / 2**0.5
                assert max(path.vertices[:, 1].max() for path in band.get_paths()) == pytest.approx(
                    high.max(), rel=1e-4
                )
                dotted = [
                    line.get_ydata()[0]
                    for line in axis.lines
                    if line.get_color() == color and line.is_dashed() and len(set(line.get_ydata())) == 1
                ]
                baseline = union[union["eval_dataset"].isin([dataset] if dataset else DOMAINS)][column].mean()
                assert np.isclose(dotted, baseline).any()
    assert [axis.get_xlabel() for axis in figure.axes[-2:]] == ["λ1, at λ2 = 0", "λ2, at λ1 = 1"]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        *DOMAINS,
        "all domains",
        "SimCLR on the union",
        "95 % interval, n = 2",
    ]


def test_lambda2_varies_at_the_lambda1_selected_by_validation_score(board):
    other = board.assign(val_top1=60 - board["val_top1"])
    ((data, words),) = entries(other)
    assert KINDS["lambda-measures"].draw(data).axes[-1].get_xlabel() == "λ2, at λ1 = 0.9"
    assert "λ2 varies at λ1 = 0.9 (the best by validation score)." in words.caption
    other.loc[0, "val_top1"] = None
    assert "λ2 varies at λ1 = 0.9 (not selected by score)." in entries(other)[0][1].caption


def entries(board: pd.DataFrame, storage=None) -> list[tuple]:
    """Data and texts of the figures in a gallery."""
    return list(KINDS["lambda-measures"].find(settings_groups(board)[0], storage))


def test_measures_over_one_varying_lambda_have_one_column_of_panels(board):
    grid = grid_of(board)
    for rows, label in ((grid["lambda2"] == 0, "λ1, at λ2 = 0"), (grid["lambda1"] == 0.9, "λ2, at λ1 = 0.9")):
        figure = figures.lambda_measures(grid[rows])
        assert len(figure.axes) == 5 and figure.axes[-1].get_xlabel() == label
    with pytest.raises(ValueError, match="measures over λ needs trials of method mdssl with two values of lambda1"):
        figures.lambda_measures(grid[(grid["lambda1"] == 1) & (grid["lambda2"] == 0)])


def test_alternative_text_states_the_values_at_both_ends_of_lambda(board):
    ((_, words),) = entries(board)
    grid = grid_of(board)
    ends = seeds(grid[grid["lambda1"] == 1], "uniformity", "svhn", "lambda2")["mean"]
    assert f"uniformity of svhn from {ends[0.0]:.3g} to {ends[0.2]:.3g}" in words.alt
    assert "From λ1 = 0.9 to 1: " in words.alt and "Means over 1 to 2 seeds" in words.caption
    assert words.title == "Measures of the representation space against λ1 and λ2, trained on cifar10+svhn"


def test_measures_are_computed_for_a_storage_and_read_from_a_file(board, storage, tmp_path):
    board = board.drop(columns=list(MEASURE_NAMES))
    write_representations(storage, board["trial_id"].unique())
    ((data, _),) = entries(board, storage)
    figure = KINDS["lambda-measures"].draw(data)
    titles = [axis.get_title(loc="left").split()[0] for axis in figure.axes[::2]]
    assert titles == ["class", "uniformity:", "kNN"]
    measured = add_measures(board, storage, DOMAINS)
    for axis, line in zip(figure.axes, figures.lambda_measures(measured, mixture=MIXTURES[2]).axes, strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_xydata(), line.lines[0].get_xydata())
    grid = grid_of(measured)
    means = seeds(grid[grid["lambda2"] == 0], "similarity_within", "cifar10", "lambda1")["mean"]
    np.testing.assert_allclose(curves_of(figure.axes[0], COLORS[0])[0][:, 1], means)


def test_scores_on_unseen_datasets_alone_are_refused_with_the_reason(board, storage):
    with pytest.raises(ValueError, match="no selected trial on .* has a score on one of its domains"):
        entries(board[~board["seen"].astype(bool)], storage)


def test_missing_measures_are_refused_with_the_reason(board, storage, tmp_path):
    board = board.drop(columns=list(MEASURE_NAMES))
    file = tmp_path / "study.parquet"
    board.to_parquet(file, index=False)
    for place, reason in (
        (None, "needs a storage, or a board to which mdssl.tables.measures.add_measures was applied"),
        (storage, "no such folder"),
        (str(file), "has no columns similarity_within.*add_measures computes them"),
    ):
        with pytest.raises(ValueError, match=reason):
            entries(board, place)
    write_representations(storage, ["0" * 12])
    with pytest.raises(ValueError, match=rf"cifar10\+svhn has representations.*probe \w+ --storage {storage}`"):
        entries(board, storage)


def test_an_embedding_shows_images_from_the_whole_test_split(board, storage, monkeypatch):
    monkeypatch.setattr(latent_space, "MOST_IMAGES", 3)
    group, *_ = settings_groups(board)
    trial_id = grid_of(board)["trial_id"].iloc[0]
    own = board[board["trial_id"] == trial_id]
    write_representations(storage, [trial_id])
    ((data, _),) = latent_space.EMBEDDING.find(replace(group, rows=own), storage)
    for domain, sample in data["samples"]["MDSSL"].items():
        kept = representations.read(Location.of(storage) / "trials" / trial_id, domain).layers["projection"].sample
        np.testing.assert_array_equal(sample, kept[[0, 4, 8]])
