"""The table of a sweep: a row per trial with its scores and its difference to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd
from rich.console import Console

from mdssl.config.methods import METHODS
from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.sources.catalog import seen_in
from mdssl.errors import some_of
from mdssl.leaderboard.board import with_settings
from mdssl.leaderboard.columns import SETTING_COLUMNS
from mdssl.leaderboard.names import plain_name
from mdssl.leaderboard.notes import NOTE_COLUMNS
from mdssl.storage.filesystems import file_name
from mdssl.tables.baseline import find_baselines, incomplete_baselines
from mdssl.tables.compare import counted_scores, latest_images, paired, settings_to_show, usual_order
from mdssl.tables.render import HEADERS, Measure, Table, print_table
from mdssl.tables.select import best_by_validation
from mdssl.tables.select import shown as value_text
from mdssl.tables.statistics import row_means
from mdssl.terminal import Terminal

_SETTINGS = {column.name for column in SETTING_COLUMNS} | {field.name for field in fields(TrialConfig)}
_SETTINGS |= {"recipe_version", "recipe_version_clustering"}
_SCORE = ["trial_id", "eval_dataset", "features", "probe", "eval_fingerprint", "top1", "val_top1", "finished_at"]
_USED = {*_SETTINGS, *_SCORE, *NOTE_COLUMNS, "status", "error", "step", "val_linear_top1", "unstable", "config_json"}
PRETRAINED = next(name for name, method in METHODS.items() if method.loads_weights)
_UNSTABLE_NAMED = _STOPPED_NAMED = 3
"""Unstable scores, and trials that were stopped early, that notes name."""


def sweep_table(
    rows: pd.DataFrame,
    *,
    mixtures: Sequence[str],
    datasets: Sequence[str],
    baseline_method: str = "simclr",
    features: str = "encoder",
    probe: str = ProbeConfig.probe,
) -> pd.DataFrame:
    """Compare the trials of one training mixture, or of several, and the encoders that were not trained at all.

    Args:
        rows: of the leaderboard, as `mdssl.leaderboard.board.read` gives them, or with all their settings
            (`with_settings`) instead of ``config_json``; those of other mixtures are left out.
        mixtures: as the leaderboard writes them.
        datasets: evaluation datasets, in the order of the columns.
        baseline_method: the method that the others are compared with.
        features, probe: which of a trial's scores are shown, by the leaderboard's columns of these names.

    Returns:
        A row per trial, indexed by ``trial_id``: untrained encoders, then by mixture in the order given, the baseline,
        then by lambda1 from high to low and lambda2 from low to high. Columns: ``method``, ``train_mixture`` where
        there are several, ``lambda1``, ``lambda2``, every other setting in which trials differ (such as
        ``temperature``, ``seed`` or ``weight_decay``), top-1 in percent by dataset (where a dataset was prepared again
        between two scores, only those on its latest images), and

        - ``seen``, ``unseen``: means over the datasets that the trial's mixture holds, and over the others, as far as
          the trials of the mixture have them in common (see `mdssl.tables.compare.counted_scores`); null where the
          trial itself lacks one. With one mixture an untrained encoder's are over the same datasets;
        - ``vs simclr``: the mean over both kinds of datasets of the difference to the trial's baseline
          (`mdssl.tables.baseline.find_baselines`), in points;
        - ``vs pretrained``, where trials start from weights that are scored as well: the same difference to these;
        - ``val``: the validation score, by which the best trial of a mixture is selected
          (`mdssl.tables.select.best_by_validation`), in percent;
        - ``tags`` and ``note``, if ``rows`` have them (`mdssl.leaderboard.notes.with_notes`);
        - ``status``, and ``error``: the first line of what a failed trial, or a score of it, failed with.

        ``attrs["notes"]`` says which datasets the means leave out, which trials have no mean, which trial of a mixture
        is the best by its validation score, which were stopped early, and which scores rounding has decided.
    """
    rows = rows[[name for name in rows if name in _USED]][rows["train_mixture"].isin([*mixtures, ""])]
    rows = with_settings(rows)
    scored = rows[(rows["features"] == features) & (rows["probe"] == probe)]
    shown = latest_images(scored)
    trials = rows.drop_duplicates("trial_id").set_index("trial_id")

    def by_dataset(values: pd.Series) -> pd.DataFrame:
        wide = shown.assign(_value=values).pivot(index="trial_id", columns="eval_dataset", values="_value")
        return wide.reindex(index=trials.index, columns=list(datasets)).astype(float)

    scores = by_dataset(shown["top1"])
    baseline_of = find_baselines(shown, shown, (baseline_method,), strict=False)
    differences = by_dataset(paired(shown, shown, baseline_of)["top1"])
    started = shown[shown["init"].notna() & (shown["init"] != "random")] if "init" in shown else shown[:0]
    starts = find_baselines(started, shown, (PRETRAINED,), strict=False) if len(started) else {}

    differing = settings_to_show(rows[[name for name in rows if name in _SETTINGS or name == "trial_id"]])
    for name in ("weights", "init"):
        if name in trials:
            trials[name] = trials[name].map(file_name, na_action="ignore")
    if "weights" in trials and trials["weights"].notna().any():
        # Only the name of the file distinguishes pretrained encoders.
        differing = [*(name for name in differing if name != "weights"), "weights"]
    mixture = ["train_mixture"] if len(mixtures) > 1 else []
    table = pd.concat([trials[["method", *mixture, "lambda1", "lambda2", *differing]], scores], axis=1)
    trained_on = list(trials["train_mixture"]) if mixture else [mixtures[0] if mixtures else ""] * len(trials)
    seen_by = {mixture: seen_in(plain_name(mixture).split("+")) for mixture in set(trained_on)}
    seen = pd.DataFrame({name: [plain_name(name) in seen_by[mixture] for mixture in trained_on] for name in datasets})
    seen.index = trials.index
    is_baseline = trials.index.isin(incomplete_baselines(baseline_of, scores))
    counted, notes = counted_scores(scores, trials["train_mixture"], is_baseline)
    table["seen"] = row_means(scores, seen & counted)
    table["unseen"] = row_means(scores, ~seen & counted)
    table[f"vs {baseline_method}"] = row_means(differences, counted)
    if starts:
        gains = by_dataset(paired(shown, shown, starts)["top1"])
        table[f"vs {PRETRAINED}"] = row_means(gains, gains.notna())
    table["val"], best = _validated(shown)
    table = table.join(trials[[name for name in NOTE_COLUMNS if name in trials]])
    failures = rows[rows["status"] == "failed"].drop_duplicates("trial_id").set_index("trial_id")["error"]
    table["status"] = trials["status"].mask(trials.index.isin(failures.index), "failed")
    table["error"] = failures.map(lambda error: error.strip().partition("\n")[0]).reindex(trials.index)
    table = table.loc[usual_order(trials, differing, mixtures)]
    table.attrs["notes"] = notes + best + _stopped(rows) + _unstable(scored)
    return table


def print_sweep_table(df: pd.DataFrame, console: Console | None = None) -> None:
    """Print a `sweep_table`, with its notes and failures below.

    Columns of averages, tags and notes that hold nothing, and the status where all trials finished, are not shown.
    """
    settings = [name for name in df.columns if name in _SETTINGS]
    scores = [name for name in df.columns if name not in (*settings, *NOTE_COLUMNS, "status", "error")]
    averages = scores[scores.index("seen") :]
    measures = [
        Measure(name, "val_top1" if name == "val" else "top1", (name,), score=True, difference=name.startswith("vs "))
        for name in scores
        if name not in averages or df[name].notna().any()
    ]
    # The first digits distinguish fingerprints.
    short = {name: df[name].str[:8] for name in settings if name.endswith("_fingerprint")}
    frame = df.assign(**short).rename_axis("trial_id").reset_index()
    notes = [f"note: {note}" for note in df.attrs.get("notes", ())]
    for row in frame[frame["error"].notna()].to_dict("records"):
        asked = [f"{HEADERS.get(name, name)}={value_text(row[name])}" for name in settings[1:] if pd.notna(row[name])]
        notes.append(f"failed: {' '.join([row['trial_id'], row['method'], *asked])}: {row['error']}")
    noted = [name for name in NOTE_COLUMNS if name in df and df[name].notna().any()]
    remarks = (*(() if (df["status"] == "finished").all() else ("status",)), *noted)
    print_table(Table(frame, ("trial_id", *settings), tuple(measures), tuple(notes), remarks), console or Terminal())


def _validated(rows: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Return the validation score of each trial; and a note on the best of each mixture that has them."""
    trained_on = rows["train_mixture"]
    mixtures = [name for name in trained_on.unique() if name]
    # Each mixture separately. An untrained encoder is compared with the trials of all.
    ranked = {name: best_by_validation(rows[trained_on == name]) for name in mixtures}
    untrained = best_by_validation(rows)[lambda found: found["trial_id"].isin(rows.loc[trained_on == "", "trial_id"])]
    random = untrained[untrained["trial_id"].isin(rows.loc[rows["method"] != PRETRAINED, "trial_id"])]
    notes = []
    for name, trials in ranked.items():
        if len(trials) > 1 and trials["val"].notna().any():
            of = f" of {name}" if len(mixtures) > 1 else ""
            best = trials["val"][0]
            first, method = trials["trial_id"][0], rows.loc[rows["trial_id"] == trials["trial_id"][0], "method"].iloc[0]
            notes.append(f"best trial{of} by validation score: {first}, {method}, val {best:.1f}")
            floor, scored = random["val"].mean(), trials["val"].dropna()
            if 2 * (behind := int((scored <= floor).sum())) >= len(scored):
                notes.append(
                    f"an untrained encoder has val {floor:.1f}, which {behind} of {len(scored)} trained trials do not "
                    "exceed: train longer to compare settings"
                )
    scores = pd.concat([untrained, *ranked.values()]).set_index("trial_id")["val"]
    return scores.astype(float), notes


def _stopped(rows: pd.DataFrame) -> list[str]:
    """Return a note on each trial that was stopped early, or, of many, one on all."""
    stopped = rows[rows["status"] == "stopped"]
    trials = stopped.drop_duplicates("trial_id")
    if len(trials) > _STOPPED_NAMED:
        return [f"{len(trials)} trials were stopped early, at steps {trials['step'].min()} to {trials['step'].max()}"]
    notes = []
    for trial_id, own in stopped.groupby("trial_id", sort=False):
        scored = own[own["val_linear_top1"].notna()]
        scores = ", ".join(f"{row.eval_dataset} {row.val_linear_top1:.1f}" for row in scored.itertuples())
        first = own.iloc[0]
        where = f"{trial_id} was stopped early at step {first['step']} of {first['iterations']}"
        notes.append(f"{where}; linear score of held-out training images: {scores}" if scores else where)
    return notes


def _unstable(rows: pd.DataFrame) -> list[str]:
    """Return a note on scores that another order of summation changes: see `mdssl.evaluate.sgd.raw_sgd_probes`."""
    rows = rows[rows["unstable"]] if "unstable" in rows else rows[:0]
    if rows.empty:
        return []
    where = some_of((f"{row.trial_id} on {row.eval_dataset}" for row in rows.itertuples()), _UNSTABLE_NAMED)
    return [f"unstable: rounding changes scores of {rows['probe'].iloc[0]} for {where}; --probe sgd is stable"]
