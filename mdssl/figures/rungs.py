"""Validation scores of the trials of a sweep while they train, and where trials were stopped early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdssl.errors import InputError
from mdssl.figures import style
from mdssl.figures.kind import FigureKind, Storage, Words, file_name, with_trials
from mdssl.figures.one_trial import scored, validation_curves
from mdssl.figures.scores import SettingsGroup
from mdssl.figures.searches import each_sweep
from mdssl.leaderboard.names import plain_name
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import read_table, trial_dir_in
from mdssl.tables.select import best_by_validation
from mdssl.tables.statistics import mean

MOST_TRIALS = 300
"""Trials whose curves are drawn, evenly over those of the sweep."""


class Rungs(NamedTuple):
    """By trial, ``step`` and ``val_linear_top1``; the status of each; the best, if any; and the number of trials."""

    curves: dict[str, pd.DataFrame]
    status: dict[str, str]
    best: str | None
    trials: int

    def counts(self) -> dict[str, int]:
        return Counter(self.status[trial_id] for trial_id in self.curves)


def _find(group: SettingsGroup, storage: Storage) -> Iterator[tuple[Rungs, Words]]:
    files = with_trials(storage, "metrics")
    rows = group.every_row
    rows = rows[rows["iterations"] > 0]
    ranked = best_by_validation(rows)
    status = dict(zip(ranked["trial_id"], ranked["status"], strict=True))
    shown = style.evenly(sorted(status), MOST_TRIALS)
    metrics = in_threads(lambda trial_id: read_table(trial_dir_in(files, trial_id) / "metrics.parquet"), shown)
    reports = {trial_id: scored(own) for trial_id, own in zip(shown, metrics, strict=True) if own is not None}
    reports = {trial_id: own.reset_index(drop=True) for trial_id, own in reports.items() if len(own)}
    curves = {trial_id: own[["step", "val_linear_top1"]] for trial_id, own in reports.items()}
    if len(curves) < 2:
        raise InputError(
            "validation scores over steps need two trials of a sweep with scores during training: run a sweep with "
            "--scheduler asha, or --score-every N."
        )
    # The last score is that of the trial's rows, on the datasets of the others.
    for trial_id, own in rows[(rows["status"] == "finished") & rows["trial_id"].isin(curves)].groupby("trial_id"):
        scores = own.groupby(own["eval_dataset"].map(plain_name))["val_linear_top1"].first()
        last = mean(scores.reindex(list(validation_curves(reports[trial_id])) or scores.index).astype(float))
        if not np.isnan(last) and own["step"].max() > curves[trial_id]["step"].max():
            end = pd.DataFrame({"step": [float(own["step"].max())], "val_linear_top1": [last]})
            curves[trial_id] = pd.concat([curves[trial_id], end], ignore_index=True)
    best = ranked["trial_id"][0] if ranked["val"].notna().any() and ranked["trial_id"][0] in curves else None
    rungs = Rungs(curves, status, best, len(status))
    lasts = pd.Series({trial_id: curve["val_linear_top1"].iloc[-1] for trial_id, curve in curves.items()}, dtype=float)
    listed = [
        f"{len(own)} {name}, last scores from {own.min():.1f} to {own.max():.1f} %"
        for name, own in lasts.groupby(status)
    ]
    words = Words(
        title=f"Validation scores while training, sweep {group.name}",
        caption=_note(rungs),
        alt=f"A line per trial over training steps: {'; '.join(listed)}.",
        name=file_name(group.name),
    )
    yield rungs, words


def _note(rungs: Rungs) -> str:
    some = f" {len(rungs.curves)} of {rungs.trials} trials." if len(rungs.curves) < rungs.trials else ""
    best = f" The best by validation top-1 is {rungs.best}." if rungs.best else ""
    return f"Linear score of held-out training images, mean over datasets. A line is a trial.{some}{best}"


@style.styled()
def _draw(rungs: Rungs, width: float = style.PAGE) -> style.Figure:
    figure, (axis,) = style.panels(1, width=width, height=2.2)
    looks: dict[str, dict[str, Any]] = {
        "stopped": dict(color=style.FAINT, linewidth=0.6, zorder=2.5),
        "failed": dict(color=style.COLORS[3], linewidth=0.6, linestyle=style.DOTTED, zorder=1),
        "finished": dict(color=style.COLORS[0], linewidth=0.9, zorder=2),
    }
    counts = rungs.counts()
    handles: dict[str, Any] = {}
    for name, look in looks.items():
        for trial_id in (one for one in rungs.curves if rungs.status[one] == name and one != rungs.best):
            curve = rungs.curves[trial_id]
            # A line through a single score would be invisible.
            marks: dict[str, Any] = dict(marker="." if len(curve) == 1 else "", markersize=3)
            (line,) = axis.plot(curve["step"], curve["val_linear_top1"], **look, **marks)
            if name != "finished":
                axis.plot(*curve.iloc[-1], marker="x", markersize=3, color=style.INK, zorder=4)
            word = {"stopped": "stopped early"}.get(name, name)
            handles.setdefault(f"{word} ({counts[name]})", line)
    if rungs.best:
        curve = rungs.curves[rungs.best]
        look = dict(color=style.COLORS[1], linewidth=1.8, marker="o", markersize=3, zorder=3)
        (handles["best by validation"],) = axis.plot(curve["step"], curve["val_linear_top1"], **look)
    # Where most scores were made: the rungs.
    steps = np.unique(np.concatenate([curve["step"] for curve in rungs.curves.values()]))
    if len(steps) <= 8:
        axis.set_xticks(steps, [f"{step:,.0f}" for step in steps])
    axis.set_xlabel("training step")
    axis.set_ylabel("validation top-1 (%)")
    style.no_negative(axis)
    style.legend(figure, handles)
    style.note(figure, style.plain(_note(rungs)))
    return figure


RUNGS = FigureKind("rungs", _find, _draw, each_sweep)
