"""Figures of the training of one trial: the terms of its loss, its validation scores, and its clusters."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from mdssl.errors import InputError, some_of
from mdssl.figures import style
from mdssl.figures.kind import Entry, Gallery, Words
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import read_table

_VALIDATION = "val_linear_top1/"
"""Prefix of the columns of validation scores; the name of the dataset follows."""
_TERMS = {
    "loss": "total",
    "alignment": "alignment (eq. 2)",
    "within": "within domains (eq. 3)",
    "across": "across domains (eq. 4)",
}


@style.styled()
def loss_terms(metrics: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Return the training loss and its three terms, unweighted, by step.

    The loss of MDSSL is alignment + λ1 within + λ2 across.

    Args:
        metrics: a trial's ``metrics.parquet``.
        width: of the figure, inches.

    Raises:
        ValueError: there are no steps in it.
    """
    if metrics.empty:
        raise InputError("the metrics have no step yet: the trial has not reported.")
    terms = {name: title for name, title in _TERMS.items() if name in metrics and metrics[name].notna().any()}
    figure, axes = style.panels(len(terms), width=width, height=1.25)
    for axis, (name, title) in zip(axes, terms.items(), strict=True):
        line: dict[str, Any] = dict(color=style.INK if name == "loss" else style.COLORS[0], linewidth=1)
        # A line through a single report would be invisible.
        axis.plot(metrics["step"], metrics[name], marker="o" if len(metrics) == 1 else "", **line)
        axis.set_title(title, loc="left")
        axis.locator_params(axis="x", nbins=4)
    style.outer_labels(axes, "training step", "loss")
    return figure


@style.styled()
def validation_scores(metrics: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Linear score of held-out training images by step, of each dataset.

    Args:
        metrics: the rows of a trial's ``metrics.parquet`` that have a score.
        width: of the figure, inches.

    Raises:
        ValueError: there is no score in it.
    """
    curves = validation_curves(metrics)
    if not curves:
        raise InputError("the metrics have no validation score: train with --score-every N.")
    figure, (axis,) = style.panels(1, width=width, height=1.6)
    lines = {
        name: axis.plot(metrics["step"], scores, **style.line(number % len(style.COLORS)))[0]
        for number, (name, scores) in enumerate(curves.items())
    }
    axis.set_xlabel("training step")
    axis.set_ylabel("validation top-1 (%)")
    style.legend(figure, lines)
    return figure


@style.styled()
def clusters(rounds: pd.DataFrame, *, width: float = style.PAGE) -> style.Figure:
    """Result of each clustering: agreement with the true domains, churn, and the share of images kept.

    Purity is the share of images from the most frequent domain of their cluster; NMI is normalized mutual information.
    Training never sees the true domains.

    Args:
        rounds: a trial's ``clusters.parquet``.
        width: of the figure, inches.

    Raises:
        ValueError: there are no rounds in it.
    """
    if rounds.empty:
        raise InputError("the file of clusterings is empty: the trial has not clustered yet.")
    churns = bool(rounds["churn"].notna().any())
    figure, axes = style.panels(2 + churns, width=width, height=1.35)
    step = rounds["step"]
    lines = {
        title: axes[0].plot(step, rounds[name], **style.line(number))[0]
        for number, (title, name) in enumerate((("purity", "purity"), ("NMI", "nmi")))
    }
    axes[0].set_ylim(-0.03, 1.05)
    axes[0].set_title("agreement with domains", loc="left")
    axes[0].set_ylabel("purity, NMI (0 to 1)")
    axes[1].plot(step, 100 * rounds["kept_share"], color=style.COLORS[0], marker="o")
    axes[1].set_ylim(-3, 105)
    axes[1].set_title("images kept", loc="left")
    axes[1].set_ylabel("share (%)")
    if churns:
        churn = 100 * rounds["churn"].astype(float)
        axes[2].plot(step, churn, color=style.COLORS[0], marker="o")
        axes[2].set_ylim(-0.5, 1.08 * max(churn.max(), 1))
        axes[2].set_title("churn: changed cluster", loc="left")
        axes[2].set_ylabel("images (%)")
    for axis in axes:
        axis.set_xlabel("training step")
        axis.locator_params(axis="x", nbins=4)
    style.legend(figure, lines)
    sizes = rounds["sizes"].iloc[-1]
    some = some_of((f"{size:,}" for size in sizes), 8)
    style.note(figure, f"Sizes of the {len(sizes)} clusters at the last of {len(rounds)} rounds: {some}.")
    return figure


def _loss_words(metrics: pd.DataFrame) -> Words:
    names = [name for name in _TERMS if name in metrics and metrics[name].notna().any()]
    first, last = metrics.iloc[0], metrics.iloc[-1]
    terms = [f"{'total' if name == 'loss' else name} from {first[name]:.2f} to {last[name]:.2f}" for name in names]
    return Words(
        title="The loss and its terms during training",
        caption="In MDSSL, total = alignment + λ1 within + λ2 across. Each panel has its own scale.",
        alt=f"From step {first['step']:.0f} to step {last['step']:.0f}: {', '.join(terms)}.",
    )


def validation_curves(metrics: pd.DataFrame) -> dict[str, pd.Series]:
    """Return validation scores by dataset."""
    found = {name.removeprefix(_VALIDATION): metrics[name] for name in metrics.columns if name.startswith(_VALIDATION)}
    return {name: scores for name, scores in found.items() if scores.notna().any()}


def scored(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the reports with a validation score. Metrics of earlier versions have no such column."""
    return metrics[metrics["val_linear_top1"].notna()] if "val_linear_top1" in metrics else metrics[:0]


def _validation_words(metrics: pd.DataFrame) -> Words:
    own = {name: scores.dropna() for name, scores in validation_curves(metrics).items()}
    changes = [f"{name} from {scores.iloc[0]:.1f} to {scores.iloc[-1]:.1f} %" for name, scores in own.items()]
    return Words(
        title="Validation scores during training",
        caption="Linear score of held-out images of the train split. Test images are not used.",
        alt=f"From step {metrics['step'].iloc[0]:.0f} to step {metrics['step'].iloc[-1]:.0f}: {', '.join(changes)}.",
    )


def _cluster_words(rounds: pd.DataFrame) -> Words:
    first, last = rounds.iloc[0], rounds.iloc[-1]
    churn = f"; at the last, {100 * last['churn']:.1f} % of images changed cluster" if pd.notna(last["churn"]) else ""
    return Words(
        title="Clusters during training",
        caption="At each clustering: purity and normalized mutual information (NMI) against the true domains, which "
        "training never sees; the share of images that eq. 5 keeps; and the share that changed cluster.",
        alt=f"{len(rounds)} clusterings: purity from {first['purity']:.2f} to {last['purity']:.2f}, NMI from "
        f"{first['nmi']:.2f} to {last['nmi']:.2f}, images kept from {100 * first['kept_share']:.0f} to "
        f"{100 * last['kept_share']:.0f} %{churn}.",
    )


_KINDS = {
    "loss-terms": (
        "metrics.parquet", None, loss_terms, _loss_words, "it has not reported yet, or its method does not train"
    ),
    "validation-scores": (
        "metrics.parquet", scored, validation_scores, _validation_words,
        "it was trained without --score-every, or has not been scored yet",
    ),
    "clusters": (
        "clusters.parquet", None, clusters, _cluster_words, "its method has no clusters, or it has not clustered yet"
    ),
}  # fmt: skip


def trial_gallery(trial_dir: str | Location) -> Gallery:
    """Return the figures of the trial with its files in ``trial_dir``, ``trials/<trial_id>`` of a storage.

    Raises:
        ValueError: a file is damaged.
    """
    trial_dir = Location.of(trial_dir)
    found = Gallery()
    for kind, (file, chosen, draw, words_of, why_not) in _KINDS.items():
        table = read_table(trial_dir / file)
        if table is None:
            found.absent[kind] = f"trial {trial_dir.name} has no {file}: {why_not}."
            continue
        # A method without training reports nothing, and its table has no columns.
        lacking = "rows" if table.empty else "validation scores"
        table = chosen(table) if chosen else table
        if table.empty:
            found.absent[kind] = f"trial {trial_dir.name} has no {lacking} in {file}: {why_not}."
            continue
        words = replace(words_of(table), name=kind)
        found.entries.append(Entry(figure=kind, draw=partial(draw, table), **vars(words)))
    return found
