"""Figures of one trial while it trained: the terms of its loss, and its clusters."""

from __future__ import annotations

import pandas as pd

from mdssl.errors import InputError
from mdssl.figures.style import COLOURS, INK, LINES, MARKERS, PAGE, Figure, legend, look, note, panels

_TERMS = {
    "loss": "total",
    "alignment": "alignment (eq. 2)",
    "within": "within domains (eq. 3)",
    "across": "across domains (eq. 4)",
}


@look()
def loss_terms(metrics: pd.DataFrame, *, width: float = PAGE) -> Figure:
    """The training loss and its three terms, unweighted, by step: total = alignment + λ1 within + λ2 across.

    Args:
        metrics: a trial's ``metrics.parquet``.
        width: of the figure, inches.

    Raises:
        ValueError: there are no steps in it.
    """
    if metrics.empty:
        raise InputError("the metrics hold no step yet: the trial has not reported.")
    terms = {name: title for name, title in _TERMS.items() if name in metrics and metrics[name].notna().any()}
    figure, axes = panels(len(terms), width=width, height=1.25)
    for number, (axis, (name, title)) in enumerate(zip(axes, terms.items(), strict=True)):
        line = dict(color=INK if name == "loss" else COLOURS[0], linewidth=1)
        # One report is a point, and a line of one point is nothing.
        axis.plot(metrics["step"], metrics[name], marker="o" if len(metrics) == 1 else "", **line)
        axis.set_title(title, loc="left")
        spot = axis.get_subplotspec()
        axis.set_xlabel("training step" if number + spot.get_gridspec().ncols >= len(axes) else "")
        axis.set_ylabel("loss" if spot.is_first_col() else "")
        axis.locator_params(axis="x", nbins=4)
    return figure


@look()
def clusters(rounds: pd.DataFrame, *, width: float = PAGE) -> Figure:
    """What each clustering found: agreement with the true domains, churn, and the share of images kept.

    Purity is the share of images that are of their cluster's most frequent domain; NMI is normalised mutual
    information. Both are looked at alone: training never sees the true domains.

    Args:
        rounds: a trial's ``clusters.parquet``.
        width: of the figure, inches.

    Raises:
        ValueError: there are no rounds in it.
    """
    if rounds.empty:
        raise InputError("the clusters hold no round yet: the trial has not clustered.")
    churns = rounds["churn"].notna().any()
    figure, axes = panels(2 + churns, width=width, height=1.35)
    step = rounds["step"]
    lines = [
        axes[0].plot(step, rounds[name], color=COLOURS[n], marker=MARKERS[n], linestyle=LINES[n])[0]
        for n, name in enumerate(("purity", "nmi"))
    ]
    axes[0].set_ylim(-0.03, 1.05)
    axes[0].set_title("agreement with domains", loc="left")
    axes[0].set_ylabel("purity, NMI (0 to 1)")
    axes[1].plot(step, 100 * rounds["kept_share"], color=COLOURS[0], marker="o")
    axes[1].set_ylim(-3, 105)
    axes[1].set_title("images kept", loc="left")
    axes[1].set_ylabel("share (%)")
    if churns:
        churn = 100 * rounds["churn"].astype(float)
        axes[2].plot(step, churn, color=COLOURS[0], marker="o")
        axes[2].set_ylim(-0.5, 1.08 * max(churn.max(), 1))
        axes[2].set_title("churn: changed cluster", loc="left")
        axes[2].set_ylabel("images (%)")
    for axis in axes:
        axis.set_xlabel("training step")
        axis.locator_params(axis="x", nbins=4)
    legend(figure, lines, ["purity", "NMI"])
    sizes = rounds["sizes"].iloc[-1]
    note(figure, f"Sizes of the {len(sizes)} clusters at the last of {len(rounds)} rounds: {_some(sizes)}.")
    return figure


def _some(sizes: list[int]) -> str:
    shown = ", ".join(f"{size:,}" for size in sizes[:8])
    return shown if len(sizes) <= 8 else f"{shown} and {len(sizes) - 8} more"
