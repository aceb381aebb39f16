"""Figures over the number of training domains: scores (figure 2 of the paper) and training time (figure A.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.ticker import MaxNLocator

from mdssl.data.sources.catalog import seen_in
from mdssl.errors import InputError
from mdssl.figures import lambdas, scores, style
from mdssl.figures.kind import FigureKind, Storage, Words
from mdssl.figures.scores import SettingsGroup
from mdssl.leaderboard.board import with_settings
from mdssl.leaderboard.names import plain_name
from mdssl.tables.statistics import over_seeds

_VARIES = ("train_mixture", "data_fingerprint", "batching")
"""Settings that change with the number of domains; many are encoded one after another (appendix A.5)."""


class Growth(NamedTuple):
    """Means over seeds by dataset and mixture, and by dataset the score of SimCLR on it alone."""

    means: pd.DataFrame
    alone: pd.Series

    def datasets(self) -> list[str]:
        return sorted(self.means["eval_dataset"].unique(), key=lambda name: (name not in self.alone, name))


class Hours(NamedTuple):
    """Means of training hours over seeds by mixture, and where they were measured."""

    means: pd.DataFrame
    device: str
    workers: int


def domains_against_top1(board: pd.DataFrame, *, features: str = "encoder", width: float = style.PAGE) -> style.Figure:
    """Figure 2: top-1 of MDSSL against its number of training domains, a panel per evaluation dataset.

    A dotted line is SimCLR on that dataset alone. Markers are filled for mixtures that contain the dataset, and hollow
    for others. A line joins the points if each number of domains has one mixture only.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.

    Raises:
        ValueError: fewer than two numbers of domains; or rows of one mixture that differ in more than the seed.
    """
    return _draw_growth(_growth(board, features), width)


def training_hours(board: pd.DataFrame, *, width: float = style.COLUMN) -> style.Figure:
    """Figure A.3: training time of MDSSL against its number of training domains.

    Args:
        board, width: as for `mdssl.figures.lambda_curves`.

    Raises:
        ValueError: fewer than two numbers of domains; or rows that differ in more than mixture, λ and seed, or in
            device or number of workers, whose times cannot be compared.
    """
    return _draw_hours(_hours(board), width)


def _growth(board: pd.DataFrame, features: str = "encoder") -> Growth:
    what = "domains against top-1"
    rows = scores.select(board, features)
    grown = rows[rows["method"] == "mdssl"]
    single = rows[(rows["method"] == "simclr") & (rows["train_mixture"] == rows["eval_dataset"])]
    _check_numbers(grown, f"{what} needs")
    scores.refuse_mixed(grown, what, by=("train_mixture",))
    scores.refuse_mixed(pd.concat([grown, single]), what, varies=(*_VARIES, "method", "lambda1", "lambda2"))
    scores.refuse_mixed(grown, what, varies=_VARIES)
    means = over_seeds(grown, ["eval_dataset", "num_domains", "train_mixture"])
    return Growth(means, single.groupby("eval_dataset")["top1"].mean())


def _hours(board: pd.DataFrame) -> Hours:
    what = "training hours"
    trials = board[(board["method"] == "mdssl") & (board["status"] == "finished") & (board["train_seconds"] > 0)]
    _check_numbers(trials, f"{what} needs finished")
    # The evaluation does not change the training time, and neither does λ.
    no_score = dict.fromkeys(("eval_dataset", "features", "probe", "eval_fingerprint"), "")
    trials = with_settings(trials).drop_duplicates("trial_id").assign(**no_score)
    scores.refuse_mixed(trials, what, varies=(*_VARIES, "lambda1", "lambda2"), also=("device", "num_workers"))
    trials = trials.assign(hours=trials["train_seconds"] / 3600)
    means = over_seeds(trials, ["num_domains", "train_mixture"], "hours")
    device = trials["device"].iloc[0] or "an unknown device"
    return Hours(means, "a CPU" if device == "cpu" else device, int(trials["num_workers"].fillna(1).iloc[0]))


def _check_numbers(rows: pd.DataFrame, needs: str) -> None:
    if rows["num_domains"].nunique() < 2:
        raise InputError(
            f"{needs} trials of method mdssl with two numbers of training domains: run mdssl sweep mixtures --growing."
        )


def _find_growth(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Growth, Words]]:
    rows = group.rows
    mdssl = rows["method"] == "mdssl"
    pair = lambdas.chosen_lambdas(rows[mdssl], by="num_domains") if mdssl.any() else (0, 0)
    growth = _growth(rows[~mdssl | lambdas.at_lambdas(rows, pair)])
    parts = []
    for dataset in growth.datasets():
        own = growth.means[growth.means["eval_dataset"] == dataset].sort_values("num_domains")
        values = [f"{mean:.1f} with {n}" for mean, n in zip(own["mean"], own["num_domains"], strict=True)]
        alone = f"; SimCLR on it alone {growth.alone[dataset]:.1f}" if dataset in growth.alone else ""
        parts.append(f"{dataset}: {', '.join(values[: style.MOST_NAMES])} training domains{alone}.")
    words = Words(
        title="Top-1 against the number of training domains",
        caption=f"Corresponds to figure 2 of the paper, at λ1 = {pair[0]:g}, λ2 = {pair[1]:g}. Each panel has "
        f"its own scale. {scores.seeds_note(growth.means['n'])}",
        alt=style.in_words("Top-1 in percent on", parts),
    )
    yield growth, words


def _find_hours(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Hours, Words]]:
    hours = _hours(scores.of_one_device(group.rows[group.rows["method"] == "mdssl"]))
    values = [f"{mean:.2g} h with {n}" for mean, n in zip(hours.means["mean"], hours.means["num_domains"], strict=True)]
    words = Words(
        title="Training time against the number of training domains",
        caption=f"Corresponds to figure A.3 of the paper, on {hours.device}.",
        alt=f"Training time of MDSSL: {', '.join(values[: style.MOST_NAMES])} training domains.",
    )
    yield hours, words


@style.styled()
def _draw_growth(growth: Growth, width: float = style.PAGE) -> style.Figure:
    datasets = growth.datasets()
    figure, axes = style.panels(len(datasets), width=width, height=1.35)
    handles: dict[str, object] = {}
    for axis, dataset in zip(axes, datasets, strict=True):
        own = growth.means[growth.means["eval_dataset"] == dataset].sort_values(["num_domains", "train_mixture"])
        trained_on = [seen_in(plain_name(mixture).split("+")) for mixture in own["train_mixture"]]
        is_seen = np.array([plain_name(dataset) in domains for domains in trained_on])
        bars = _draw_means(axis, own)
        if max(growth.means["n"]) > 1:
            handles[scores.interval_label(growth.means["n"])] = bars
        for name, part, face in (
            ("MDSSL, trained on it", own[is_seen], style.COLORS[0]),
            ("MDSSL, not trained on it", own[~is_seen], "white"),
        ):
            if len(part):
                marks: dict[str, Any] = dict(
                    linestyle="none", marker="o", markerfacecolor=face, color=style.COLORS[0], zorder=3
                )
                (handles[name],) = axis.plot(part["num_domains"], part["mean"], **marks)
        if dataset in growth.alone:
            line: dict[str, Any] = dict(color=style.INK, linestyle=style.DOTTED, linewidth=1)
            handles["SimCLR on it alone"] = axis.axhline(growth.alone[dataset], **line)
        style.no_negative(axis, highest=100)
        axis.set_title(style.dataset_label(dataset), loc="left")
        _count_domains(axis, growth.means)
    style.outer_labels(axes, "training domains", "top-1 (%)")
    order = ("MDSSL, trained on it", "MDSSL, not trained on it", "SimCLR on it alone")
    style.legend(figure, {name: handles.pop(name) for name in order if name in handles} | handles)
    style.note(figure, scores.seeds_note(growth.means["n"]))
    return figure


@style.styled()
def _draw_hours(hours: Hours, width: float = style.COLUMN) -> style.Figure:
    means = hours.means.sort_values(["num_domains", "train_mixture"])
    unit, scale = style.time_unit(means["mean"])
    means[["mean", "half"]] *= scale
    figure, (axis,) = style.panels(1, width=width, height=1.7)
    bars = _draw_means(axis, means)
    axis.plot(means["num_domains"], means["mean"], linestyle="none", marker="o", color=style.COLORS[0])
    axis.set_ylim(bottom=0)
    _count_domains(axis, means)
    style.outer_labels([axis], "training domains", f"training time ({unit})")
    style.legend(figure, {scores.interval_label(means["n"]): bars} if max(means["n"]) > 1 else {})
    trials = scores.span(means["n"], "one trial", "{} trials, with 95 % intervals (Student's t)")
    on = f"On {hours.device}, {hours.workers} worker{'s' if hours.workers > 1 else ''}."
    style.note(figure, style.plain(f"{on} A point is a mixture: the mean of {trials}."))
    return figure


def _draw_means(axis: Axes, means: pd.DataFrame) -> ErrorbarContainer:
    """Bars of 95 % intervals, joined by a line if each number of domains has one mixture only."""
    bars: dict[str, Any] = dict(ecolor=style.FAINT, elinewidth=0.8, capsize=1.5, color=style.COLORS[0])
    bars["linestyle"] = "-" if means["num_domains"].is_unique else "none"
    return axis.errorbar(means["num_domains"].astype(int), means["mean"], means["half"].fillna(0), **bars)


def _count_domains(axis: Axes, means: pd.DataFrame) -> None:
    axis.set_xlim(means["num_domains"].min() - 0.4, means["num_domains"].max() + 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


GROWTH = FigureKind("domains-against-top1", _find_growth, _draw_growth)
HOURS = FigureKind("training-hours", _find_hours, _draw_hours)
