"""Figures over the number of training domains: scores (figure 2) and training hours (figure A.3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mdssl.data.sources.catalog import seen_in
from mdssl.errors import InputError
from mdssl.figures.scores import over_seeds, refuse_mixed, scored, seeds_said
from mdssl.figures.style import (
    COLOURS,
    FAINT,
    INK,
    PAGE,
    Figure,
    dataset_label,
    legend,
    look,
    no_negative,
    note,
    panels,
    plain,
)
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.names import plain_name

_VARIES = ("train_mixture", "data_fingerprint", "batching")
"""Many domains are encoded one after another (appendix A.5)."""


@look()
def domains_against_top1(board: pd.DataFrame, *, features: str = "encoder", width: float = PAGE) -> Figure:
    """Figure 2: top-1 of MDSSL against its number of training domains, a panel per evaluation dataset.

    A dotted line is SimCLR on that dataset alone. Filled markers are of mixtures that hold the dataset, hollow ones of
    mixtures that never saw it. A line joins the points where each number of domains has one mixture only.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.

    Raises:
        ValueError: fewer than two numbers of domains; or rows of one mixture that differ in more than the seed.
    """
    means, alone = growth(board, features=features)
    datasets = sorted(means["eval_dataset"].unique(), key=lambda name: (name not in alone, name))
    figure, axes = panels(len(datasets), width=width, height=1.35)
    handles: dict[str, object] = {}
    for axis, dataset in zip(axes, datasets, strict=True):
        own = means[means["eval_dataset"] == dataset].sort_values(["num_domains", "train_mixture"])
        seen = [plain_name(dataset) in seen_in(plain_name(mixture).split("+")) for mixture in own["train_mixture"]]
        _points(axis, own, own["num_domains"].nunique() == len(own))
        for name, chosen, face in (
            ("MDSSL that has seen it", True, COLOURS[0]),
            ("MDSSL that has not", False, "white"),
        ):
            part = own[[is_seen == chosen for is_seen in seen]]
            if len(part):
                marks = dict(linestyle="none", marker="o", markerfacecolor=face, color=COLOURS[0], zorder=3)
                (handles[name],) = axis.plot(part["num_domains"], part["mean"], **marks)
        if dataset in alone:
            line = axis.axhline(alone[dataset], color=INK, linestyle=(0, (1, 1)), linewidth=1)
            handles["SimCLR on it alone"] = line
        no_negative(axis)
        axis.set_title(dataset_label(dataset, 24), loc="left")
        _whole_numbers(axis, means["num_domains"])
    _outer_labels(axes, "training domains", "top-1 (%)")
    order = ("MDSSL that has seen it", "MDSSL that has not", "SimCLR on it alone")
    names = [name for name in order if name in handles]
    legend(figure, [handles[name] for name in names], names)
    note(figure, seeds_said(means["n"]))
    return figure


def growth(board: pd.DataFrame, *, features: str = "encoder") -> tuple[pd.DataFrame, pd.Series]:
    """What `domains_against_top1` shows: means over seeds by dataset and mixture, and by dataset that of SimCLR on it
    alone. Raises as `domains_against_top1`."""
    rows = scored(board, features)
    grown = rows[rows["method"] == "mdssl"]
    single = rows[(rows["method"] == "simclr") & (rows["train_mixture"] == rows["eval_dataset"])]
    if grown["num_domains"].nunique() < 2:
        raise InputError(
            "domains against top-1 needs trials of method mdssl with two numbers of training domains: "
            "python sweeps/mixtures.py --growing."
        )
    what = "domains against top-1"
    refuse_mixed(grown, what, by=("train_mixture",))
    refuse_mixed(pd.concat([grown, single]), what, varies=(*_VARIES, "method", "lambda1", "lambda2"))
    refuse_mixed(grown, what, varies=_VARIES)
    means = over_seeds(grown, ["eval_dataset", "num_domains", "train_mixture"])
    return means, single.groupby("eval_dataset")["top1"].mean()


@look()
def training_hours(board: pd.DataFrame, *, width: float = 3.3) -> Figure:
    """Figure A.3: training time of MDSSL against its number of training domains.

    Args:
        board, width: as for `mdssl.figures.lambda_curves`.

    Raises:
        ValueError: fewer than two numbers of domains; or rows that differ in more than mixture and seed, or in device
            or number of workers, whose times are no comparison.
    """
    means, device, workers = hours(board)
    unit, scale = ("hours", 1) if means["mean"].max() >= 0.5 else ("minutes", 60)
    means[["mean", "std"]] *= scale
    figure, (axis,) = panels(1, width=width, height=1.7)
    own = means.sort_values(["num_domains", "train_mixture"])
    _points(axis, own, own["num_domains"].nunique() == len(own))
    axis.plot(own["num_domains"], own["mean"], linestyle="none", marker="o", color=COLOURS[0])
    axis.set_ylim(bottom=0)
    _whole_numbers(axis, means["num_domains"])
    _outer_labels([axis], "training domains", f"training time ({unit})")
    on = f"On {'a CPU' if device == 'cpu' else device}, {workers} worker{'s' if workers > 1 else ''}."
    note(figure, plain(f"{on} A point is a mixture: the mean of {_trials(means['n'])} ± one standard deviation."))
    return figure


def hours(board: pd.DataFrame) -> tuple[pd.DataFrame, str, int]:
    """What `training_hours` shows: means of hours over seeds by mixture, the device, and the number of workers. Raises
    as `training_hours`."""
    trials = board[(board["method"] == "mdssl") & (board["status"] == "finished") & (board["train_seconds"] > 0)]
    if trials["num_domains"].nunique() < 2:
        raise InputError(
            "training hours needs finished trials of method mdssl with two numbers of training domains: "
            "python sweeps/mixtures.py --growing."
        )
    trials = leaderboard.with_settings(trials) if "config_json" in trials else trials
    # How it was scored does not change what training took.
    unscored = {"eval_dataset": "", "features": "", "probe": "", "eval_fingerprint": ""}
    trials = trials.drop_duplicates("trial_id").assign(**unscored)
    # λ changes the loss, not the time.
    refuse_mixed(trials, "training hours", varies=(*_VARIES, "lambda1", "lambda2"), also=("device", "num_workers"))
    trials = trials.assign(hours=trials["train_seconds"] / 3600)
    means = over_seeds(trials, ["num_domains", "train_mixture"], "hours")
    workers = trials["num_workers"].fillna(1).iloc[0]
    return means, str(trials["device"].iloc[0] or "an unknown device"), int(workers)


def _trials(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return "one trial" if high == 1 else f"{low if low == high else f'{low} to {high}'} trials"


def _points(axis: Axes, own: pd.DataFrame, joined: bool) -> None:
    bars = dict(ecolor=FAINT, elinewidth=0.8, capsize=1.5)
    line = "-" if joined else "none"
    axis.errorbar(
        own["num_domains"].astype(int), own["mean"], own["std"].fillna(0), color=COLOURS[0], linestyle=line, **bars
    )


def _whole_numbers(axis: Axes, numbers: pd.Series) -> None:
    axis.set_xlim(numbers.min() - 0.4, numbers.max() + 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _outer_labels(axes: list[Axes], x: str, y: str) -> None:
    """Labels at the left and at the lower rim only; each panel keeps its own scale."""
    for number, axis in enumerate(axes):
        spot = axis.get_subplotspec()
        axis.set_ylabel(y if spot.is_first_col() else "")
        below = number + spot.get_gridspec().ncols
        axis.set_xlabel(x if below >= len(axes) else "")
