"""Which figures a leaderboard can give: each with title, caption and words, and why others cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from mdssl.data.builtin import BUILTIN
from mdssl.errors import InputError
from mdssl.figures import in_words
from mdssl.figures.entry import Entry, Gallery, file_name
from mdssl.figures.over_cost import cost_against_score, costs_and_scores, timed
from mdssl.figures.over_domains import domains_against_top1, growth, hours, training_hours
from mdssl.figures.over_lambdas import (
    LAMBDAS,
    MOST_CURVES,
    cells_said,
    curve_rows,
    grid_rows,
    lambda_curves,
    lambda_heatmap,
)
from mdssl.figures.over_methods import method_means, methods_bars
from mdssl.figures.recipes import (
    Recipe,
    at_lambdas,
    chosen_lambdas,
    mixtures,
    of_one_device,
    one_of_each_method,
    recipes,
)
from mdssl.figures.representation_entries import class_similarities, embeddings
from mdssl.figures.scores import in_order, over_seeds, seeds_said
from mdssl.storage.location import Location

MOST_RECIPES = 3
"""Groups of settings that get figures of their own."""
MOST_MIXTURES = 4
"""Training mixtures of which each figure of one mixture is drawn."""
MOST_DATASETS = 6
"""Evaluation datasets in one figure of curves."""
MOST_HEATMAPS = 12
"""Evaluation datasets of a mixture that get a heat map."""

Found = Iterator[Entry]


def gallery(board: pd.DataFrame, storage: str | Location | None = None) -> Gallery:
    """All figures that ``board`` can give.

    Trials that differ in more than figures show are never in one: the largest groups of settings get figures of their
    own, and the caption says which. Nothing is drawn here.

    Args:
        board: as `mdssl.leaderboard.board.read` gives it.
        storage: where its trials are; without it there are no figures of representations.
    """
    found = Gallery()
    groups = recipes(board)
    if not groups:
        found.absent.update(dict.fromkeys(_BUILDERS, "the leaderboard has no scores yet: run a sweep."))
        return found
    reasons: dict[str, str] = {}
    for number, recipe in enumerate(groups[:MOST_RECIPES]):
        caption = f"{recipe.said}."
        if len(groups) > 1:
            caption += (
                f" These are {recipe.trials} trials, group {number + 1} of {len(groups)} that differ in settings."
            )
        if set(recipe.rows["eval_dataset"]) & set(BUILTIN):
            caption += " The built-in domains are made-up images."
        for kind, build in _BUILDERS.items():
            try:
                for entry in build(recipe, storage):
                    name = file_name(entry.name, f"settings{number + 1}" if number else "")
                    # Of two datasets whose names differ in what no file name takes.
                    same = sum(other.name.split("~")[0] == name for other in found.entries)
                    name += f"~{same + 1}" if same else ""
                    found.entries.append(replace(entry, name=name, caption=f"{entry.caption} {caption}"))
            except InputError as error:
                reasons.setdefault(kind, str(error))
    drawn = {entry.figure for entry in found.entries}
    found.absent.update({kind: reasons[kind] for kind in _BUILDERS if kind in reasons and kind not in drawn})
    found.entries.sort(key=lambda entry: list(_BUILDERS).index(entry.figure))
    return found


def _domains(recipe: Recipe, storage: object) -> Found:
    rows = recipe.rows
    of_mdssl = rows[rows["method"] == "mdssl"]
    if len(of_mdssl):
        lambdas = chosen_lambdas(of_mdssl, by="num_domains")
        rows = rows[(rows["method"] != "mdssl") | at_lambdas(rows, lambdas)]
    means, alone = growth(rows)
    yield Entry(
        figure="domains-against-top1",
        name="domains-against-top1",
        title="Top-1 against the number of training domains",
        caption=f"As the paper's figure 2, at λ1 = {lambdas[0]:g}, λ2 = {lambdas[1]:g}. Each panel has its own scale. "
        f"{seeds_said(means['n'])}",
        alt=in_words.of_growth(means, alone),
        draw=partial(domains_against_top1, rows),
    )


def _curves(recipe: Recipe, storage: object) -> Found:
    rows, fewer = _levels_that_fit(recipe.rows)
    for mixture, own in _of_mixtures(rows, curve_rows):
        datasets = in_order(own["eval_dataset"].unique(), mixture)
        for first in range(0, len(datasets), MOST_DATASETS):
            part = own[own["eval_dataset"].isin(datasets[first : first + MOST_DATASETS])]
            over1, over2, union, _ = curve_rows(part, mixture=mixture)
            counts = pd.concat([over1, over2]).groupby(["eval_dataset", "lambda1", "lambda2"])["seed"].nunique()
            of = (
                f", datasets {first + 1} to {min(first + MOST_DATASETS, len(datasets))}"
                if len(datasets) > MOST_DATASETS
                else ""
            )
            yield Entry(
                figure="lambda-curves",
                name=file_name(
                    "lambda-curves", _name_of(rows, mixture), str(first // MOST_DATASETS + 1) if first else ""
                ),
                title=f"Top-1 against λ1 and λ2, trained on {mixture}{of}",
                caption="As the paper's figure 3, whose axis is −λ1 where this is λ1. Each dataset has its own scale. "
                f"{seeds_said(counts)}{fewer}",
                alt=in_words.of_curves(over1, over2, union, mixture),
                draw=partial(lambda_curves, part, mixture=mixture),
            )


def _levels_that_fit(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """So many λ1 that curves over λ2 at each can be told apart, evenly over the grid; and what to say of it."""
    of_mdssl = rows["method"] == "mdssl"
    levels = sorted(rows.loc[of_mdssl & (rows["lambda2"] != 0), "lambda1"].unique())
    if len(levels) <= MOST_CURVES:
        return rows, ""
    some = [levels[place] for place in np.linspace(0, len(levels) - 1, MOST_CURVES).round().astype(int)]
    kept = rows[~of_mdssl | (rows["lambda2"] == 0) | rows["lambda1"].isin(some)]
    return kept, f" Curves over λ2 are at {len(some)} of {len(levels)} values of λ1."


def _heatmaps(recipe: Recipe, storage: object) -> Found:
    rows = recipe.rows

    def grid(own: pd.DataFrame, *, mixture: str) -> tuple[pd.DataFrame, pd.DataFrame, str]:
        found = grid_rows(own, mixture, "encoder", "a lambda heat map")
        if len(found[0][["lambda1", "lambda2"]].drop_duplicates()) < 2:
            raise InputError(
                "a lambda heat map needs trials of method mdssl with two pairs of lambda1 and lambda2: "
                "python sweeps/lambda_grid.py."
            )
        return found

    for mixture, own in _of_mixtures(rows, grid):
        of_mdssl, union, _ = grid(own, mixture=mixture)
        datasets = in_order(of_mdssl["eval_dataset"].unique(), mixture)
        for dataset in datasets[:MOST_HEATMAPS]:
            means = over_seeds(of_mdssl[of_mdssl["eval_dataset"] == dataset], LAMBDAS)
            more = f" {len(datasets) - MOST_HEATMAPS} more datasets have none." if len(datasets) > MOST_HEATMAPS else ""
            yield Entry(
                figure="lambda-heatmap",
                name=file_name("lambda-heatmap", _name_of(rows, mixture), dataset),
                title=f"Top-1 on {dataset} over λ1 and λ2, trained on {mixture}",
                caption=f"{cells_said(means)}{more}",
                alt=in_words.of_heatmap(of_mdssl, union, dataset),
                draw=partial(lambda_heatmap, pd.concat([own, recipe.unscored]), dataset, mixture=mixture),
            )


def _bars(recipe: Recipe, storage: object) -> Found:
    rows = recipe.rows

    def chosen(own: pd.DataFrame, *, mixture: str) -> tuple:
        kept, lambdas = one_of_each_method(own, mixture)
        return kept, lambdas, *method_means(kept, mixture=mixture)

    for mixture, own in _of_mixtures(rows, chosen):
        kept, lambdas, means, floor, _ = chosen(own, mixture=mixture)
        at = f" MDSSL at λ1 = {lambdas[0]:g}, λ2 = {lambdas[1]:g}, chosen by no score." if lambdas else ""
        yield Entry(
            figure="methods-bars",
            name=file_name("methods-bars", _name_of(rows, mixture)),
            title=f"Methods beside each other, trained on {mixture}",
            caption=f"As the paper's figure 5.{at} {seeds_said(means['n'])}",
            alt=in_words.of_methods(means, floor, mixture),
            draw=partial(methods_bars, kept, mixture=mixture),
        )


def _hours(recipe: Recipe, storage: object) -> Found:
    rows = recipe.rows
    own = of_one_device(rows[rows["method"] == "mdssl"])
    means, device, _ = hours(own)
    yield Entry(
        figure="training-hours",
        name="training-hours",
        title="Training time against the number of training domains",
        caption=f"As the paper's figure A.3, on {'a CPU' if device == 'cpu' else device}.",
        alt=in_words.of_hours(means),
        draw=partial(training_hours, own),
    )


def _costs(recipe: Recipe, storage: object) -> Found:
    rows = recipe.rows
    own = of_one_device(timed(rows))
    points = costs_and_scores(own)
    if len(points) < 2:
        raise InputError("cost against score needs two trained encoders that are scored on the same datasets.")
    yield Entry(
        figure="cost-against-score",
        name="cost-against-score",
        title="What a score costs",
        caption="Mean top-1 over evaluation datasets against training time; the line is the Pareto front: "
        "what no other trial beats in both.",
        alt=in_words.of_costs(points),
        draw=partial(cost_against_score, own),
    )


_BUILDERS: dict[str, Callable[[Recipe, str | Location | None], Found]] = {
    "lambda-heatmap": _heatmaps,
    "lambda-curves": _curves,
    "methods-bars": _bars,
    "domains-against-top1": _domains,
    "class-similarity": class_similarities,
    "embedding": embeddings,
    "training-hours": _hours,
    "cost-against-score": _costs,
}
"""By kind of figure, what finds those that a group of trials can give; `InputError` says why there is none."""

KINDS = tuple(_BUILDERS)


def _of_mixtures(rows: pd.DataFrame, check: Callable) -> Iterator[tuple[str, pd.DataFrame]]:
    """Mixtures that pass ``check``, most trials first, each with the rows that its figures may need.

    Raises:
        ValueError: none passes; why the largest does not.
    """
    reason = InputError("the leaderboard has no trial on a mixture of domains.")
    found = 0
    for mixture in mixtures(rows):
        single = ~rows["train_mixture"].str.contains("+", regex=False)
        own = rows[single | (rows["train_mixture"] == mixture)]
        try:
            check(own, mixture=mixture)
        except InputError as error:
            reason = error if not found else reason
            continue
        yield mixture, own
        found += 1
        if found == MOST_MIXTURES:
            return
    if not found:
        raise reason


def _name_of(rows: pd.DataFrame, mixture: str) -> str:
    """Part of a file's name where there are several mixtures."""
    return mixture if len(mixtures(rows)) > 1 else ""
