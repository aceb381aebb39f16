"""Figures of a synthetic search with known best settings, and Pareto fronts."""

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, failed
from figure_board import MIXTURES, a_board, a_search, board_of_all_kinds, trial
from matplotlib.collections import PathCollection

from mdssl import figures
from mdssl.figures.contours import _contours
from mdssl.figures.gallery import KINDS
from mdssl.figures.importance import _importance
from mdssl.figures.rungs import RUNGS
from mdssl.figures.searches import each_sweep, scale_of, searched_settings, trials_of
from mdssl.leaderboard import board as leaderboard

SEARCH = ("pareto", "sweep-progress", "rungs", "slices", "contours", "importance")


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[pd.DataFrame, str]:
    """The leaderboard of a search, and its storage."""
    storage = str(tmp_path_factory.mktemp("search") / "results")
    a_search(storage)
    return leaderboard.read(storage), storage


def points_of(axis) -> np.ndarray:
    drawn = [drawn for drawn in axis.collections if isinstance(drawn, PathCollection)]
    return np.concatenate([own.get_offsets() for own in drawn])


def val_of(board: pd.DataFrame) -> pd.Series:
    """The validation score of each finished trial."""
    finished = board[board["status"] == "finished"]
    return finished.groupby("trial_id")["val_top1"].mean()


def test_a_search_has_all_figures_with_numbers_in_their_texts(searched):
    board, storage = searched
    entries = {entry.figure: entry for entry in figures.gallery(board, storage).entries}
    assert set(SEARCH) <= set(entries)
    for name in SEARCH:
        for width in (figures.COLUMN, figures.PAGE):
            entries[name].draw(width=width).draw_without_rendering()
    assert "15 finished" in entries["rungs"].alt and "8 stopped" in entries["rungs"].alt
    assert "Left out: 8 stopped early, 1 failed." in entries["slices"].caption
    assert f"{val_of(board).max():.1f} %" in entries["slices"].alt
    assert entries["slices"].name == "slices-search"


def words_of(name: str, board: pd.DataFrame, storage: str | None = None) -> list[str]:
    """The alternative texts of the figures of one kind."""
    kind = KINDS[name]
    return [words.alt for group in kind.groups(board) for _, words in kind.find(group, storage)]


def test_search_figures_do_not_select_by_test_scores(searched):
    board, storage = searched
    without = board.assign(val_top1=np.nan)
    for name in ("slices", "contours", "importance"):
        with pytest.raises(ValueError, match="No trial has a validation score"):
            words_of(name, without)
    with pytest.raises(ValueError, match="two trials that have validation scores"):
        words_of("sweep-progress", without)
    ((rungs, _),) = list(RUNGS.find(each_sweep(without)[0], storage))
    assert rungs.best is None


def test_search_figures_do_not_depend_on_test_scores(searched):
    board, storage = searched
    other = board.assign(top1=100 - board["top1"])
    for name in SEARCH[:-1]:
        assert words_of(name, other, storage) == words_of(name, board, storage)


def test_sweep_progress_shows_the_best_score_over_cumulative_training_time(searched):
    board, _ = searched
    (axis,) = figures.sweep_progress(board).axes
    trials = board.sort_values("finished_at").drop_duplicates("trial_id")
    minutes = trials["train_seconds"].cumsum() / 60
    best = trials["trial_id"].map(val_of(board)).cummax().ffill()
    found = axis.lines[0].get_xydata()
    np.testing.assert_allclose(found[:, 0], minutes)
    np.testing.assert_allclose(found[:, 1], best)
    assert "minutes on a CPU" in axis.get_xlabel()


def test_sweep_progress_has_a_line_per_sweep_and_a_figure_per_set_of_datasets(searched):
    board, _ = searched
    second = board.assign(sweep="second", trial_id="e" + board["trial_id"].str[1:])
    both = pd.concat([board, second])
    assert len(figures.sweep_progress(both).axes[0].lines) == 2
    assert len(figures.sweep_progress(pd.concat([board, second.assign(device=second["trial_id"])])).axes[0].lines) == 1
    fewer = pd.concat([board, second[second["eval_dataset"] != "stl10"]])
    with pytest.raises(ValueError, match="different datasets: cifar10, stl10, svhn; cifar10, svhn"):
        figures.sweep_progress(fewer)
    assert len(words_of("sweep-progress", fewer)) == 2


def test_hours_of_several_devices_are_not_added(searched):
    board, _ = searched
    mixed = board.assign(device=np.where(board["trial_id"] > f"{9:012x}", "NVIDIA H200", "cpu"))
    with pytest.raises(ValueError, match="needs a sweep on one device"):
        words_of("sweep-progress", mixed)


def test_rung_curves_end_at_the_last_step_of_each_trial_and_highlight_the_best(searched):
    board, storage = searched
    ((rungs, _),) = list(RUNGS.find(each_sweep(board)[0], storage))
    (axis,) = RUNGS.draw(rungs).axes
    ended = {trial_id: curve["step"].max() for trial_id, curve in rungs.curves.items()}
    status = board.drop_duplicates("trial_id").set_index("trial_id")["status"]
    assert ended == {one: 50 if status[one] == "stopped" else 150 for one in status.index if status[one] != "failed"}
    assert rungs.best == val_of(board).idxmax()
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert len(crosses) == 8 and {line.get_xdata()[0] for line in crosses} == {50}
    (thick,) = [line for line in axis.lines if line.get_linewidth() > 1.5]
    own = pd.read_parquet(f"{storage}/trials/{rungs.best}/metrics.parquet")["val_linear_top1"].dropna()
    np.testing.assert_allclose(thick.get_ydata()[:-1], own)
    last = board[board["trial_id"] == rungs.best]["val_linear_top1"].mean()
    assert thick.get_ydata()[-1] == pytest.approx(last)


def test_rung_curves_end_with_the_mean_over_the_datasets_of_the_curve(tmp_path):
    board = a_search(str(tmp_path), trials=8)
    file = tmp_path / "trials" / (trial_id := val_of(board).idxmax()) / "metrics.parquet"
    score = (reports := pd.read_parquet(file))["val_linear_top1"]
    reports.assign(**{f"val_linear_top1/{name}": score for name in ("cifar10", "svhn")}).to_parquet(file)
    own = board[board["trial_id"] == trial_id].set_index("eval_dataset")["val_linear_top1"]
    board["eval_dataset"] = board["eval_dataset"].replace("svhn", "svhn (4,434 of 73,257)")
    without = board[(board["trial_id"] != trial_id) | (board["eval_dataset"] == "cifar10")]
    for rows, last in ((board, (own["cifar10"] + own["svhn"]) / 2), (without, score.iloc[-1])):
        ((rungs, _),) = list(RUNGS.find(each_sweep(rows)[0], str(tmp_path)))
        assert rungs.curves[trial_id]["val_linear_top1"].iloc[-1] == pytest.approx(last)


def test_a_sweep_of_untrained_encoders_alone_has_no_rungs_and_no_progress(searched):
    board, storage = searched
    untrained = [a_board(trial(number, **UNTRAINED, sweep="second", val_top1=9.0)) for number in (98, 99)]
    both = pd.concat([board, *untrained])
    with pytest.raises(ValueError, match="two trials of a sweep with scores during training"):
        list(RUNGS.find(each_sweep(both)[1], storage))
    assert words_of("sweep-progress", both) == words_of("sweep-progress", board)


@pytest.mark.parametrize("name", ["setting_slices", "setting_contours", "setting_importance", "sweep_progress"])
def test_a_board_without_scores_is_refused(name):
    with pytest.raises(ValueError, match="no scores yet"):
        getattr(figures, name)(a_board([failed()]))


def test_captions_give_the_number_of_sweeps_and_mixtures_that_are_not_drawn(searched, monkeypatch):
    names = figures.gallery.__globals__
    monkeypatch.setitem(names, "KINDS", {name: KINDS[name] for name in ("slices", "methods-bars")})
    monkeypatch.setitem(names, "MOST_GROUPS", 1)
    monkeypatch.setattr("mdssl.figures.scores.MOST_MIXTURES", 1)
    board, _ = searched
    two = pd.concat([board, board.assign(sweep="second", trial_id="e" + board["trial_id"].str[1:])])
    (slices,) = figures.gallery(two).entries
    assert slices.caption.endswith("Drawn: at most 1 of 2 sweeps.")
    (bars,) = figures.gallery(board_of_all_kinds()).entries
    assert bars.caption.endswith("Drawn: at most 1 of 3 training mixtures.")


def test_a_trial_is_of_the_sweep_that_trained_it(searched):
    board, _ = searched
    finished = board[(board["status"] == "finished") & (board["eval_dataset"] == "svhn")]
    later = finished.assign(eval_dataset="dtd", finished_at=pd.Timestamp("2026-12-01T10:00:00+00:00"))
    probed, shared = later[:3].assign(sweep=""), later[3:5].assign(sweep="grid")
    (before,), (after,) = each_sweep(board), each_sweep(pd.concat([probed, shared, board]))
    expected, found = trials_of(before), trials_of(after)
    assert after.name == "search" and found[["trial_id", "val"]].equals(expected[["trial_id", "val"]])
    assert words_of("sweep-progress", pd.concat([probed, shared, board])) == words_of("sweep-progress", board)
    assert each_sweep(board.assign(sweep=""))[0].trials == before.trials
    early = finished[:3].assign(status="failed", top1=None, train_seconds=None, finished_at=board["finished_at"].min())
    assert trials_of(each_sweep(pd.concat([early, board]))[0])["train_seconds"].notna().all()


def test_the_note_on_trials_left_out_counts_finished_ones_without_a_validation_score(searched):
    board, _ = searched
    lacking = board["trial_id"].isin(val_of(board).index[:2])
    note = figures.setting_slices(board.assign(val_top1=board["val_top1"].mask(lacking))).get_supxlabel()
    assert "13 trials. Left out: 8 stopped early, 1 failed, 2 without a validation score." in note.replace("\n", " ")


def test_damaged_or_missing_metrics_are_refused_with_the_reason(searched, tmp_path):
    board, _ = searched
    folder = tmp_path / "trials" / f"{2:012x}"
    folder.mkdir(parents=True)
    (folder / "metrics.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=f"{2:012x}/metrics.parquet cannot be read"):
        words_of("rungs", board, str(tmp_path))
    with pytest.raises(ValueError, match="--scheduler asha"):
        words_of("rungs", board, str(tmp_path / "none"))


def test_slices_show_setting_and_score_of_each_finished_trial(searched):
    board, _ = searched
    axes = figures.setting_slices(board).axes
    assert [axis.get_xlabel() for axis in axes] == ["λ1", "λ2", "stem", "learning rate"]
    settings = board.drop_duplicates("trial_id").set_index("trial_id").loc[val_of(board).index]
    expected = sorted(zip(settings["lambda1"], val_of(board), strict=True))
    np.testing.assert_allclose(sorted(map(tuple, points_of(axes[0])[:-1])), expected)
    best = val_of(board).idxmax()
    np.testing.assert_allclose(points_of(axes[3])[-1], [np.log10(settings["learning_rate"][best]), val_of(board)[best]])


def test_contours_are_drawn_for_each_pair_of_numeric_settings(searched):
    board, _ = searched
    axes = figures.setting_contours(board).axes
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in axes[:3]] == [
        ("λ1", "λ2"),
        ("λ1", "learning rate"),
        ("λ2", "learning rate"),
    ]
    assert axes[0].get_xlim()[0] < points_of(axes[0])[:, 0].min()
    figures.setting_contours(board, width=2)
    on_a_line = board.assign(lambda2=board["lambda1"] / 2, learning_rate=1.0)
    with pytest.raises(
        ValueError, match="two settings with numbers that differ independently, but the trials differ in lambda1"
    ):
        figures.setting_contours(on_a_line)


def test_contours_show_one_method(searched):
    board, _ = searched
    others = board[board["trial_id"].isin(board["trial_id"].unique()[:6])]
    others = others.assign(
        trial_id="e" + others["trial_id"].str[1:], method="mdssl-shuffled", val_top1=others["val_top1"] + 50
    )
    both = pd.concat([board, others])
    alone, mixed = (_contours(each_sweep(rows)[0]) for rows in (board, both))
    for pair, same in zip(alone.pairs, mixed.pairs, strict=True):
        pd.testing.assert_frame_equal(pair.means, same.means)
    assert alone.note.startswith("15 trials. ") and mixed.note.startswith("15 trials of MDSSL. ")
    assert "3 of other methods" in mixed.note


def test_importance_finds_the_relevant_settings_and_warns_about_few_trials():
    many = a_search(trials=60)
    found = _importance(each_sweep(many)[0])
    assert list(found.settings.index)[:1] == ["learning_rate"]
    assert found.settings["mean"]["learning_rate"] > 10 * abs(found.settings["mean"][["lambda2", "stem"]]).max()
    assert found.explained > 0.7 and found.warning() == ""
    few = _importance(each_sweep(a_search(trials=22))[0])
    assert "only 14 trials; with fewer than 20" in few.warning()
    noise = many.assign(val_top1=np.random.default_rng(0).uniform(0, 100, len(many)))
    assert "no better than their mean, so these" in _importance(each_sweep(noise)[0]).warning()
    with pytest.raises(ValueError, match="needs 10 trials"):
        figures.setting_importance(a_search(trials=9))


def test_slices_leave_out_trials_of_the_baseline():
    board = a_search()
    baseline = a_search(trials=3, method="simclr", lambda1=1.0, lambda2=0.0)
    baseline["trial_id"] = "b" + baseline["trial_id"].str[1:]
    group = each_sweep(pd.concat([board, baseline]))[0]
    assert len(trials_of(group)) == 24 + 3
    axes = figures.setting_slices(pd.concat([board, baseline])).axes
    assert len(points_of(axes[0])) == 15 + 1
    assert (
        "1 of a method without domain weights" in figures.setting_slices(pd.concat([board, baseline])).get_supxlabel()
    )


def test_searched_settings_are_the_varying_settings_without_the_seed(searched):
    board, _ = searched
    trials = board.drop_duplicates("trial_id").drop(columns="config_json")
    assert searched_settings(trials.assign(seed=range(len(trials)))) == ["lambda1", "lambda2", "stem", "learning_rate"]


def test_scale_of_logarithmically_spaced_values_is_logarithmic():
    assert scale_of(pd.Series(np.geomspace(0.5, 8, 9))) == "log"
    assert scale_of(pd.Series(np.geomspace(1, 8, 9))) == "linear"
    assert scale_of(pd.Series(np.linspace(0.02, 0.4, 9))) == "linear"
    assert scale_of(pd.Series([0.0, 0.1, 1.0])) == scale_of(pd.Series([0.5, 1.0])) == "linear"


def test_seen_against_unseen_shows_the_pareto_front_and_names_the_kind_of_scores(searched):
    board = board_of_all_kinds()
    (axis,) = figures.seen_against_unseen(board, mixture=MIXTURES[2]).axes
    own = board[(board["train_mixture"] == MIXTURES[2]) & board["top1"].notna()]
    means = own.groupby(["trial_id", "seen"])["top1"].mean().unstack()
    np.testing.assert_allclose(sorted(map(tuple, points_of(axis))), sorted(zip(means[True], means[False], strict=True)))
    front = [
        (x, y)
        for x, y in zip(means[True], means[False], strict=True)
        if not ((means[True] >= x) & (means[False] >= y)).sum() > 1
    ]
    (line,) = axis.lines
    assert set(front) <= set(map(tuple, line.get_xydata()))
    assert len(line.get_xydata()) == len(front) + 2
    assert "optimistic" in figures.seen_against_unseen(board, mixture=MIXTURES[2]).get_supxlabel().replace("\n", " ")
    by_validation = figures.seen_against_unseen(searched[0])
    assert "validation" in by_validation.axes[0].get_xlabel() and "optimistic" not in by_validation.get_supxlabel()
    alone = a_board([one for number in (1, 2) for one in trial(number, ("svhn",), seed=number)])
    with pytest.raises(ValueError, match="with means of both"):
        words_of("pareto", alone)
