"""The plan of the paper's experiments: trials to run, skipped trials and estimated costs."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from mdssl.config.trial import Recipe
from mdssl.leaderboard import board as leaderboard
from mdssl.paper.experiments import EXPERIMENTS
from mdssl.paper.plan import gpu_hours, plan_experiments, print_list, print_skipped, speed
from mdssl.sweep.settings import SweepSettings


def said(function, *arguments):
    out = io.StringIO()
    function(*arguments, Console(file=out, width=80))
    return out.getvalue()


def listed(names, chosen, board):
    out = io.StringIO()
    print_list(names, chosen, board, Console(file=out, width=80), data=chosen.data, repeats=chosen.repeats)
    return out.getvalue()


def settings(papers_data, **changes):
    return SweepSettings(preset="paper", domains=("cifar10", "svhn"), data=str(papers_data), **changes)


def empty_board(tmp_path):
    return leaderboard.read(str(tmp_path))


def test_trials_without_prepared_datasets_are_skipped_and_listed(papers_data):
    plan = plan_experiments(["table1", "figure3"], papers_data)
    assert {trial.domains for trial in plan.trials} == {("cifar10",), ("svhn",), ("cifar10", "svhn")}
    assert plan.evaluate == ("cifar10", "svhn")
    assert plan.lacking == ("stl10", "cifar100")
    assert len(plan.trials) + len(plan.skipped) == 6 + 9
    text = said(print_skipped, plan)
    assert "skipped: simclr stl10; not prepared: stl10" in text
    assert "mdssl cifar10+cifar100+svhn+stl10 λ1=1 λ2=0.1; not prepared: cifar100, stl10" in text.replace("\n", " ")


def test_datasets_only_trained_on_are_not_listed_as_evaluation_datasets(papers_data, tmp_path):
    text = " ".join(listed(["table3"], settings(papers_data), empty_board(tmp_path)).split())
    scored_on = text.split("scored on ")[1].split(" 13 trials")[0]
    assert "imagenet250k" in text.split("scored on ")[0] and "imagenet250k" not in scored_on
    skipped = said(print_skipped, plan_experiments(["table3"], papers_data))
    not_scored = " ".join(skipped.split()).split("evaluation datasets that are not prepared")[1]
    assert "tiny-imagenet" in not_scored and "imagenet250k" not in not_scored


def test_trials_shared_by_experiments_are_planned_once(papers_data):
    names = ["figure3", "figureA1", "figureA2"]
    plan = plan_experiments(names, papers_data)
    assert len(plan.trials) == len(set(plan.trials)) < sum(len(EXPERIMENTS[name].trials) for name in names)


def test_gpu_hours_are_views_divided_by_speed():
    recipe = Recipe()
    (trial,) = [trial for trial in EXPERIMENTS["figure5-left"].trials if trial.method == "mdssl"]
    assert gpu_hours([trial], recipe, 1e5) == pytest.approx(2 * 2 * 1024 * 48_000 / 1e5 / 3600)


def test_a_measured_speed_replaces_the_assumed_speed(tmp_path):
    nothing = empty_board(tmp_path)
    assert speed(Recipe(), nothing) == (200_000, "assumed for an H100, not measured")
    measured = pd.DataFrame(
        {
            "trial_id": ["a", "a", "b", "c", "d"],
            "arch": ["resnet50"] * 4 + ["resnet18"],
            "stem": "imagenet",
            "device": ["NVIDIA X"] * 3 + ["cpu", "NVIDIA X"],
            "views_per_second": [100.0, 100.0, 2400.0, 5.0, 9.0],
            "train_seconds": 7200.0,
            # The second trained on eight GPUs.
            "gpu_hours": [2.0, 2.0, 16.0, 0.0, 2.0],
        }
    )
    assert speed(Recipe(), measured) == (200, "median of 2 trial(s) on NVIDIA X")


def test_the_list_states_requirements_and_counts_shared_trials_once(papers_data, tmp_path):
    text = listed(["figure3", "figureA1"], settings(papers_data), empty_board(tmp_path))
    assert "figure3: Top-1 against λ1 and against λ2 (section 3.5, figure 3)" in text
    marked = "cifar10 (2 of 10 classes, 8×8 pixels), svhn (2 of 10 classes, 8×8 pixels)"
    assert f"datasets: {marked}" in " ".join(text.split())
    assert "9 trials, about" in text
    assert "total, with shared trials counted once: 9 trials" in text
    assert "not prepared: dtd" in listed(["table4"], settings(papers_data), empty_board(tmp_path))


def test_estimated_hours_scale_with_seeds_and_grid_points(papers_data, tmp_path):
    several = settings(papers_data, seeds=(0, 1), grid=(("learning_rate", "2", "4", "8"),))
    once, often = (listed(["figure3"], chosen, empty_board(tmp_path)) for chosen in (settings(papers_data), several))
    hours = [
        float(re.search(r"total, with.*?about ([0-9.]+) GPU-hours", text, re.DOTALL).group(1)) for text in (once, often)
    ]
    assert hours[1] == pytest.approx(6 * hours[0], abs=0.4)
    assert "9 trials, 6 times each" in often


def test_every_experiment_can_be_listed(papers_data, tmp_path):
    text = listed(list(EXPERIMENTS), settings(papers_data), empty_board(tmp_path))
    assert all(f"\n{name}: " in f"\n{text}" for name in EXPERIMENTS)
