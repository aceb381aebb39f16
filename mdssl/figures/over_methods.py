"""Figure 5: the methods beside each other, on training domains and on unseen ones."""

from __future__ import annotations

import pandas as pd

from mdssl.data.sources.catalog import seen_in
from mdssl.errors import InputError
from mdssl.figures.scores import in_order, one_mixture, over_seeds, refuse_mixed, scored, seeds_said
from mdssl.figures.style import (
    FAINT,
    HATCHES,
    INK,
    METHODS,
    PAGE,
    Figure,
    dataset_label,
    legend,
    look,
    note,
    panels,
)
from mdssl.leaderboard.names import plain_name


@look()
def methods_bars(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder", width: float = PAGE
) -> Figure:
    """Figure 5: top-1 of up to five methods in bars, grouped by evaluation dataset.

    SimCLR on the single domain that is scored, SimCLR on the union, MDSSL, and MDSSL with clustering and with robust
    clustering. Where an untrained encoder was scored, a line across the group says what it gets.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.
        mixture: which training mixture; needed where there are several.

    Raises:
        ValueError: fewer than two of the methods; or rows of one method that differ in more than the seed, such as in
            λ: choose the ones that shall be compared.
    """
    means, floor, mixture = method_means(board, mixture=mixture, features=features)
    methods = [name for name in METHODS if name in set(means["method"])]
    datasets = in_order(means["eval_dataset"].unique(), mixture)
    # Each bar takes a sixth of an inch, and so has room for its number.
    per_row = max(1, int((width - 0.4) / (0.17 * len(methods) + 0.25)))
    lines = -(-len(datasets) // per_row)
    per_row = -(-len(datasets) // lines)
    figure, axes = panels(lines, width=width, height=1.6, per_row=1)
    handles: dict[str, object] = {}
    seen = seen_in(plain_name(mixture).split("+"))
    wide = 0.8 / len(methods)
    for number, axis in enumerate(axes):
        group = datasets[number * per_row : (number + 1) * per_row]
        places = {dataset: place for place, dataset in enumerate(group)}
        for place, method in enumerate(methods):
            own = means[(means["method"] == method) & means["eval_dataset"].isin(group)]
            x = own["eval_dataset"].map(places).astype(float) + (place - (len(methods) - 1) / 2) * wide
            label, colour = METHODS[method]
            bars = axis.bar(
                x,
                own["mean"],
                wide * 0.92,
                color=colour,
                hatch=HATCHES[list(METHODS).index(method)],
                edgecolor=INK,
                linewidth=0.5,
            )
            handles.setdefault(label, bars)
            error = dict(fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
            spread = own["std"].fillna(0)
            axis.errorbar(x[spread > 0], own["mean"][spread > 0], spread[spread > 0], **error)
            if (width - 0.4) / per_row * wide > 0.2:
                for left, mean, above in zip(x, own["mean"], spread, strict=True):
                    text = dict(textcoords="offset points", xytext=(0, 1.5), ha="center", fontsize=5.5)
                    axis.annotate(f"{mean:.1f}", (left, mean + above), **text)
        for dataset in group:
            if dataset in floor:
                left = places[dataset]
                line = axis.hlines(
                    floor[dataset], left - 0.45, left + 0.45, color=FAINT, linestyle=(0, (2, 1)), linewidth=1
                )
                handles["untrained encoder"] = line
        characters = int(width / per_row * 13)
        names = [
            f"{dataset_label(name, characters)}\n{'trained on' if plain_name(name) in seen else 'unseen'}"
            for name in group
        ]
        axis.set_xticks(range(len(group)), names)
        axis.tick_params(axis="x", length=0)
        axis.set_xlim(-0.5, per_row - 0.5)
        # Scores that are all zero have an axis all the same.
        axis.set_ylim(0, max(1.12 * (means["mean"] + means["std"].fillna(0)).max(), 1))
        axis.set_ylabel("top-1 (%)")
    legend(figure, list(handles.values()), list(handles))
    at = "".join(f" {said}." for said in _lambdas_said(means.attrs["lambdas"]))
    note(figure, seeds_said(means["n"]) + at)
    return figure


def _lambdas_said(lambdas: dict[str, tuple[float, float]]) -> list[str]:
    """At which λ1 and λ2 each method was trained, once where all have the same."""
    if len(set(lambdas.values())) == 1:
        lambdas = {"mdssl": next(iter(lambdas.values()))}
    return [f"{METHODS[name][0]} (λ1 = {pair[0]:g}, λ2 = {pair[1]:g})" for name, pair in lambdas.items()]


def method_means(
    board: pd.DataFrame, *, mixture: str | None = None, features: str = "encoder"
) -> tuple[pd.DataFrame, pd.Series, str]:
    """What `methods_bars` shows: means over seeds by method and dataset, by dataset that of an untrained encoder, and
    the mixture; ``lambdas`` in the attributes of the first are λ1 and λ2 by method. Raises as `methods_bars`."""
    rows = scored(board, features)
    several = rows[rows["train_mixture"].str.contains("+", regex=False)]
    if several.empty:
        raise InputError("bars of methods need trials on a mixture of domains, and the leaderboard has none.")
    mixture = one_mixture(several, mixture)
    together = rows[(rows["train_mixture"] == mixture) & rows["method"].isin(METHODS)]
    alone = rows[(rows["method"] == "simclr") & (rows["train_mixture"] == rows["eval_dataset"])].assign(method="alone")
    datasets = in_order(together["eval_dataset"].unique(), mixture)
    shown = pd.concat([together, alone[alone["eval_dataset"].isin(datasets)]])
    methods = [name for name in METHODS if name in set(shown["method"])]
    if len(methods) < 2:
        raise InputError(f"bars of methods need two of them on {mixture}; the leaderboard has {methods[0]} only.")
    refuse_mixed(shown, "bars of methods", by=("method",))
    varies = ("method", "lambda1", "lambda2", "train_mixture", "data_fingerprint")
    refuse_mixed(shown, "bars of methods", varies=varies)
    floor = rows[rows["method"] == "random"].groupby("eval_dataset")["top1"].mean()
    means = over_seeds(shown, ["method", "eval_dataset"])
    of_mdssl = shown[shown["method"].str.startswith("mdssl")].drop_duplicates("method").set_index("method")
    means.attrs["lambdas"] = {
        name: (of_mdssl.loc[name, "lambda1"], of_mdssl.loc[name, "lambda2"])
        for name in METHODS
        if name in of_mdssl.index
    }
    return means, floor, mixture
