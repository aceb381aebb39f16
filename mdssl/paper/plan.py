"""Plan the paper's experiments: their datasets and costs, and the trials that can run on the prepared data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console

from mdssl.config.trial import Recipe
from mdssl.data.dataset import prepare_command
from mdssl.data.remote import is_prepared_in, variants_in
from mdssl.leaderboard.names import name_of
from mdssl.paper.experiments import EXPERIMENTS, PaperTrial, experiment
from mdssl.terminal import say

ASSUMED_VIEWS_PER_SECOND = 200_000
"""Of a ResNet-50 with the ImageNet stem at 32x32 in bf16 on one H100 or H200: an estimate from its arithmetic and
memory traffic, not a measurement. A row of the leaderboard that was trained on a GPU replaces it."""

_COST_OF_A_VIEW = {
    ("resnet50", "imagenet"): 1.0,
    ("resnet18", "imagenet"): 0.44,
    ("resnet50", "cifar"): 15.5,
    ("resnet18", "cifar"): 6.6,
}
"""Multiplications of an encoder at 32x32, relative to the paper's."""


class Plan(NamedTuple):
    """The feasible part of some experiments: ``trials``, each once, and the datasets to ``evaluate`` on. ``skipped``
    are the trials that lack a dataset or weights, ``lacking`` the datasets that are not prepared, and ``unscored`` the
    evaluation datasets among these."""

    trials: tuple[PaperTrial, ...]
    evaluate: tuple[str, ...]
    skipped: tuple[PaperTrial, ...]
    lacking: tuple[str, ...]
    unscored: tuple[str, ...]


def plan_experiments(names: Sequence[str], data: str | Path, *, has_weights: bool = False) -> Plan:
    """Return the trials of the experiments ``names``, each once, whose datasets are prepared in ``data``.

    Args:
        has_weights: whether a pretrained encoder is given. Its trial is added elsewhere, so the plan leaves it out.
    """
    found = [experiment(name) for name in names]
    wanted = dict.fromkeys(trial for chosen in found for trial in chosen.trials)
    evaluate = dict.fromkeys(name for chosen in found for name in chosen.evaluate)
    datasets = dict.fromkeys([*(name for trial in wanted for name in trial.domains), *evaluate])
    prepared = {name for name in datasets if is_prepared_in(data, name)}
    if has_weights:
        wanted = dict.fromkeys(trial for trial in wanted if trial.method != "pretrained")
    possible = tuple(trial for trial in wanted if trial.method != "pretrained" and prepared.issuperset(trial.domains))
    return Plan(
        possible,
        tuple(name for name in evaluate if name in prepared),
        tuple(trial for trial in wanted if trial not in possible),
        tuple(name for name in datasets if name not in prepared),
        tuple(name for name in evaluate if name not in prepared),
    )


def gpu_hours(trials: Iterable[PaperTrial], recipe: Recipe, views_per_second: float) -> float:
    """Estimate the hours of one GPU to train ``trials`` once each."""
    views = sum(2 * recipe.batch_per_domain * recipe.iterations * len(trial.domains) for trial in trials)
    return views / views_per_second / 3600


def speed(recipe: Recipe, board: pd.DataFrame) -> tuple[float, str]:
    """Return the views/s of one GPU for estimates, and their source: the median over trials of the same encoder on
    GPUs, or an assumption."""
    same = board[(board["arch"] == recipe.arch) & (board["stem"] == recipe.stem) & (board["device"] != "cpu")]
    measured = same[same["gpu_hours"] > 0].dropna(subset=["views_per_second"]).drop_duplicates("trial_id")
    if len(measured):
        devices = ", ".join(sorted(measured["device"].unique()))
        # A trial may have trained on several GPUs, or on a share of one.
        gpus = measured["gpu_hours"] * 3600 / measured["train_seconds"]
        of_a_gpu = (measured["views_per_second"] / gpus).median()
        return float(of_a_gpu), f"median of {len(measured)} trial(s) on {devices}"
    # A rough guess for other encoders: a ResNet-50's.
    cost = _COST_OF_A_VIEW.get((recipe.arch, recipe.stem), _COST_OF_A_VIEW["resnet50", recipe.stem])
    return ASSUMED_VIEWS_PER_SECOND / cost, "assumed for an H100, not measured"


def print_list(
    names: Sequence[str], recipe: Recipe, board: pd.DataFrame, console: Console, *, data: str | Path, repeats: int = 1
) -> None:
    """Print each experiment with its trials, datasets and estimated cost; then the total.

    Args:
        recipe: how every trial is trained.
        board: the leaderboard, for measured speeds.
        data: where prepared datasets are.
        repeats: how many times each trial is trained, with other seeds and settings of a grid.
    """
    each = f", {repeats} times each" if repeats > 1 else ""
    views_per_second, source = speed(recipe, board)

    def cost(trials: Iterable[PaperTrial]) -> str:
        trained = [trial for trial in trials if trial.domains]
        hours = repeats * gpu_hours(trained, recipe, views_per_second)
        return f"{len(trained)} trials{each}, about {hours:.1f} GPU-hours"

    for name in names:
        chosen = EXPERIMENTS[name]
        say(console, f"{name}: {chosen.title} ({chosen.section})")
        for trial in chosen.trials:
            say(console, f"    {trial}")
        marks = variants_in(data, [*chosen.domains, *chosen.evaluate])
        marks |= dict.fromkeys(plan_experiments([name], data).lacking, "not prepared")
        trained, scored = (
            ", ".join(name_of(dataset, marks.get(dataset, "")) for dataset in datasets)
            for datasets in (chosen.domains, chosen.evaluate)
        )
        same = set(chosen.domains) == set(chosen.evaluate)
        say(console, f"  datasets: {trained}" if same else f"  datasets: trained on {trained}; scored on {scored}")
        say(console, f"  {cost(chosen.trials)}")
        for note in chosen.notes:
            say(console, f"  note: {note}")
        say(console, "")
    once = dict.fromkeys(trial for name in names for trial in EXPERIMENTS[name].trials)
    say(console, f"total, with shared trials counted once: {cost(once)}")
    say(console, f"at {views_per_second:,.0f} views/s of a GPU ({source})")
    for dataset in plan_experiments(names, data).lacking:
        say(console, f"not prepared: {dataset}; {prepare_command(data, dataset)}")


def print_skipped(plan: Plan, console: Console) -> None:
    """Print the skipped trials and datasets with the reasons."""
    for trial in plan.skipped:
        absent = [name for name in trial.domains if name in plan.lacking]
        why = f"not prepared: {', '.join(absent)}" if absent else "give its file with --pretrained"
        say(console, f"skipped: {trial}; {why}")
    if plan.unscored:
        say(console, f"evaluation datasets that are not prepared: {', '.join(plan.unscored)}")
