import io
import json

import numpy as np
import pandas as pd
import pytest
from report_board import config, write_trial

from mdssl.leaderboard.board import read
from mdssl.report.curves import POINTS, curves_json, update_curves
from mdssl.report.folder import Folder
from mdssl.storage.location import Location


@pytest.fixture
def folder(storage, tmp_path):
    return Folder(tmp_path / "report", storage=storage)


def write_metrics(storage, trial_id, **columns):
    sink = io.BytesIO()
    pd.DataFrame(columns).to_parquet(sink)
    (Location.of(storage) / "trials" / trial_id / "metrics.parquet").write_bytes(sink.getvalue())


def curves(storage, folder) -> dict:
    board = read(storage)
    update_curves(Location.of(storage), folder, board)
    return json.loads(curves_json(folder, sorted(board["trial_id"].unique())))


def test_curves_are_subsampled_and_keep_both_ends(storage, folder):
    trial = write_trial(storage, config(), {"svhn": 40.0})
    steps, loss = np.arange(1, 501), np.linspace(9, 1, 500)
    loss[[0, 499]] = np.nan, np.inf
    scores = np.where(steps % 100 == 0, steps / 10, np.nan)
    write_metrics(storage, trial, step=steps, loss=loss, val_linear_top1=scores)
    found = curves(storage, folder)[trial]
    assert found["val_linear_top1"] == [[100, 200, 300, 400, 500], [10, 20, 30, 40, 50]]
    at, values = found["loss"]
    assert len(at) == POINTS and (at[0], at[-1]) == (2, 499)
    np.testing.assert_allclose(values, loss[np.array(at) - 1], rtol=1e-3)


def test_metrics_are_read_again_only_for_changed_rows_and_damaged_files_are_ignored(storage, folder):
    trial, other = (write_trial(storage, config(seed=seed), {"svhn": 40.0}) for seed in (0, 1))
    (Location.of(storage) / "trials" / other / "metrics.parquet").write_bytes(b"PAR1 no PAR1")
    assert curves(storage, folder) == {trial: {"loss": [[10, 20], [5.0, 4.0]]}}
    write_metrics(storage, trial, step=[10], loss=[1.0])
    assert curves(storage, folder)[trial]["loss"][0] == [10, 20]
    write_trial(storage, config(), {"svhn": 41.0}, curves=False, finished_at="2026-11-03T11:00:00.000+00:00")
    assert curves(storage, folder) == {trial: {"loss": [[10], [1.0]]}}
