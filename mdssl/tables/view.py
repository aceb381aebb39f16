"""Views of the leaderboard: rows chosen, averaged over seeds, compared with a baseline, and spread over columns.

``mdssl leaderboard`` prints them. Means over anything but the seed are refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from mdssl.errors import InputError, check_name, some_of
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.leaderboard.notes import NOTE_COLUMNS
from mdssl.tables.baseline import incomplete_baselines, only_baselines, possible_baselines
from mdssl.tables.compare import counted_scores, latest_images, paired, settings_to_show, usual_order
from mdssl.tables.pareto import on_front
from mdssl.tables.render import SIGNIFICANT, Measure, Table
from mdssl.tables.seeds import MEAN, MEASURED, OF_TEST, SCORES, grouped, single
from mdssl.tables.select import SELECTED_ON_TEST, Condition, matching
from mdssl.tables.statistics import mean

_OF_SCORES = ("eval_dataset", "features", "probe", "eval_fingerprint")
"""Columns that identify a score. Conditions on these also hold for the baseline."""
_OF_DATASETS = ("seen", "num_classes", "num_train", "num_test", "eval_fingerprint")
"""Columns that a mean over datasets has only if all datasets have the same value."""
_WAY = ("features", "probe")
"""The layer and probe of a score: means are over scores of the same."""
_BY_DATASET = {*SCORES, *MEASURE_NAMES}
"""Measured numbers that a trial has for each dataset."""
_TRIALS_NAMED = 3
"""Trials left out of the pairs that a note names."""


def view(
    rows: pd.DataFrame,
    *,
    where: Sequence[Condition] = (),
    columns: Sequence[str] = (),
    pivot: str | None = None,
    over_seeds: bool = False,
    baseline: Sequence[str] = (),
    sort: Sequence[str] = (),
    pareto: Sequence[str] = (),
) -> Table:
    """Make a view of ``rows``.

    Args:
        rows: of the leaderboard with all their settings (`mdssl.leaderboard.board.with_settings`).
        where: only rows that meet these; means over datasets are of the rows that do. The baseline is looked for among
            all that meet those on ``eval_dataset``, ``features``, ``probe`` and ``eval_fingerprint``.
        columns: of the table; ``all`` is every column but ``config_json``, which repeats the others. Default: the
            trial, the settings in which trials differ, and top1, spread over the evaluation datasets.
        pivot: a column whose values become columns each.
        over_seeds: mean, standard deviation, 95 % interval and number of seeds, of rows that differ in nothing else.
        baseline: also the difference to it, see `mdssl.tables.baseline.find_baselines`.
        sort: columns to sort by, each with ``:desc`` for the largest first. Missing values are last.
        pareto: two objectives: only the trials on their front (`mdssl.tables.pareto.on_front`).

    Raises:
        ValueError: an unknown name, a mean over rows that differ in more than the seed, or arguments that cannot be
            combined.
    """
    notes: list[str] = []
    pivot = "eval_dataset" if not columns and not pivot else pivot
    if "all" in columns and len(set(columns)) > 1:
        raise InputError(f"columns are {' '.join(columns)}; 'all' cannot be combined with other columns.")
    if "all" in columns and (over_seeds or pivot):
        flag = "--over-seeds" if over_seeds else "--pivot"
        raise InputError(
            f"columns are 'all', which cannot be combined with {flag}. Name the columns, such as method top1, "
            f"or leave out {flag}."
        )
    if "all" in columns:
        columns = list(rows.columns.drop("config_json"))
    columns = tuple(dict.fromkeys(columns))
    values = [name for name in columns if name in MEASURED] if columns else ["top1"]
    _check(rows, columns, values, pivot, over_seeds, baseline)
    if over_seeds and pareto:
        raise InputError(
            "pareto selects single trials, so a mean over seeds would be biased; leave one of the two flags out."
        )

    board = matching(rows, [condition for condition in where if condition.name in _OF_SCORES])
    named = {*columns, *(condition.name for condition in where)}
    every = board
    if (pivot or over_seeds or baseline) and "status" not in named:
        # Trials that were stopped early have no score on a test split, and may have no fingerprint of images.
        board = board[board["status"] != "stopped"]
    left_out = len(board) < len(every)
    if (pivot or over_seeds or baseline) and "eval_fingerprint" not in named:
        latest = latest_images(board)
        if names := sorted(board["eval_dataset"].drop(latest.index).unique()):
            notes.append(
                f"{len(board) - len(latest)} scores on earlier images of {', '.join(names)} are left out; "
                "see eval_fingerprint"
            )
        board = latest
    conditions = [condition for condition in where if condition.name not in _OF_SCORES]
    kept = matching(board, conditions)
    if left_out:
        _note_stopped(matching(every, conditions), notes)
    possible = possible_baselines(kept, board, baseline) if baseline else {}
    baseline_of = only_baselines(possible)
    keys = [name for name in columns if name not in MEASURED] if columns else _telling_apart(kept, pivot, over_seeds)
    averaged = _averaged(kept, board, baseline_of, notes) if pivot == "eval_dataset" else {}
    if pareto:
        kept = on_front(kept, pareto, notes)
    if pivot:
        kept = _with_value(kept, pivot, notes)
    numbers = kept[values].astype(float) if baseline or over_seeds or pivot else kept[values]
    if baseline:
        differences = paired(kept, board, baseline_of, values)
        label = baseline[0] if len(baseline) == 1 and baseline[0].replace("-", "").isalnum() else "baseline"
        numbers = numbers.join(differences.add_suffix(f" vs {label}"))
        if label == "baseline":
            notes.append(f"the baseline is {' '.join(baseline)}")
        if over_seeds:
            notes += _unpaired(kept[kept[values].notna().any(axis=1) & differences.isna().all(axis=1)], possible)
    if averaged:
        kept, numbers = _with_means(kept, numbers, averaged)
    kept = kept.loc[usual_order(kept, [name for name in keys if name != "trial_id"])]
    if pivot or over_seeds:
        frame, measures = grouped(kept, numbers.loc[kept.index], keys, pivot, over_seeds)
    else:
        frame, measures = single(kept, numbers.loc[kept.index], keys)
    if over_seeds:
        # The columns of a mean, in the order that `Measure` says: the fifth has its number of seeds, the sixth p.
        several = any((frame[measure.names[4]] > 1).any() for measure in measures)
        spread = "± is the standard deviation over seeds, and brackets hold the 95 % interval of the mean (Student's t)"
        notes.append((f"{spread}; " if several else "") + "the number in parentheses is the number of seeds")
        if baseline and several:
            notes.append("differences are paired: taken for each seed first, and then averaged")
            if any((frame[measure.names[5]] < SIGNIFICANT).any() for measure in measures if measure.difference):
                corrected = "with Holm's correction for all differences of the column; intervals are not corrected"
                notes.append(f"* is below p = {SIGNIFICANT:g} by the paired t-test {corrected}")
    frame = _sorted(frame, measures, kept if not pivot and not over_seeds else kept[[]], sort)
    sorted_by = {name.partition(":")[0] for name in sort}
    if any({measure.header, measure.of} & sorted_by for measure in measures if measure.of in OF_TEST):
        notes.append(f"sorted by test scores. {SELECTED_ON_TEST}")
    return Table(frame.reset_index(drop=True), tuple(keys), tuple(measures), tuple(notes))


def _note_stopped(rows: pd.DataFrame, notes: list[str]) -> None:
    if count := rows.loc[rows["status"] == "stopped", "trial_id"].nunique():
        how = "--where status=stopped --columns trial_id step iterations val_linear_top1"
        notes.append(f"trials that were stopped early are not shown: {count} ({how})")


def _check(
    rows: pd.DataFrame,
    columns: Sequence[str],
    values: Sequence[str],
    pivot: str | None,
    over_seeds: bool,
    baseline: Sequence[str],
) -> None:
    for name in columns:
        check_name("leaderboard column", name, rows.columns)
    if pivot:
        check_name("leaderboard column", pivot, rows.columns)
    if pivot in MEASURED:
        raise InputError(f"pivot is {pivot!r}, which is a measured number; give a setting, or eval_dataset.")
    if pivot in columns:
        raise InputError(f"{pivot!r} is both a column and the pivot; leave it out of one of them.")
    given = {"pivot": pivot, "over-seeds": over_seeds, "baseline": baseline}
    asked = [name for name, value in given.items() if value]
    if asked and not values:
        raise InputError(
            f"{' and '.join(asked)}: the columns have no measured number; add one of: {', '.join(MEASURED)}."
        )
    if over_seeds and (single_seed := [name for name in ("trial_id", "seed") if name in (*columns, pivot)]):
        raise InputError(f"a mean over seeds has no {single_seed[0]}; leave out {single_seed[0]!r}, or --over-seeds.")


def _averaged(
    rows: pd.DataFrame, board: pd.DataFrame, baseline_of: dict[str, str], notes: list[str]
) -> dict[tuple[Hashable, ...], pd.DataFrame]:
    """By layer and probe, which scores of each trial its means are over (`mdssl.tables.compare.counted_scores`), among
    the trials of ``rows`` and their baselines in ``board``. Nothing where each trial has at most one."""
    scored = rows[rows["eval_dataset"].notna()]
    of_baselines = board[board["trial_id"].isin(set(baseline_of.values()) - set(rows["trial_id"]))]
    probes = scored["probe"].nunique()
    found = {}
    for way, own in scored.groupby(list(_WAY), sort=False):
        theirs = of_baselines[of_baselines["eval_dataset"].isin(own["eval_dataset"])]
        theirs = theirs[(theirs[list(_WAY)] == list(way)).all(axis=1)]
        compared = pd.concat([own, theirs]) if len(theirs) else own
        scores = compared.groupby(["trial_id", "eval_dataset"])["top1"].first().unstack()
        mixtures = compared.groupby("trial_id")["train_mixture"].first()
        is_baseline = scores.index.isin(incomplete_baselines(baseline_of, scores))
        of = f" by the {way[1]} probe" if probes > 1 else ""
        counted, new = counted_scores(scores, mixtures, is_baseline, of)
        if len(scores.columns) > 1:
            notes += new
        if (counted.sum(axis=1) > 1).any():
            found[way] = counted
    return found


def _unpaired(rows: pd.DataFrame, possible: Mapping[str, Sequence[str]]) -> list[str]:
    """Return notes on the trials of ``rows``, which have scores and no difference, that the pairs leave out.

    Args:
        possible: see `mdssl.tables.baseline.possible_baselines`.
    """
    left_out: dict[str, dict[str, str]] = {}
    for row in rows[["trial_id", "method", "seed", "eval_dataset"]].itertuples():
        trial_id = str(row.trial_id)
        found = possible.get(trial_id, ())
        if list(found) == [trial_id]:
            continue
        if len(found) == 1:
            why = f"the baseline has no score on {row.eval_dataset}"
        else:
            why = f"{'several baselines have' if found else 'no baseline has'} the same seed and settings"
        left_out.setdefault(why, {})[trial_id] = f"{row.method} seed {row.seed} ({trial_id})"
    return [
        f"{len(trials)} trial{'s' if len(trials) > 1 else ''} left out of the pairs, because {why}: "
        + some_of(trials.values(), _TRIALS_NAMED)
        for why, trials in left_out.items()
    ]


def _with_means(
    rows: pd.DataFrame, numbers: pd.DataFrame, averaged: dict[tuple[Hashable, ...], pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``rows`` and ``numbers``, and one more row per trial, layer and probe: the means of scores and of differences.

    Null where the trial lacks a score. What it cost to train is the same on all datasets.
    """
    of_score = [name for name in numbers.columns if name.partition(" vs ")[0] in _BY_DATASET]
    by = ["trial_id", *_WAY]
    cells = {
        (trial_id, *way, name)
        for way, counted in averaged.items()
        for trial_id, names in zip(counted.index, counted.to_numpy(), strict=True)
        for name in counted.columns[names]
    }
    scored = rows[[cell in cells for cell in rows[[*by, "eval_dataset"]].itertuples(index=False)]]
    if scored.empty or not of_score:
        return rows, numbers
    firsts = scored.drop_duplicates(by)
    index = pd.MultiIndex.from_frame(firsts[by])
    groups = scored.groupby(by)
    counts = groups["eval_dataset"].nunique().reindex(index)
    wanted = [averaged[features, probe].loc[trial_id].sum() for trial_id, features, probe in index]
    means = scored[by].join(numbers[of_score]).groupby(by).agg(mean).reindex(index).set_axis(firsts.index)
    means.loc[(counts < wanted).to_numpy()] = np.nan
    of_means = numbers.loc[firsts.index].assign(**means, **dict.fromkeys({"eval_seconds"} & set(numbers), np.nan))
    agree = groups[list(_OF_DATASETS)].nunique(dropna=False).eq(1).reindex(index).set_axis(firsts.index)
    firsts = firsts.assign(**firsts[list(_OF_DATASETS)].where(agree), eval_dataset=MEAN)
    return pd.concat([rows, firsts], ignore_index=True), pd.concat([numbers, of_means], ignore_index=True)


def _telling_apart(rows: pd.DataFrame, pivot: str | None, over_seeds: bool) -> list[str]:
    """Return the columns that identify a row, where none are named."""
    trials = rows.drop_duplicates("trial_id")
    names = [] if over_seeds else ["trial_id"]
    mixtures = trials["train_mixture"][trials["train_mixture"] != ""]
    names += (
        ["method", "train_mixture", "lambda1", "lambda2"]
        if mixtures.nunique() > 1
        else ["method", "lambda1", "lambda2"]
    )
    names += [name for name in settings_to_show(rows) if not (over_seeds and name == "seed")]
    names += [name for name in ("eval_dataset", "features", "probe") if rows[name].nunique() > 1]
    names += [name for name in NOTE_COLUMNS if name in rows and rows[name].notna().any() and not over_seeds]
    return [name for name in dict.fromkeys(names) if name != pivot]


def _with_value(rows: pd.DataFrame, pivot: str, notes: list[str]) -> pd.DataFrame:
    without = rows[pivot].isna()
    if without.any():
        trials = rows[without].drop_duplicates("trial_id")
        failed = (trials["status"] == "failed").sum()
        which = f", {failed} of which failed (--where status=failed --columns trial_id error)" if failed else ""
        notes.append(f"trials whose rows have no {pivot} are not shown: {len(trials)}{which}")
    return rows[~without]


def _sorted(frame: pd.DataFrame, measures: Sequence[Measure], rows: pd.DataFrame, sort: Sequence[str]) -> pd.DataFrame:
    """``frame`` sorted by its columns, or by those of ``rows``, which has its index."""
    shown = {measure.header: measure.names[0] for measure in measures}
    for wanted in reversed(sort):
        name, _, direction = wanted.partition(":")
        hint = f"{name} is the pivoted number, or not among --columns." if name in MEASURED else ""
        check_name("column to sort by", name, [*dict.fromkeys([*shown, *frame.columns, *rows.columns])], hint)
        if direction:
            check_name("direction to sort in", direction, ["desc"], "Without it, the smallest is first.")
        column = frame[shown.get(name, name)] if shown.get(name, name) in frame else rows.loc[frame.index, name]
        frame = frame.loc[column.sort_values(kind="stable", ascending=not direction).index]
    return frame
