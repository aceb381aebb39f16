import re
import sys

import numpy as np
import pandas as pd
import pytest
from report_board import config, stand_in_for_figures, write_trial
from scipy import stats

from mdssl.leaderboard.board import read, with_settings
from mdssl.report import build
from mdssl.report.answer import answers
from mdssl.report.build import write_report
from mdssl.report.overview import trial_table

# Top-1 on two datasets by seed.
OURS = {0: (50.0, 40.0), 1: (52.5, 41.0), 2: (51.0, 44.0)}
SIMCLR = {0: (48.0, 39.5), 1: (49.0, 41.5), 2: (53.0, 42.0)}
RANDOM = {0: (20.0, 19.0), 1: (21.0, 22.0), 2: (20.5, 18.0)}


def write(storage, scores, val=None, **settings):
    for seed, (cifar10, svhn) in scores.items():
        own = {} if val is None else {"val_top1": val + seed}
        write_trial(storage, config(seed=seed, **settings), {"cifar10": cifar10, "svhn": svhn}, curves=False, **own)


def answer(storage):
    rows = with_settings(read(storage))
    return answers(rows, trial_table(rows).frame)


def test_differences_and_intervals_match_a_paired_t_test(storage):
    write(storage, OURS, 45.0, lambda2=0.2)
    # Another setting with higher scores on the test split, but a lower validation score.
    write(storage, {0: (60.0, 60.0), 1: (60.0, 60.0)}, 44.0, lambda2=0.1)
    write(storage, SIMCLR, 40.0, method="simclr")
    write(storage, RANDOM, method="random", domains=())
    # A stopped trial of the best setting has no test scores.
    stopped = {"status": "stopped", "step": 10, "val_linear_top1": 9.0, "probe": None, "knn_top1": None}
    write_trial(storage, config(seed=3, lambda2=0.2), {"svhn": None}, curves=False, **stopped)
    (only,) = answer(storage)
    assert only.label == "MDSSL, λ1 = 1, λ2 = 0.2" and only.settings == 2
    assert only.trial_ids == [config(seed=seed, lambda2=0.2).trial_id for seed in OURS]
    assert only.val == 46.0 and only.baseline_val == 41.0
    assert only.second == ("MDSSL, λ1 = 1, λ2 = 0.1", 44.5) and only.seeds == (2, 3)
    assert only.scores == pytest.approx({"cifar10": 51.166666666, "svhn": 41.666666666})
    ours = np.mean(list(OURS.values()), axis=1)
    for found, others, verdict in (
        (only.baseline, SIMCLR, "not told apart from"),
        (only.untrained, RANDOM, "above"),
    ):
        test = stats.ttest_rel(ours, np.mean(list(others.values()), axis=1))
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        by_dataset = np.subtract(list(OURS.values()), list(others.values())).mean(axis=0)
        assert found.by_dataset == pytest.approx({"cifar10": by_dataset[0], "svhn": by_dataset[1]})
        assert found.mean == pytest.approx(by_dataset.mean()) and found.pairs == 3
        assert found.verdict == verdict
    # The table shows the same number.
    rows = with_settings(read(storage))
    table = trial_table(rows).frame.loc[only.trial_ids, "vs simclr"]
    assert only.baseline.mean == pytest.approx(table.mean())


def test_one_seed_has_no_interval_and_missing_baselines_are_none(storage):
    write(storage, {0: OURS[0]}, 45.0, lambda2=0.2)
    write(storage, {1: SIMCLR[1]}, 50.0, method="simclr")
    (only,) = answer(storage)
    assert only.baseline is None and only.untrained is None and only.baseline_val == 51.0
    write(storage, {0: SIMCLR[0]}, 50.0, method="simclr")
    (only,) = answer(storage)
    assert only.baseline.pairs == 1 and only.baseline.mean == 1.25 and np.isnan(only.baseline.low)
    assert only.baseline.verdict == "above"


@pytest.fixture
def first_page(storage, tmp_path, monkeypatch):
    """A function that writes the report and returns the text of its first page."""
    monkeypatch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())

    def text(**arguments) -> str:
        write_report(storage, tmp_path / "report", **arguments)
        page = (tmp_path / "report" / "index.html").read_text()
        return " ".join(re.sub("<(style|script).*?</\\1>|<[^>]*>", "", page, flags=re.DOTALL).split())

    return text


def test_the_first_page_begins_with_the_answer(storage, first_page, monkeypatch):
    write(storage, OURS, 45.0, lambda2=0.2)
    write(storage, {0: (60.0, 60.0)}, 44.0, lambda2=0.1)
    write(storage, SIMCLR, 60.0, method="simclr")
    write(storage, RANDOM, method="random", domains=())
    running = [
        dict(trial_id="0123456789ab", label="mdssl λ2=0.3", state="training", step=40, iterations=80, eta="3m20s")
    ]
    running += [dict(trial_id="0123456789ac", label="mdssl λ2=0.4", state="stopped", step=4, iterations=80, eta=None)]
    monkeypatch.setattr(build, "trials_without_rows", lambda place, ids: running)
    page = first_page()
    assert page.index("Best setting: MDSSL, λ1 = 1, λ2 = 0.2") < page.index("Still running") < page.index("Search")
    assert "against SimCLR on the union +0.9 points, 95% interval -1.1 to +2.9, 3 seeds: not told apart from" in page
    assert "cifar10 +1.2, svhn +0.7" in page
    assert "the highest of 2 settings, before MDSSL, λ1 = 1, λ2 = 0.1 with 44.0 %." in page
    assert "Settings have 1 to 3 seeds, so these means are over different seeds" in page
    assert "3 seeds: above the untrained encoder" in page
    assert "SimCLR on the union has 61.0 %, so no setting is above it" in page
    assert "0123456789ab mdssl λ2=0.3: training, step 40 of 80, ETA 3m20s" in page
    assert "1 stopped without a row" in page


def test_the_comparison_with_the_paper_requires_a_comparable_trial(storage, first_page, monkeypatch, tmp_path):
    write(storage, OURS, 45.0, lambda2=0.2)
    page = first_page()
    assert "No trial is comparable with" in page and "different settings" not in page
    # One claim of the paper agrees.
    real = build.ledger
    monkeypatch.setattr(
        build, "ledger", lambda rows: real(rows).assign(verdict=lambda all: ["agrees", *all["verdict"][1:]])
    )
    page = first_page()
    assert "No trial is comparable with" not in page and "Table 1" in page and "Table 2" not in page
    assert "Not shown: " in page
    assert len(pd.read_csv(tmp_path / "report" / "ledger.csv")) == len(real(with_settings(read(storage))))
