"""Figures of `sweeps/paper.py`: a table of the trials of the experiment, and an image file."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read, write_rows
from mdssl.paper.experiments import EXPERIMENTS
from mdssl.sweep.paper_results import show_results
from mdssl.trials.rows import failed_row

CONTEXT = {"sweep": "paper", "preset": "paper", "git_commit": "", "ray_version": ""}
NAMES = [name for name, chosen in EXPERIMENTS.items() if chosen.figure]


def write(storage: str, experiment: str, top1: float = 50.0, device: str = "cpu", **changes) -> None:
    """Write rows of all trials of an experiment, as if they were scored on the complete datasets."""
    for number, trial in enumerate(EXPERIMENTS[experiment].trials):
        config = TrialConfig(**trial.settings | changes | {"precision": "fp32"})
        row = failed_row(config, "", context=CONTEXT, started_at="2026-11-02T10:00:00+00:00")
        said = json.loads(row["config_json"]) | {"evaluation": {"variant": "", "data_fingerprint": "x"}, "variants": {}}
        row |= {"status": "finished", "error": None, "seen": True, "features": "encoder", "probe": "sgd-raw"}
        row |= {"num_classes": 10, "num_train": 9, "num_test": 9, "top1": top1 + number, "device": device}
        row |= {"train_seconds": 60.0, "num_workers": 1, "gpu_hours": 0.0}
        row |= {"config_json": json.dumps(said, sort_keys=True)}
        rows = [row | {"eval_dataset": name} for name in EXPERIMENTS[experiment].evaluate]
        write_rows(storage, config.trial_id, rows)


def shown(storage: str, *names: str) -> str:
    out = io.StringIO()
    show_results(names, read(storage), Console(file=out, width=160), probes=["sgd-raw"], storage=storage)
    return out.getvalue()


def test_every_experiment_named_figure_has_a_figure():
    assert set(NAMES) == {name for name in EXPERIMENTS if name.startswith("figure")}


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure5-left", "figureA3"])
def test_a_figure_is_printed_as_a_table_and_drawn(tmp_path, name):
    write(str(tmp_path), name)
    text = shown(str(tmp_path), name)
    chosen = EXPERIMENTS[name]
    assert f"{name}: {chosen.title}; top-1" in text and f"{50.0:.1f}" in text
    files = sorted(Path(tmp_path, "figures").iterdir())
    assert files and all(file.name.startswith(f"{name}-{chosen.figure}") for file in files)
    assert all(f"{file}: " in text for file in files)


def test_a_figure_excludes_trials_of_other_experiments(tmp_path):
    write(str(tmp_path), "figure3")
    write(str(tmp_path), "table1", top1=80.0)
    text = shown(str(tmp_path), "figure3")
    assert "80.0" not in text and "stl10" not in text


@pytest.mark.parametrize("name", ["figure4", "figureA1", "figureA2"])
def test_the_reason_for_a_missing_figure_is_printed(tmp_path, name):
    write(str(tmp_path), name)
    text = shown(str(tmp_path), name)
    assert f"{name} is not drawn: " in text and "has representations" in text


def test_trials_of_several_settings_are_printed_but_not_compared(tmp_path):
    for rate in (2.0, 4.0):
        write(str(tmp_path), "table4", top1=50.0 + rate, learning_rate=rate)
    text = shown(str(tmp_path), "table4", "figure3")
    assert "not compared: top-1 beside table4" in text and "board[" not in text and "learning_rate: 2.0, 4.0" in text
    assert "52.0" in text and "54.0" in text and "no rows to show" in text
    for seed, device in enumerate(("NVIDIA A", "NVIDIA B")):
        write(str(tmp_path), "table2", seed=seed, device=device)
    assert "not compared: resources beside table 2" in shown(str(tmp_path), "table2")


def test_a_note_is_printed_for_an_experiment_without_scores(tmp_path):
    write(str(tmp_path), "table4")
    assert "no rows to show" in shown(str(tmp_path), "figure3")
