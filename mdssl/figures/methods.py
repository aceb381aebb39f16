"""Figure 5 of the paper: a comparison of methods on training domains and on unseen datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdssl.data.sources.catalog import seen_in
from mdssl.errors import InputError
from mdssl.figures import lambdas, scores, style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.style import METHODS
from mdssl.leaderboard.names import plain_name
from mdssl.tables.statistics import over_seeds


class Bars(NamedTuple):
    """Means over seeds by method and dataset, by dataset the score of an untrained encoder, and λ1 and λ2 by method."""

    means: pd.DataFrame
    untrained: pd.Series
    lambdas: dict[str, tuple[float, ...]]
    mixture: str
    datasets: list[str]


def methods_bars(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder", width: float = style.PAGE
) -> style.Figure:
    """Figure 5: top-1 of up to five methods in bars, grouped by evaluation dataset.

    The methods are SimCLR on the dataset alone, SimCLR on the union, MDSSL, and MDSSL with clustering and with robust
    clustering. A line across the group is the score of an untrained encoder, if there is one.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.
        mixture: the training mixture; required where there are several.

    Raises:
        ValueError: fewer than two of the methods; or rows of one method that differ in more than the seed, such as in
            λ: choose those to compare.
    """
    return _draw(_bars(board, mixture, features), width)


def _bars(board: pd.DataFrame, mixture: str | None, features: str = "encoder") -> Bars:
    rows = scores.select(board, features)
    several = rows[~scores.is_single(rows)]
    if several.empty:
        raise InputError("bars of methods need trials on a mixture of domains, and the leaderboard has none.")
    mixture = scores.one_mixture(several, mixture)
    together = rows[(rows["train_mixture"] == mixture) & rows["method"].isin(METHODS)]
    alone = rows[(rows["method"] == "simclr") & (rows["train_mixture"] == rows["eval_dataset"])].assign(method="alone")
    datasets = scores.in_order(together["eval_dataset"], mixture)
    shown = pd.concat([together, alone[alone["eval_dataset"].isin(datasets)]])
    methods = shown["method"].unique()
    if len(methods) < 2:
        raise InputError(f"bars of methods need two methods on {mixture}; the leaderboard has only {methods[0]}.")
    scores.refuse_mixed(shown, "bars of methods", by=("method",))
    varies = ("method", "lambda1", "lambda2", "train_mixture", "data_fingerprint")
    scores.refuse_mixed(shown, "bars of methods", varies=varies)
    untrained = rows[rows["method"] == "random"].groupby("eval_dataset")["top1"].mean()
    pairs = shown.drop_duplicates("method").set_index("method")[["lambda1", "lambda2"]]
    lambdas = {name: tuple(pairs.loc[name]) for name in METHODS if name in methods and METHODS[name].weighs_domains}
    return Bars(over_seeds(shown, ["method", "eval_dataset"]), untrained, lambdas, mixture, datasets)


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Bars, Words]]:
    def read(rows: pd.DataFrame, mixture: str) -> tuple[Bars, str]:
        kept, at = lambdas.one_of_each_method(rows, mixture)
        return _bars(kept, mixture), at

    for mixture, (bars, at) in scores.each_mixture(group.rows, read):
        top1 = bars.means.pivot(index="eval_dataset", columns="method", values="mean")
        parts = []
        for dataset in bars.datasets:
            own = top1.loc[dataset].dropna()
            values = [f"{method.label} {own[name]:.1f}" for name, method in METHODS.items() if name in own]
            values += [f"untrained encoder {bars.untrained[dataset]:.1f}"] if dataset in bars.untrained else []
            parts.append(f"{dataset}: {', '.join(values)}.")
        words = Words(
            title=f"Comparison of methods, trained on {mixture}",
            caption=f"Corresponds to figure 5 of the paper.{at} {scores.seeds_note(bars.means['n'])}",
            alt=style.in_words("Bars of top-1 in percent on", parts),
            name=file_name(group.label(mixture)),
        )
        yield bars, words


@style.styled()
def _draw(bars: Bars, width: float = style.PAGE) -> style.Figure:
    half = bars.means["half"].fillna(0)
    # No score is above 100 %.
    means = bars.means.assign(half=half, above=np.fmin(half, 100 - bars.means["mean"]))
    methods = [name for name in METHODS if name in set(means["method"])]
    # A bar takes a sixth of an inch, which has room for its number.
    per_row = style.equal_rows(len(bars.datasets), int((width - 0.4) / (0.17 * len(methods) + 0.25) / style.scale()))
    figure, axes = style.panels(-(-len(bars.datasets) // per_row), width=width, height=1.6, per_row=1)
    handles: dict[str, object] = {}
    trained_on = seen_in(plain_name(bars.mixture).split("+"))
    wide = 0.8 / len(methods)
    for number, axis in enumerate(axes):
        group = bars.datasets[number * per_row : (number + 1) * per_row]
        places = {dataset: place for place, dataset in enumerate(group)}
        for place, method in enumerate(methods):
            own = means[(means["method"] == method) & means["eval_dataset"].isin(group)]
            x = own["eval_dataset"].map(places).astype(float) + (place - (len(methods) - 1) / 2) * wide
            look: dict[str, Any] = dict(
                color=METHODS[method].color,
                hatch=style.HATCHES[list(METHODS).index(method) % len(style.HATCHES)],
                edgecolor=style.INK,
                linewidth=0.5,
            )
            handles.setdefault(METHODS[method].label, axis.bar(x, own["mean"], wide * 0.92, **look))
            varied = own["half"] > 0
            error: dict[str, Any] = dict(fmt="none", ecolor=style.INK, elinewidth=0.8, capsize=1.5)
            ends = axis.errorbar(x[varied], own["mean"][varied], [own["half"][varied], own["above"][varied]], **error)
            if varied.any():
                handles[scores.interval_label(means["n"])] = ends
            if (width - 0.4) / per_row * wide > 0.2 * style.scale():
                for left, mean, spread in zip(x, own["mean"], own["above"], strict=True):
                    # On white, so that no line crosses the number.
                    white: dict[str, Any] = dict(facecolor="white", edgecolor="none", pad=0.3)
                    text: dict[str, Any] = dict(textcoords="offset points", xytext=(0, 1.5), ha="center", bbox=white)
                    axis.annotate(f"{mean:.1f}", (left, mean + spread), fontsize=style.SMALL, zorder=4, **text)
        for dataset, left in places.items():
            if dataset in bars.untrained:
                line: dict[str, Any] = dict(color=style.FAINT, linestyle=(0, (2, 1)), linewidth=1)
                handles["untrained encoder"] = axis.hlines(bars.untrained[dataset], left - 0.45, left + 0.45, **line)
        names = [style.dataset_label(name, style.fits(width / per_row)) for name in group]
        kinds = ["trained on" if plain_name(name) in trained_on else "unseen" for name in group]
        axis.set_xticks(range(len(group)), [f"{name}\n{kind}" for name, kind in zip(names, kinds, strict=True)])
        axis.tick_params(axis="x", length=0)
        axis.set_xlim(-0.5, per_row - 0.5)
        # All scores may be zero.
        axis.set_ylim(0, max(1.12 * (means["mean"] + means["above"]).max(), 1))
        axis.set_ylabel("top-1 (%)")
    style.legend(figure, dict(sorted(handles.items(), key=lambda item: item[0].startswith("95 %"))))
    # Once, if all methods have the same λ1 and λ2.
    lambdas = bars.lambdas if len(set(bars.lambdas.values())) > 1 else dict(list(bars.lambdas.items())[:1])
    at = [
        f" {'MDSSL' if len(lambdas) == 1 else METHODS[name].label} (λ1 = {pair[0]:g}, λ2 = {pair[1]:g})."
        for name, pair in lambdas.items()
    ]
    style.note(figure, scores.seeds_note(bars.means["n"]) + "".join(at))
    return figure


BARS = FigureKind("methods-bars", _find, _draw, by_mixture=True)
