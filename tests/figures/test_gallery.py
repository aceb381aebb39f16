"""Figures that a leaderboard and a trial can have, and the files that `mdssl figures` writes."""

import io
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, failed
from figure_board import MIXTURES, a_board, board_of_all_kinds, grid_of, trial
from PIL import Image
from rich.console import Console

from mdssl import figures
from mdssl.errors import InputError
from mdssl.evaluate import representations
from mdssl.evaluate.similarity import class_similarity, summarize
from mdssl.figures.gallery import KINDS
from mdssl.figures.saving import to_bytes, write_figures
from mdssl.leaderboard import board as leaderboard
from mdssl.storage.location import Location

OF_VALIDATION = {"sweep-progress", "rungs", "slices", "contours", "importance"}
"""Figures that require validation scores, which the leaderboard of these tests does not have."""


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    return board_of_all_kinds()


def test_a_gallery_draws_all_possible_figures_and_gives_reasons_for_the_others(board):
    found = figures.gallery(board)
    kinds = {entry.figure for entry in found.entries}
    absent = {"class-similarity", "embedding", "lambda-measures", *OF_VALIDATION}
    assert kinds == set(KINDS) - absent
    assert set(found.absent) == absent
    assert len({entry.name for entry in found.entries}) == len(found.entries)
    heat = next(entry for entry in found.entries if entry.name.endswith("svhn") and entry.figure == "lambda-heatmap")
    best = grid_of(board)[lambda df: df["eval_dataset"] == "svhn"].groupby(["lambda1", "lambda2"])["top1"].mean().max()
    assert f"{best:.1f} %" in heat.alt and "150 steps" in heat.caption


def test_a_gallery_separates_groups_of_settings_and_names_them_in_captions(board):
    grid = grid_of(board)
    longer = grid.assign(iterations=300, trial_id="e" + grid["trial_id"].str[1:], top1=grid["top1"] + 5)
    few = longer[longer["seed"] == 0]
    entries = [one for one in figures.gallery(pd.concat([grid, few])).entries if one.figure == "lambda-curves"]
    assert ["150 steps" in entries[0].caption, "300 steps" in entries[1].caption] == [True, True]
    assert "Number 2 of 2 combinations" in entries[1].caption


def test_trials_of_an_unknown_method_do_not_prevent_other_figures(board):
    of_newer = board[board["method"] == "mdssl-robust"].assign(method="mdssl-newer")
    of_newer["trial_id"] = "f" + of_newer["trial_id"].str[1:]
    found = figures.gallery(pd.concat([board, of_newer]))
    assert "lambda-curves" in {entry.figure for entry in found.entries}
    assert "unknown method 'mdssl-newer'" in found.absent["cost-against-score"]
    assert "A newer mdssl may have it: upgrade" in found.absent["cost-against-score"]


def test_an_empty_leaderboard_gives_a_reason_for_each_absent_figure(storage):
    found = figures.gallery(leaderboard.read(storage), storage)
    assert not found.entries and set(found.absent) == set(KINDS)
    assert "run a sweep" in found.absent["lambda-curves"]
    assert "no scores of a trained" in figures.gallery(a_board(trial(1, **UNTRAINED))).absent["lambda-curves"]


def test_forty_datasets_and_a_failed_probe_are_drawn(board):
    names = [f"dataset-{number:02}" for number in range(40)]
    rows = [
        one
        for number, lambda2 in enumerate((0.0, 0.1))
        for one in trial(number + 1, names, lambda1=0.9, lambda2=lambda2, train_mixture="dataset-00+dataset-01")
    ]
    rows[3] |= {"status": "failed", "top1": None}
    found = figures.gallery(a_board(rows))
    assert [entry.figure for entry in found.entries].count("lambda-curves") == 7
    to_bytes(next(entry for entry in found.entries if entry.figure == "lambda-curves").draw(), "svg")


METRICS = pd.DataFrame(
    {"step": [10, 20], "loss": [5.0, 4.0], "alignment": [-7.0, -8.0], "within": [12.0, 11.0], "across": [np.nan] * 2}
)
ROUNDS = pd.DataFrame(
    {
        **{
            "round": [0, 1],
            "step": [10, 20],
            "sizes": [[6, 4], [5, 5]],
            "kept_share": [0.5, 1.0],
            "churn": [None, 0.1],
        },
        **{"purity": [0.8, 0.9], "nmi": [0.5, 0.7], "epsilon": [1.0, 0.1]},
    }
)


def test_a_trial_gallery_shows_the_logged_loss_terms_and_the_clusters(tmp_path):
    METRICS.to_parquet(tmp_path / "metrics.parquet")
    ROUNDS.to_parquet(tmp_path / "clusters.parquet")
    found = figures.trial_gallery(str(tmp_path))
    terms, clusters = (entry.draw() for entry in found.entries)
    assert [axis.get_title(loc="left").split()[0] for axis in terms.axes] == ["total", "alignment", "within"]
    np.testing.assert_allclose(terms.axes[1].lines[0].get_ydata(), METRICS["alignment"])
    np.testing.assert_allclose(clusters.axes[2].lines[0].get_ydata(), [np.nan, 10.0])
    assert "purity from 0.80 to 0.90" in found.entries[1].alt
    assert found.entries[0].caption.startswith("In MDSSL, total = ")


def test_a_trial_gallery_shows_loss_terms_and_validation_scores(tmp_path):
    scores = {"val_linear_top1/a": [np.nan, 30.0, 40.0, np.nan], "val_linear_top1/b": [np.nan, 50.0, 60.0, np.nan]}
    steps = {"step": [5, 10, 20, 25], "loss": [5.0, 4.0, 3.0, 2.0], "val_linear_top1": [np.nan, 40.0, 50.0, np.nan]}
    pd.DataFrame(steps | scores).to_parquet(tmp_path / "metrics.parquet")
    loss, curves = figures.trial_gallery(str(tmp_path)).entries
    assert (loss.figure, curves.figure) == ("loss-terms", "validation-scores")
    (axis,) = curves.draw().axes
    drawn = [line.get_xydata().tolist() for line in axis.lines]
    assert drawn == [[[10, 30], [20, 40]], [[10, 50], [20, 60]]]
    assert curves.alt == "From step 10 to step 20: a from 30.0 to 40.0 %, b from 50.0 to 60.0 %."


@pytest.mark.parametrize("more", [{}, {"val_linear_top1": [np.nan, np.nan]}])
def test_a_trial_gallery_gives_the_reason_for_missing_validation_scores(tmp_path, more):
    METRICS.assign(**more).to_parquet(tmp_path / "metrics.parquet")
    found = figures.trial_gallery(str(tmp_path))
    assert [entry.figure for entry in found.entries] == ["loss-terms"]
    why = "has no validation scores in metrics.parquet: it was trained without --score-every"
    assert why in found.absent["validation-scores"]


def test_a_trial_gallery_names_the_missing_file(tmp_path):
    assert "no clusters.parquet" in figures.trial_gallery(str(tmp_path)).absent["clusters"]


def test_a_trial_gallery_of_empty_files_gives_reasons_for_absent_figures(tmp_path):
    pd.DataFrame().to_parquet(tmp_path / "metrics.parquet")
    ROUNDS.iloc[:0].to_parquet(tmp_path / "clusters.parquet")
    found = figures.trial_gallery(str(tmp_path))
    assert not found.entries
    assert "its method does not train" in found.absent["loss-terms"] and "not clustered yet" in found.absent["clusters"]


def test_write_figures_writes_the_named_figures_and_refuses_unknown_names(storage, tmp_path):
    for number, lambda2 in enumerate((0.0, 0.1)):
        leaderboard.write_rows(storage, f"{number + 1:012x}", trial(number + 1, ("svhn",), lambda2=lambda2))
    output, console = tmp_path / "figures", Console(file=io.StringIO(), width=80)
    with pytest.raises(ValueError, match="Did you mean 'lambda-heatmap'"):
        write_figures(storage, str(output), names=["lambda-heatmaps"])
    with pytest.raises(ValueError, match="unknown figure format 'gif'"):
        write_figures(storage, str(output), formats=["gif"])
    assert not output.exists()
    files = write_figures(storage, str(output), names=["lambda-heatmap"], console=console)
    assert [file.name for file in files] == ["lambda-heatmap-svhn.svg"]
    assert [path.name for path in output.iterdir()] == ["lambda-heatmap-svhn.svg"]
    title, *caption = console.file.getvalue().splitlines()
    assert "lambda-heatmap-svhn.svg  Top-1 on svhn over λ1 and λ2" in title
    assert all(line.startswith(" " * 9) and len(line) <= 80 for line in caption) and "resnet18, 150" in " ".join(
        caption
    )


def test_write_figures_does_not_replace_files_of_the_user(storage, tmp_path):
    for number, lambda2 in enumerate((0.0, 0.1)):
        leaderboard.write_rows(storage, f"{number + 1:012x}", trial(number + 1, ("svhn",), lambda2=lambda2))
    files = write_figures(storage, tmp_path, names=["lambda-heatmap"], formats=["svg", "png", "pdf"])
    assert len(files) % 3 == 0
    write_figures(storage, tmp_path, names=["lambda-heatmap"], formats=["svg", "png", "pdf"])
    mine = tmp_path / files[-1].name
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"{mine.name} exists, and mdssl did not write it"):
        write_figures(storage, tmp_path, names=["lambda-heatmap"], formats=["svg", "png", "pdf"])
    assert mine.read_bytes() == b"mine"


def test_write_figures_gives_reasons_for_absent_figures_after_drawing_the_others(storage, tmp_path):
    for number, lambda2 in enumerate((0.0, 0.1)):
        leaderboard.write_rows(storage, f"{number + 1:012x}", trial(number + 1, ("svhn",), lambda2=lambda2))
    with pytest.raises(ValueError, match="not drawn: embedding: .*representations"):
        write_figures(storage, str(tmp_path), names=["embedding", "lambda-heatmap"])
    assert [path.name for path in tmp_path.glob("*.svg")] == ["lambda-heatmap-svhn.svg"]


def test_write_figures_refuses_missing_or_empty_storages_and_missing_trials(storage, tmp_path):
    with pytest.raises(ValueError, match=f"{storage} has no leaderboard and no trials"):
        write_figures(storage, str(tmp_path / "new"))
    Path(storage).mkdir()
    with pytest.raises(ValueError, match=f"leaderboard in {storage}.* is empty"):
        write_figures(storage, str(tmp_path / "new"))
    with pytest.raises(ValueError, match="no trial 000000000000 in "):
        write_figures(storage, str(tmp_path / "new"), trial_id="0" * 12)
    with pytest.raises(ValueError, match="no figure format is given; allowed: svg, png, pdf"):
        write_figures(storage, str(tmp_path / "new"), formats=())
    leaderboard.write_rows(storage, "f" * 12, [failed()])
    with pytest.raises(ValueError, match=f"no figure of {storage}.* no scores of a trained encoder yet"):
        write_figures(storage, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_figure_files_contain_their_title_and_description(board):
    figure = figures.lambda_heatmap(grid_of(board), "svhn")
    words = {"title": "λ of <cells> & $x", "description": "From 9 to 90 %,\x1b[2J <all>."}
    svg = to_bytes(figure, "svg", **words)
    assert svg == to_bytes(figure, "svg", **words)
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    assert [root.find(f"{space}title").text, root.find(f"{space}desc").text] == [
        "λ of <cells> & $x",
        "From 9 to 90 %,\\x1b[2J <all>.",
    ]
    png = Image.open(io.BytesIO(to_bytes(figure, "png", **words)))
    assert png.text["Title"] == words["title"] and "9 to 90" in png.text["Description"]
    pdf = to_bytes(figure, "pdf", **words)
    assert "λ of <cells>".encode("utf-16-be") in pdf and b"/Subject" in pdf and pdf == to_bytes(figure, "pdf", **words)


def write_representations(storage: str, trial_ids: Iterable[str]) -> None:
    random = np.random.default_rng(0)
    for trial_id in trial_ids:
        for name in MIXTURES[2].split("+"):
            means, sample = random.normal(size=(3, 8)).astype("f4"), random.normal(size=(9, 8)).astype("f4")
            layers = dict.fromkeys(("encoder", "projection"), representations.Layer(means, sample))
            kept = representations.Representations(name, ("a", "b", "c"), layers, np.arange(9) % 3, np.arange(9), "")
            representations.write(Location.of(storage) / "trials" / trial_id, kept)


def test_similarity_figures_over_lambda1_and_lambda2_are_independent(board, storage):
    of_mdssl = board[(board["train_mixture"] == MIXTURES[2]) & (board["method"] == "mdssl") & (board["lambda2"] > 0)]
    write_representations(storage, of_mdssl["trial_id"].unique())
    names = [one.name for one in figures.gallery(board, storage).entries if one.figure == "class-similarity"]
    assert names == ["class-similarity-lambda2"]


def test_figures_that_need_files_of_trials_are_absent_for_a_file_of_rows(board, tmp_path):
    rows = tmp_path / "rows.parquet"
    board.to_parquet(rows)
    absent = figures.gallery(board, str(rows)).absent
    for name, what in {
        "class-similarity": "representations",
        "embedding": "representations",
        "rungs": "metrics",
    }.items():
        assert absent[name] == (
            f"{what} of trials are not in a file of rows such as rows.parquet: give the folder or bucket of the "
            "results with --storage."
        )


def test_truncated_files_of_a_trial_are_refused_by_name(tmp_path):
    pd.DataFrame({"step": [1], "loss": [2.0]}).to_parquet(tmp_path / "metrics.parquet")
    whole = (tmp_path / "metrics.parquet").read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / "metrics.parquet").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="metrics.parquet cannot be read"):
            figures.trial_gallery(str(tmp_path))


def test_representation_figures_use_only_trials_with_representations(board, storage):
    trials = board[(board["train_mixture"] == MIXTURES[2]) & (board["seed"] == 0) & (board["method"] != "mdssl-robust")]
    write_representations(storage, trials["trial_id"].unique())
    found = figures.gallery(board, storage)
    assert set(found.absent) == OF_VALIDATION
    by_name = {entry.name: entry for entry in found.entries}
    over1, over2 = (by_name[f"class-similarity-lambda{n}"].draw() for n in (1, 2))
    titles = [axis.get_title(loc="left") for axis in (*over1.axes[:2], *over2.axes[:4])]
    grid = [(1, 0), (0.9, 0), (1, 0.1), (1, 0.2), (0.9, 0.1), (0.9, 0.2)]
    assert titles == [f"λ1 = {a:g}, λ2 = {b:g}" for a, b in grid]
    panels = [axis.get_title(loc="left").replace("\n", " ") for axis in by_name["embedding"].draw().axes]
    assert panels == ["SimCLR, union", "MDSSL", "MDSSL, clustered"]
    assert "MDSSL at λ1 = 0.9" in by_name["embedding"].caption
    domains = [
        representations.read(
            Location.of(storage) / "trials" / trials.loc[trials["method"] == "mdssl", "trial_id"].iloc[0], name
        )
        for name in MIXTURES[2].split("+")
    ]
    matrix = class_similarity(np.concatenate([one.layers["projection"].class_means for one in domains]))
    summary = summarize(matrix, np.repeat([0, 1], 3))
    first = f"λ1 = 1, λ2 = 0: within {summary.within:.2f}, across {summary.across:.2f};"
    assert first in by_name["class-similarity-lambda1"].alt
    for trial_id in trials.loc[trials["method"] != "simclr", "trial_id"].unique():
        if trial_id != trials.loc[trials["lambda2"] == 0, "trial_id"].iloc[0]:
            (Location.of(storage) / "trials" / trial_id).delete()
    by_name = {entry.name: entry for entry in figures.gallery(board, storage).entries}
    assert "MDSSL" not in by_name["embedding"].caption
    assert "Similarity of class means at λ1 = 1, λ2 = 0" in by_name["class-similarity-lambda1"].title


def test_a_setting_that_a_method_lacks_does_not_separate_its_trials_from_the_others(board):
    has = board["method"].isin(["simclr", "mdssl"])
    sampled = board.assign(stem=None, sampling=board["method"].where(has).map(lambda _: "balanced", na_action="ignore"))
    group, *_ = figures.scores.settings_groups(sampled)
    assert {"mdssl", "mdssl-clustered", "mdssl-robust", "simclr"} <= set(group.rows["method"])
    assert group.rows.loc[group.rows["method"] == "mdssl-clustered", "sampling"].isna().all()
    (bars,) = (one for one in figures.gallery(sampled).entries if one.name == "methods-bars-cifar10+svhn")
    assert all(name in bars.alt for name in ("MDSSL, clustered", "SimCLR, union", "untrained encoder"))
    assert "sampling nan" not in bars.caption
