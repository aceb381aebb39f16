"""Trials that were stopped early: views use no test score of these trials, and tables show their last step."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from factories import row, stopped

from mdssl import figures
from mdssl.leaderboard.board import read, read_rows, with_settings, write_rows
from mdssl.paper.ledger import ledger
from mdssl.paper.published import side_by_side
from mdssl.report.overview import best_scores, summary, trial_table
from mdssl.tables.compare import latest_images, pivot
from mdssl.tables.select import parse_condition
from mdssl.tables.sweep_table import sweep_table
from mdssl.tables.view import view

STOPPED = "c" * 12


@pytest.fixture(scope="module")
def boards(sweep_results, tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sweep without and with a trial that was stopped at step 10 with a linear score of 100 % on held-out images."""
    storage = tmp_path_factory.mktemp("stopped")
    shutil.copytree(Path(sweep_results) / "leaderboard", storage / "leaderboard")
    before = with_settings(read(storage))
    trial_id = before.loc[before["method"] == "mdssl", "trial_id"].iloc[0]
    nothing = dict.fromkeys(("probe", "top1", "top5", "knn_top1", "num_classes", "num_train", "num_test"))
    own = {"trial_id": STOPPED, "status": "stopped", "lambda1": 0.5, "step": 10, "val_linear_top1": 100.0}
    write_rows(storage, STOPPED, [found | nothing | own for found in read_rows(storage, trial_id)])
    return before, with_settings(read(storage))


def test_views_leave_out_stopped_trials_and_count_them_in_a_note(boards):
    before, after = boards
    for asked in ({}, {"over_seeds": True}, {"baseline": ("simclr",)}):
        pd.testing.assert_frame_equal(view(after, **asked).frame, view(before, **asked).frame)
        (note,) = set(view(after, **asked).notes) - set(view(before, **asked).notes)
        assert note.startswith("trials that were stopped early are not shown: 1 (--where status=stopped --columns")
    notes = view(after, where=[parse_condition("method=simclr")], over_seeds=True).notes
    assert not any("stopped early" in note for note in notes), "no trial of these conditions was stopped"
    shown = view(
        after,
        where=[parse_condition("status=stopped")],
        columns=("trial_id", "eval_dataset", "step", "iterations", "val_linear_top1"),
    ).frame
    assert set(shown["trial_id"]) == {STOPPED}
    assert set(shown["step"]) == {10}
    assert set(shown["val_linear_top1"]) == {100.0}


@pytest.mark.parametrize("images", ["", "others"])
def test_stopped_trials_do_not_decide_which_images_are_the_latest(boards, images):
    before, after = boards
    # The newest rows of their datasets. Trials without validation scores have no fingerprint.
    is_stopped = after["status"] == "stopped"
    newest = after["finished_at"].max() + pd.Timedelta(hours=1)
    after = after.assign(
        eval_fingerprint=after["eval_fingerprint"].mask(is_stopped, images),
        finished_at=after["finished_at"].mask(is_stopped, newest),
    )
    for asked in ({}, {"over_seeds": True}, {"baseline": ("simclr",)}):
        pd.testing.assert_frame_equal(view(after, **asked).frame, view(before, **asked).frame)
    assert len(latest_images(after)) == (len(after) if images == "" else is_stopped.sum())


def test_pivot_ignores_stopped_trials(boards):
    before, after = boards
    pd.testing.assert_frame_equal(pivot(after), pivot(before))


def test_the_sweep_table_lists_a_stopped_trial_with_its_last_step(boards):
    before, after = boards
    (mixture,) = set(before["train_mixture"]) - {""}
    asked = {"mixtures": [mixture], "datasets": list(before["eval_dataset"].unique())}
    table = sweep_table(after, **asked)
    pd.testing.assert_frame_equal(table.drop(index=STOPPED), sweep_table(before, **asked))
    own = table.loc[STOPPED]
    assert own["status"] == "stopped"
    assert own[[*asked["datasets"], "seen", "vs simclr"]].isna().all()
    iterations = before["iterations"].max()
    said = f"{STOPPED} was stopped early at step 10 of {iterations}; linear score of held-out training images: "
    assert [note for note in table.attrs["notes"] if said in note and "100.0" in note]


def test_figures_ignore_stopped_trials(boards):
    before, after = boards
    expected, found = (figures.gallery(board).entries for board in (before, after))
    assert [entry.alt for entry in found] == [entry.alt for entry in expected]


def test_the_report_counts_stopped_trials_and_does_not_select_them_as_best(boards):
    before, after = boards
    of_best = [[(best.row["trial_id"], best.trials, best.error) for best in best_scores(board)] for board in boards]
    assert of_best[0] == of_best[1]
    expected, found = summary(before), summary(after)
    assert found["status"] == expected["status"] | {"stopped": 1}
    assert (found["finished"], found["failed"]) == (expected["finished"], expected["failed"])
    rows = trial_table(after).rows
    assert [own.trial_id for own in rows].count(STOPPED) == 1
    assert len(rows) == len(trial_table(before).rows) + 1


def test_the_comparison_with_the_paper_marks_stopped_trials_without_scores(storage):
    recipe = {"train_mixture": "cifar10+stl10+svhn+cifar100", "num_domains": 4, "lambda1": 1.0, "lambda2": 0.1}

    def ours() -> dict:
        table = side_by_side(read(storage), "table1")
        table = table[(table["method"] == "mdssl") & table["train_mixture"].str.contains("+", regex=False)]
        return table.set_index("eval_dataset")[["ours", "status"]].loc[["cifar10", "stl10"]].to_numpy().tolist()

    write_rows(storage, STOPPED, [stopped("cifar10", **recipe)])
    assert [status for _, status in ours()] == ["stopped", "stopped"]
    lines = ledger(read(storage))
    assert set(lines.loc[lines["why"].str.contains("stopped"), "why"]) == {"it was stopped"}
    # Another seed has a score on stl10. That score is ours, and cifar10 is not scored, neither stopped nor failed.
    write_rows(storage, "d" * 12, [row("stl10", **recipe, seed=1)])
    (_, of_cifar10), of_stl10 = ours()
    assert (of_cifar10, of_stl10) == ("not scored", [50.0, "ours"])
