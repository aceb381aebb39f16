"""Training time against score: each trial by its training hours and its mean top-1, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mdssl.config.methods import METHODS, UNTRAINED
from mdssl.data.builtin import BUILTIN
from mdssl.errors import InputError, check_name
from mdssl.figures import scores, style
from mdssl.figures.kind import FigureKind, Storage, Words
from mdssl.figures.pareto import draw_front, named
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import whole_board
from mdssl.tables.compare import common_datasets, settings_of
from mdssl.tables.pareto import pareto_front, training_hours
from mdssl.tables.select import SELECTED_ON_TEST
from mdssl.tables.statistics import row_means

SAME_COMPUTE = (
    "method", "train_mixture", "data_fingerprint", "lambda1", "lambda2", "temperature", "seed", "learning_rate", "init",
    "init_fingerprint", "encoder_lr_scale", "normalization", "lr_warmup_iterations", "sampling", "negative_weight",
    "schedule", "decay_fraction", "weight_decay", "crop_min_area", "jitter_strength", "epsilon", "epsilon_final",
    "outlier_rule", "recipe_version", "recipe_version_clustering", "weights",
)  # fmt: skip
"""Settings that do not change the amount of computation. Training times of trials that differ only in these differ by
chance, for example by other programs on the machine."""


def cost_against_score(
    board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder", width: float = style.PAGE
) -> style.Figure:
    """Draw mean top-1 over evaluation datasets against training time. A point per trial; a line for the Pareto front.

    The time is GPU-hours, or hours on a CPU times workers: the median of trials of equal computation (`SAME_COMPUTE`).
    Trials that lack one of the scores are left out.

    Args:
        board, features, width: as for `mdssl.figures.lambda_curves`.
        evaluate: the datasets of the mean; by default those that most trials have.

    Raises:
        ValueError: no trained encoder has all of the scores; all trials have the same computation; or trials ran on
            several devices, whose hours cannot be compared.
    """
    return _draw(costs_and_scores(board, evaluate=evaluate, features=features), width)


def costs_and_scores(board: pd.DataFrame, *, evaluate: tuple[str, ...] = (), features: str = "encoder") -> pd.DataFrame:
    """Return a row per trained trial with all scores: its settings, ``cost`` (hours), ``score`` (mean top-1, percent),
    ``on_front``, and ``shown_as``, a key of `mdssl.figures.style.METHODS`. Raises as `cost_against_score`."""
    rows = scores.select(board, features)
    rows = _timed(rows[~rows["method"].isin(UNTRAINED)])
    found = sorted(rows["eval_dataset"].unique())
    for name in evaluate:
        check_name("evaluation dataset", name, found)
    by_dataset = rows.groupby(["trial_id", "eval_dataset"])["top1"].first().unstack()
    evaluate = tuple(evaluate or common_datasets(by_dataset) or found)
    rows = rows[rows["eval_dataset"].isin(evaluate)]
    # Trials may differ in any setting, because none are averaged, but not in the images that gave the score.
    images = [name for name in ("eval_dataset", "method", "eval_fingerprint") if name in rows]
    scores.refuse_mixed(rows[images], "cost against score", varies=("method",))
    hours = training_hours(rows.drop_duplicates("trial_id").set_index("trial_id"))
    complete = by_dataset[list(evaluate)].dropna()
    means = row_means(complete, complete.notna())
    points = rows.drop_duplicates("trial_id").set_index("trial_id").loc[means.index].reset_index()
    if points.empty:
        raise InputError(
            f"no trained encoder has scores on all of {', '.join(evaluate)}. Name fewer, or score some on all with "
            "`mdssl probe`."
        )
    kinds = points["method"].map(lambda name: METHODS[name].finds_domains)
    changing = [name for name in settings_of(points) if name not in SAME_COMPUTE]
    compute = points[[*changing, "num_domains", "num_workers"]].assign(clusters=kinds)
    group = compute.groupby(list(compute), dropna=False).ngroup()
    if group.nunique() == 1 and len(points) > 1:
        raise InputError(
            f"all {len(points)} trials have the same computation, so their training times differ only by chance. Cost "
            "against score needs trials that differ in iterations, arch, batch_per_domain or the number of domains."
        )
    points = named(points)
    points["cost"] = pd.Series(hours.loc[means.index].to_numpy()).groupby(group).transform("median")
    points["score"] = means.to_numpy()
    points["on_front"] = pareto_front(points["cost"].to_numpy(dtype=float), points["score"].to_numpy(dtype=float))
    points.attrs["evaluate"] = evaluate
    return points


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["train_seconds"] > 0]
    if rows.empty:
        raise InputError("no trial has a training time, the column train_seconds, so the cost of a score is unknown.")
    return rows


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[pd.DataFrame, Words]]:
    points = costs_and_scores(scores.of_one_device(_timed(group.rows)))
    if len(points) < 2:
        raise InputError("cost against score needs two trained encoders with scores on the same datasets.")
    front = points[points["on_front"]].sort_values("cost")
    ends = [front.iloc[0], front.iloc[-1]] if len(front) > 1 else [front.iloc[0]]
    why = "that lack one of these scores or a training time, or ran on other devices or numbers of workers"
    left_out = scores.left_out(group.rows, len(points), why)
    listed = " to ".join(f"{end['score']:.1f} % for {end['cost']:.2g} h ({end['label']})" for end in ends)
    words = Words(
        title="Top-1 against training time",
        caption="Mean top-1 over evaluation datasets against training time, the median of trials of equal computation. "
        f"The line is the Pareto front: trials that no other trial beats in both.{left_out} {SELECTED_ON_TEST}",
        alt=f"{len(points)} trials, mean top-1 from {points['score'].min():.1f} to {points['score'].max():.1f} %, "
        f"training from {points['cost'].min():.2g} to {points['cost'].max():.2g} h; {len(front)} on the Pareto front: "
        f"{listed}.",
    )
    yield points, words


@style.styled()
def _draw(points: pd.DataFrame, width: float = style.PAGE) -> style.Figure:
    unit, scale = style.time_unit(points["cost"])
    unit = f"GPU-{unit}" if (points["gpu_hours"] > 0).any() else f"{unit} on a CPU"
    figure, (axis,) = style.panels(1, width=width, height=2.2)
    handles = draw_front(axis, points.assign(x=points["cost"] * scale, y=points["score"]), width, better="left")
    axis.set_xlabel(f"training ({unit})")
    axis.set_ylabel("top-1, mean over datasets (%)")
    style.legend(figure, handles)
    names = points.attrs["evaluate"]
    synthetic = " Built-in domains are synthetic." if set(names) & set(BUILTIN) else ""
    on = "".join(f" On {device}." for device in points["device"].dropna().unique()[:1] if device != "cpu")
    style.note(
        figure,
        style.plain(f"A point is a trial. Mean over {style.names_or_number(names)}.{synthetic}{on} {SELECTED_ON_TEST}"),
    )
    return figure


COST = FigureKind("cost-against-score", _find, _draw, whole_board)
