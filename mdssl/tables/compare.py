"""Comparison of trials: which rows are alike, which datasets they have in common, and differences to a baseline.

Tables, figures, the report and the comparison with the paper take their differences from here, and their means from
`mdssl.tables.statistics`, so that the same trials have the same numbers everywhere:

- Only seeds are averaged. Rows that differ in any other setting are not (`settings_apart`, `pivot`).
- Where a dataset was prepared again between scores, only those on its latest images count (`latest_images`).
- A difference to the baseline of the same settings (`mdssl.tables.baseline.find_baselines`) is taken for each dataset
  and seed first (`paired`). Then differences are averaged. Numbers are rounded once, where they are printed. A
  baseline has no difference to itself.
- Means over datasets are over those that the trials of one mixture have in common (`counted_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.errors import InputError, check_name, some_of
from mdssl.leaderboard.board import with_settings
from mdssl.leaderboard.columns import MEASURE_NAMES, SCHEMA, SETTING_COLUMNS
from mdssl.leaderboard.notes import NOTE_COLUMNS

SCORE = ("eval_dataset", "features", "probe")
"""Columns that identify a score of a trial."""

_NAMES_ONLY = ("num_domains", "preset")
"""Settings that repeat others: the mixture, and the preset."""
_FINGERPRINTS = ("eval_fingerprint", "weights_fingerprint", "init_fingerprint")
_ALSO_APART = ("features", "probe", *_FINGERPRINTS)
"""The layer, probe and images of a score, and the files of pretrained weights and of the first weights."""
_IDS_LISTED = 3


def settings_of(rows: pd.DataFrame) -> list[str]:
    """Return the columns of ``rows`` that are settings of a trial, its training images among them.

    Those that `with_settings` adds are included. Pretrained weights are told apart by their file, not by its
    fingerprint.
    """
    known = [column.name for column in SETTING_COLUMNS if column.name not in _NAMES_ONLY] + ["data_fingerprint"]
    # The normalization follows from the arch, and an unstable score is a result.
    no_settings = {*SCHEMA.names, *MEASURE_NAMES, *NOTE_COLUMNS, *_FINGERPRINTS, "normalization", "unstable"}
    hidden = [name for name in rows.columns if name not in no_settings]
    return [name for name in known if name in rows] + hidden


def settings_apart(
    rows: pd.DataFrame,
    by: Sequence[str] = (),
    *,
    also: Sequence[str] = (),
    but: Sequence[str] = ("seed",),
    missing_differs: bool = True,
) -> dict[str, str]:
    """Return the settings in which ``rows``, or rows of the same ``by``, differ, so that a mean would mix them.

    Args:
        rows: best with all their settings (`mdssl.leaderboard.board.with_settings`).
        by: columns that the rows of one group have in common; none: all rows are one group.
        also: further columns in which rows of a group must not differ.
        but: settings in which they may.
        missing_differs: whether a missing value differs from others. A method without a setting has none.

    Returns:
        By name, in alphabetical order, the values in ``rows``, as text for a message.
    """
    if len(rows) < 2:
        return {}
    names = sorted({*settings_of(rows), *_ALSO_APART, *also} & set(rows) - {*but, *by})
    if by:
        groups = rows.groupby(list(by), dropna=False)
        varied = [name for name in names if (groups[name].nunique(dropna=not missing_differs) > 1).any()]
    else:
        varied = [name for name in names if rows[name].nunique(dropna=not missing_differs) > 1]
    return {
        name: some_of(("null" if pd.isna(value) else str(value) or "(none)" for value in rows[name].unique()), 8)
        for name in varied
    }


def settings_to_show(rows: pd.DataFrame) -> list[str]:
    """Return the settings besides method, mixture and λ in which trials differ, in the order of the columns.

    Settings that untrained encoders lack, and images of different domains, do not count as differences.
    """
    trials = rows.drop_duplicates("trial_id")
    if "precision" in trials:
        # Of a trial that failed before it was decided.
        trials = trials.assign(precision=trials["precision"].mask(trials["precision"] == "auto"))
    untrained = trials["train_mixture"] == ""
    names = [name for name in settings_of(rows) if name not in ("method", "train_mixture", "lambda1", "lambda2")]
    varied = trials.groupby(untrained)[names].nunique().max() > 1
    found = [name for name in names if varied[name]]
    if "data_fingerprint" in found and trials.groupby("train_mixture")["data_fingerprint"].nunique().max() == 1:
        found.remove("data_fingerprint")
    return found


def usual_order(rows: pd.DataFrame, others: Sequence[str], mixtures: Sequence[str] = ()) -> pd.Index:
    """Sort the index of ``rows`` by mixture, as in ``mixtures`` or by name, by method with the untrained encoder first,
    by λ1 from high to low, by λ2, and by ``others``."""
    methods = {method: place for place, method in enumerate(METHODS)}
    places = {mixture: place for place, mixture in enumerate(["", *(mixtures or sorted(set(rows["train_mixture"])))])}
    first = {
        "train_mixture": rows["train_mixture"].map(places),
        "method": rows["method"].map(lambda method: methods.get(method, len(methods))),
        "lambda1": -rows["lambda1"],
        "lambda2": rows["lambda2"],
    }
    keys = rows[[name for name in others if name not in first]].assign(**first)
    return keys.sort_values([*first, *(name for name in keys.columns if name not in first)], kind="stable").index


def latest_images(rows: pd.DataFrame, fingerprint: str = "eval_fingerprint", of: str = "eval_dataset") -> pd.DataFrame:
    """Drop the rows on earlier images of a dataset that was prepared again, which is then another dataset.

    Args:
        rows: with ``finished_at``. Those without ``of`` or without a fingerprint stay.
        fingerprint: the column that identifies the images.
        of: the column with the name of the dataset or mixture.
    """
    images = rows[fingerprint].mask(rows[fingerprint] == "")
    by_time = rows[[of, "finished_at"]].assign(images=images).sort_values("finished_at", kind="stable")
    latest = by_time.groupby(of)["images"].last()
    outdated = rows[of].notna() & images.notna() & (images != rows[of].map(latest))
    return rows[~outdated]


def pivot(
    df: pd.DataFrame,
    *,
    index: Sequence[str] = ("method", "lambda1", "lambda2"),
    columns: str = "eval_dataset",
    values: str = "top1",
) -> pd.DataFrame:
    """Average ``values`` over seeds only: a row per ``index``, a column per value of ``columns``.

    Unlike pandas' ``pivot_table`` it keeps rows whose index has a null (a random encoder has no lambda), and refuses to
    average rows that differ in another setting, including settings that only ``config_json`` has.
    Rows without a value in ``columns``, such as those of failed trials, and rows of trials that were stopped early are
    left out.

    Raises:
        ValueError: a name that is not a column, or rows that differ in a setting that ``index`` does not name.
    """
    index = list(index)
    given = df.columns
    df = with_settings(df)
    for name in (*index, columns, values):
        check_name("leaderboard column", name, df.columns)
    df = (df[df["status"] != "stopped"] if "status" in df else df).dropna(subset=[columns])
    for name, found in settings_apart(df, [*index, columns]).items():
        hint = f"df[df.{name} == …]" if name in given else f"df = with_settings(df); df[df.{name} == …]"
        raise InputError(
            f"the mean of {values} would mix rows that differ in {name}: {found}. Keep one of them, {hint}, or add "
            f"{name!r} to index."
        )
    groups = df.groupby([*index, columns], dropna=False)
    return groups[values].mean().unstack(columns)


def common_datasets(
    scores: pd.DataFrame, *, untrained: np.ndarray | None = None, baseline: np.ndarray | None = None
) -> list[str]:
    """Return the datasets that means are over: those on which most trained trials, and all baselines, have a score.

    A score that few trials have therefore does not affect the others. A trial that lacks one of these scores has no
    mean and is not ranked. An encoder without any score is ignored; untrained ones count only if there are no others.

    Args:
        scores: a row per trial and a column per dataset; NaN where there is no score.
        untrained, baseline: booleans by row: untrained encoders, and trials that others are compared with.
    """
    nobody = np.zeros(len(scores), dtype=bool)
    untrained, baseline = (nobody if chosen is None else chosen for chosen in (untrained, baseline))
    has = scores.notna().to_numpy()
    has_some = has.any(axis=1)
    compared = has_some & ~untrained if (has_some & ~untrained).any() else has_some
    if not compared.any():
        return []
    chosen = (2 * has[compared].sum(axis=0) > compared.sum()) & has[has_some & baseline].all(axis=0)
    return list(scores.columns[chosen])


def counted_scores(
    scores: pd.DataFrame, mixtures: pd.Series, baseline: np.ndarray, of: str = ""
) -> tuple[pd.DataFrame, list[str]]:
    """Mark the scores that means are over: those that the trials of one mixture have in common.

    Those of an untrained encoder are what the trials of all mixtures have in common.

    Args:
        scores, baseline: as for `common_datasets`, with trial ids as index.
        mixtures: by trial id; empty for untrained encoders.
        of: which means, for the notes.

    Returns:
        Booleans in the shape of ``scores``, and `notes_on_means`.
    """
    untrained = (mixtures == "").to_numpy(dtype=bool)
    counted, notes = pd.DataFrame(False, index=scores.index, columns=scores.columns), []
    trained_on = list(mixtures[~untrained].unique())
    for mixture in trained_on:
        own = (mixtures == mixture).to_numpy(dtype=bool)
        common = common_datasets(scores[own], untrained=untrained[own], baseline=baseline[own])
        counted.loc[own, common] = True
        if scores[own].notna().any(axis=None):
            notes += notes_on_means(scores[own], common, (f" of {mixture}" if len(trained_on) > 1 else "") + of)
    counted.loc[untrained, common_datasets(scores, untrained=untrained, baseline=baseline)] = True
    return counted, notes


def notes_on_means(scores: pd.DataFrame, common: list[str], of: str = "") -> list[str]:
    """Return notes on the datasets that means leave out, and on the trials that have no mean.

    Args:
        scores: as for `common_datasets`, with trial ids as index.
        common: the datasets that the means are over.
        of: which means, such as `` of cifar10+svhn``; empty for all.
    """
    notes = []
    if others := [name for name in scores.columns if name not in common]:
        are = f"are over {', '.join(common)}" if common else "do not exist"
        notes.append(
            f"averages{of} {are}; left out, because a baseline or most trials lack a score: {', '.join(others)}"
        )
    scored = scores[scores.notna().any(axis=1)]
    lacking = scored.index[scored[common].isna().any(axis=1)]
    if len(lacking):
        missing = [name for name in common if scored.loc[lacking, name].isna().any()]
        notes.append(
            f"no average{of}, because of a missing score on {' or '.join(missing)}: "
            # Sorted, so that the note on the same trials is the same text and is printed once.
            f"{some_of(sorted(lacking), _IDS_LISTED)}"
        )
    return notes


def paired(
    rows: pd.DataFrame, board: pd.DataFrame, baseline_of: Mapping[str, str], values: Sequence[str] = ("top1",)
) -> pd.DataFrame:
    """Subtract the baseline's ``values`` from those of each row, on the same images, layer and probe.

    Rows without a fingerprint of their images, as of earlier versions, are compared by the name of the dataset.

    Args:
        rows, board: as for `mdssl.tables.baseline.find_baselines`, which gives ``baseline_of``.
        values: columns with numbers.

    Returns:
        (len(rows), len(values)) DataFrame with the index of ``rows``. Null where there is no baseline, the trial is its
        own baseline, or there is no such score of one of the two.
    """
    values, score = list(values), list(SCORE)
    scored = board[board["eval_dataset"].notna()]
    # The type is set, because it would differ if no row had a baseline.
    partner = rows["trial_id"].map(dict(baseline_of)).astype(rows["trial_id"].dtype)
    keys = rows[score].assign(trial_id=partner.mask(partner == rows["trial_id"]))
    images = ["eval_fingerprint"] if "eval_fingerprint" in rows and "eval_fingerprint" in scored else []
    found = keys.merge(scored[["trial_id", *score, *values, *images]], how="left", on=["trial_id", *score])
    found = found.set_axis(rows.index)
    differences = rows[values].astype(float) - found[values].astype(float)
    if images:
        own, theirs = rows["eval_fingerprint"], found["eval_fingerprint"]
        known = own.notna() & (own != "") & theirs.notna() & (theirs != "")
        differences = differences.mask(known & (own != theirs))
    return differences
