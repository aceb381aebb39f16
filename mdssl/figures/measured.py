"""What changes with λ: how domains lie in the representation space, beside the score of nearest neighbors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.lines import Line2D

from mdssl.config.presets import STORAGE, place_flags
from mdssl.errors import InputError
from mdssl.figures import scores, style
from mdssl.figures.curves import LAMBDAS, draw_curve, finish, lambda_grid, varied_lambdas
from mdssl.figures.kind import FigureKind, Storage, Words, file_name
from mdssl.figures.lambdas import best_lambdas, chosen_lambdas
from mdssl.figures.scores import SettingsGroup
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.tables.measures import with_measures
from mdssl.tables.pareto import selection_score
from mdssl.tables.statistics import over_seeds

ALL = "all domains"
MOST_DOMAINS = len(style.COLORS) - 1
"""Domains with a color of their own; black is `ALL`."""
PANELS = {
    "class similarity within and across (black)": ("cosine", ("similarity_within", "similarity_across")),
    "alignment of views: lower is closer": ("distance²", ("alignment",)),
    "uniformity: lower is more even": ("log mean", ("uniformity",)),
    "neighbors of the own domain": ("share (%)", ("neighbors_own",)),
    "kNN classifier": ("top-1 (%)", ("knn_top1",)),
}
"""Rows of panels: title, label of the y axis, and columns."""
_OF_ALL = ("similarity_across", "alignment")
"""Columns with one curve, the mean over domains."""
_POINT = ["quantity", "curve", *LAMBDAS]


class Measured(NamedTuple):
    """Values with their ``quantity``, which is a column; ``curve``, a domain or `ALL`; λ1, λ2, trial and seed.

    Attributes:
        values: by the λ that varies.
        union: means of SimCLR on the union, by quantity and curve.
        curves: domains in order, and `ALL`.
        fixed: at which λ1 λ2 varies, in words; and why.
    """

    values: dict[str, pd.DataFrame]
    union: dict[tuple[str, str], float]
    curves: list[str]
    fixed: tuple[str, str]

    def counts(self) -> list[int]:
        """Number of seeds of each point."""
        return [n for values in self.values.values() for n in over_seeds(values, _POINT, "value")["n"]]


def lambda_measures(
    board: pd.DataFrame, *, mixture: str | None = None, storage: Storage = None, width: float = style.PAGE
) -> style.Figure:
    """Measures of the representation space against λ1 at λ2 = 0, and against λ2 at the best λ1, and kNN top-1.

    The best λ1 is that of the best validation score. Dotted lines are SimCLR on the union.

    Args:
        board, mixture, width: as for `mdssl.figures.lambda_curves`.
        storage: with the files of the trials; not needed if ``board`` has the columns of
            `mdssl.tables.measures.add_measures`.

    Raises:
        ValueError: neither λ has two values; rows differ in more than λ and the seed; or no trial has a measure.
    """
    return _draw(_measured(board, mixture, storage), width)


def _measured(board: pd.DataFrame, mixture: str | None, storage: Storage) -> Measured:
    what = "a figure of measures over λ"
    mdssl, _, mixture = lambda_grid(board, mixture, "encoder", what)
    domains = mixture.split("+")
    varied, fixed = varied_lambdas(mdssl, what), ("", "")
    if "lambda2" in varied:
        over2 = varied["lambda2"]
        by_score = selection_score(over2) == "val_top1"
        level = (best_lambdas(over2) if by_score else chosen_lambdas(over2, by="seed"))[0]
        varied["lambda2"] = over2[over2["lambda1"] == level]
        fixed = (f"λ1 = {level:g}", "the best by validation score" if by_score else "not selected by score")
    rows = scores.select(board)
    is_union = (rows["method"] == "simclr") & (rows["train_mixture"] == mixture) & rows["seed"].isin(mdssl["seed"])
    shown = rows[(is_union | rows.index.isin(pd.concat(varied.values()).index)) & rows["eval_dataset"].isin(domains)]
    if storage is None and not set(MEASURE_NAMES) <= set(shown):
        raise InputError(f"{what} needs a storage, or a board to which mdssl.tables.measures.add_measures was applied.")
    if shown.empty:
        raise InputError(f"no selected trial on {mixture} has a score on one of its domains; {what} needs one.")
    shown = shown if storage is None else with_measures(shown, storage, domains)
    if shown[list(MEASURE_NAMES)].isna().all(axis=None):
        raise InputError(
            f"none of the selected trials on {mixture} has representations, metrics or neighbors; `mdssl probe "
            f"{shown['trial_id'].iloc[0]}{place_flags(storage or STORAGE)}` adds those of one trial, except its "
            "metrics."
        )
    values = {name: _values(shown[shown.index.isin(own.index)]) for name, own in varied.items()}
    union = over_seeds(_values(shown[shown["method"] == "simclr"]), ["quantity", "curve"], "value")
    means = dict(zip(zip(union["quantity"], union["curve"], strict=True), union["mean"], strict=True))
    return Measured(values, means, [*domains[:MOST_DOMAINS], ALL], fixed)


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    names = [name for _, names in PANELS.values() for name in names]
    values = rows.melt(["trial_id", "seed", *LAMBDAS, "eval_dataset"], names, "quantity").dropna(subset="value")
    values["curve"] = values["eval_dataset"].mask(values["quantity"].isin(_OF_ALL), ALL)
    return values.groupby([*_POINT, "trial_id", "seed"])["value"].mean().reset_index()


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Measured, Words]]:
    for mixture, measured in scores.each_mixture(group.rows, partial(_measured, storage=storage)):
        domains = mixture.split("+")
        at = f" λ2 varies at {' ('.join(measured.fixed)})." if "lambda2" in measured.values else ""
        more = f" Only the first {MOST_DOMAINS} domains are shown." if len(domains) > MOST_DOMAINS else ""
        words = Words(
            title=f"Measures of the representation space against λ1 and λ2, trained on {mixture}",
            caption="Mean cosine similarity of the means of different classes of one domain (colors) and of different "
            "domains (black), alignment and uniformity (Wang and Isola, 2020), the share of nearest neighbors from the "
            f"own domain, and kNN top-1.{at} Dotted: SimCLR on the union. {scores.seeds_note(measured.counts())}{more}",
            alt=" ".join(_in_words(name, values) for name, values in measured.values.items()),
            name=file_name(group.label(mixture)),
        )
        yield measured, words


def _in_words(name: str, values: pd.DataFrame) -> str:
    means = over_seeds(values, ["quantity", "curve", name], "value").sort_values(name)
    ends = means.groupby(["quantity", "curve"])["mean"].agg(["first", "last"])
    parts = [
        f"{quantity.replace('_', ' ')} of {curve} from {low:.3g} to {high:.3g}"
        for (quantity, curve), low, high in ends.itertuples(name=None)
    ]
    greek = name.replace("lambda", "λ")
    return f"From {greek} = {values[name].min():g} to {values[name].max():g}: {', '.join(parts)}."


@style.styled()
def _draw(measured: Measured, width: float = style.PAGE) -> style.Figure:
    every = pd.concat(measured.values.values())
    shown = {title: of for title, of in PANELS.items() if every["quantity"].isin(of[1]).any()}
    across = len(measured.values)
    figure, axes = style.panels(len(shown) * across, width=width, height=1.05, per_row=across, sharex=True)
    handles: dict[str, object] = {}
    for row, (title, (label, names)) in enumerate(shown.items()):
        left, *_ = of_row = axes[row * across : (row + 1) * across]
        for axis, (name, values) in zip(of_row, measured.values.items(), strict=True):
            axis.sharey(left)
            for number, curve in enumerate(measured.curves):
                own = values[values["quantity"].isin(names) & (values["curve"] == curve)]
                if own.empty:
                    continue
                black: dict[str, Any] = dict(color=style.INK, marker="h", linestyle="-")
                look = black if curve == ALL else style.line(number)
                handles.setdefault(style.dataset_label(curve, 40), draw_curve(axis, own, name, "value", **look))
                dotted: dict[str, Any] = dict(linestyle=style.DOTTED, linewidth=1)
                if (of := (own["quantity"].iloc[0], curve)) in measured.union:
                    axis.axhline(measured.union[of], color=look["color"], zorder=1, **dotted)
                    handles["SimCLR on the union"] = Line2D([], [], color=style.FAINT, **dotted)
            axis.tick_params(labelleft=axis is left)
        left.set_ylabel(label)
        left.set_title(style.wrapped(title, style.fits(width / across)), loc="left")
        if "%" in label:
            style.no_negative(left, highest=100)
    finish(figure, axes, measured.values, handles, measured.counts())
    if "lambda2" in measured.values:
        axes[-1].set_xlabel(f"λ2, at {measured.fixed[0]}")
    return figure


MEASURED = FigureKind("lambda-measures", _find, _draw, by_mixture=True)
