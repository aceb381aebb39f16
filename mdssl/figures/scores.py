"""Select the rows of a leaderboard for a figure: groups of trials with the same settings, and means over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from mdssl.config.methods import CLUSTER_SETTINGS, METHODS, OWN_SETTINGS, UNTRAINED
from mdssl.errors import InputError, check_name
from mdssl.figures import style
from mdssl.leaderboard import board as leaderboard
from mdssl.tables.compare import latest_images, settings_apart, settings_of

MOST_MIXTURES = 4
"""Number of training mixtures of a group of settings that are drawn."""
NO_SCORES = "the leaderboard has no scores yet: run a sweep, or give another --storage."
NO_MIXTURE = "the leaderboard has no trial on a mixture of domains."

CLUSTERING = ("recipe_version_clustering", *CLUSTER_SETTINGS)
_SHOWN = ("method", "train_mixture", "lambda1", "lambda2", "seed", "data_fingerprint", *CLUSTERING)
"""Settings that figures show. Rows that differ in others are never averaged."""
T = TypeVar("T")


def select(board: pd.DataFrame, features: str = "encoder") -> pd.DataFrame:
    """Return the rows of ``board`` with a score of ``features``, with all their settings as columns.

    Raises:
        ValueError: there is no such row, or the scores are of several probes.
    """
    rows = board[(board["status"] == "finished") & board["top1"].notna()]
    if rows.empty:
        raise InputError(NO_SCORES)
    check_name("feature layer", features, sorted(rows["features"].dropna().unique()))
    rows = rows[rows["features"] == features]
    probes = sorted(rows["probe"].dropna().unique())
    if len(probes) > 1:
        raise InputError(
            f"the scores are of several probes: {', '.join(probes)}. Keep one, board[board.probe == {probes[0]!r}]."
        )
    return leaderboard.with_settings(rows)


def is_single(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of trials with one training domain, or none."""
    return ~rows["train_mixture"].str.contains("+", regex=False)


def mixtures(rows: pd.DataFrame) -> list[str]:
    """Training mixtures of several domains, the one with most trials first."""
    counts = rows[~is_single(rows)].groupby("train_mixture")["trial_id"].nunique()
    return list(counts.sort_values(ascending=False, kind="stable").index)


def one_mixture(rows: pd.DataFrame, mixture: str | None) -> str:
    """``mixture``, or the only mixture of several domains in ``rows``.

    Raises:
        ValueError: ``rows`` do not have it, or it is None and they have several.
    """
    found = sorted(mixtures(rows))
    if mixture is None and len(found) == 1:
        return found[0]
    if mixture is None:
        if not found:
            raise InputError(NO_MIXTURE)
        raise InputError(
            f"the leaderboard has several training mixtures: {', '.join(found)}. Choose one with mixture=…."
        )
    check_name("training mixture", mixture, found)
    return mixture


def each_mixture(rows: pd.DataFrame, read: Callable[[pd.DataFrame, str], T]) -> Iterator[tuple[str, T]]:
    """Yield the largest mixtures with a figure, and ``read(rows, mixture)`` of their rows and those of single domains.

    Raises:
        ValueError: no mixture has a figure; the reason of the largest one.
    """
    reasons, found = [], 0
    for mixture in mixtures(rows):
        try:
            shown = read(rows[is_single(rows) | (rows["train_mixture"] == mixture)], mixture)
        except InputError as error:
            reasons.append(error)
            continue
        yield mixture, shown
        found += 1
        if found == MOST_MIXTURES:
            return
    if not found:
        raise reasons[0] if reasons else InputError(NO_MIXTURE)


def refuse_mixed(
    rows: pd.DataFrame, what: str, *, varies: Iterable[str] = (), by: Sequence[str] = (), also: Sequence[str] = ()
) -> None:
    """Raise ``ValueError`` if ``rows`` differ in a setting that the figure ``what`` does not show.

    Args:
        rows: as `select` returns them.
        varies: settings that the figure shows, beside the seed.
        by: columns whose groups may differ in settings.
        also: further columns in which rows must not differ.
    """
    if rows.empty:
        return
    # Settings that not all methods have always differ between methods.
    within = settings_apart(rows, ["eval_dataset", *dict.fromkeys(["method", *by])])
    for name, found in settings_apart(rows, ["eval_dataset", *by], also=also, but=("seed", *varies)).items():
        if name not in (*CLUSTERING, *OWN_SETTINGS) or name in within:
            raise InputError(
                f"{what} would mix rows that differ in {name}: {found}. Keep one of them, "
                f"board = leaderboard.with_settings(board); board = board[board.{name} == …]."
            )


def span(counts: Iterable[int], one: str, many: str) -> str:
    """``one`` if all counts are 1, otherwise ``many`` with their range for ``{}``."""
    low, high = min(counts, default=1), max(counts, default=1)
    return one if high == 1 else many.format(high if low == high else f"{low} to {high}")


def seeds_note(counts: Iterable[int]) -> str:
    """Return a note on the number of seeds behind the means of a figure, and on their spread."""
    return span(counts, "One seed, so there is no interval.", "Means over {} seeds with 95 % intervals (Student's t).")


def interval_label(counts: Iterable[int]) -> str:
    """Return the legend entry of intervals of means over these numbers of seeds. A single seed has no interval."""
    return span([n for n in counts if n > 1], "", "95 % interval, n = {}")


def in_order(names: Iterable[str], mixture: str) -> list[str]:
    """Evaluation datasets: those of the training mixture first, in its order, then the others by name."""
    names = set(names)
    own = [name for name in mixture.split("+") if name in names]
    return own + sorted(names - set(own))


@dataclass(frozen=True)
class SettingsGroup:
    """Trials that differ only in what figures show: method, mixture, λ, seed and clustering.

    Attributes:
        rows: their scores by one probe on one version of each dataset, with all settings, and those of untrained
            encoders of the same architecture.
        trials: number of trained encoders.
        description: their settings in words.
        unscored: rows of trials with the same settings without a score.
        name: of the sweep, if all trials are of one sweep; they may then differ in any setting.
    """

    rows: pd.DataFrame
    trials: int
    description: str
    unscored: pd.DataFrame
    name: str = ""

    @property
    def every_row(self) -> pd.DataFrame:
        """The rows of all trials, with and without a score."""
        return pd.concat([self.rows, self.unscored]) if len(self.unscored) else self.rows

    def label(self, mixture: str) -> str:
        """``mixture`` where the group has several, for the names of files."""
        return mixture if len(mixtures(self.rows)) > 1 else ""

    def largest_mixture(self) -> str:
        found = mixtures(self.rows)
        if not found:
            raise InputError(NO_MIXTURE)
        return found[0]


def settings_groups(board: pd.DataFrame) -> list[SettingsGroup]:
    """Return the groups of ``board``, the one with most trials first."""
    rows = encoder_scores(board).reset_index(drop=True)
    untrained = rows["method"].isin(UNTRAINED)
    trained = _without_gaps(rows[~untrained])
    if trained.empty:
        return []
    differing = [name for name in _hidden_settings(trained) if trained[name].nunique(dropna=False) > 1]
    groups = [group for _, group in trained.groupby(differing, dropna=False, sort=False)] if differing else [trained]
    groups.sort(key=lambda group: -group["trial_id"].nunique())
    same = [name for name in ("arch", "stem", "norm", "patch_size", "input_size") if name in rows]
    without = unscored(board)
    found = []
    for group in groups:
        first = group.iloc[0]
        alike = rows[untrained]
        for name in same:
            alike = alike[_agree(alike[name], first[name])]
        group = pd.concat([rows.loc[group.index], alike])
        description = ", ".join([*_described(first, differing), probe_words(group)])
        group = by_one_probe(group)
        found.append(SettingsGroup(group, count_trained(group), description, unscored_like(without, first)))
    return found


def _without_gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Fill a setting that the method of a trial does not have with the most frequent value of the other trials.

    The trial then belongs to the largest group. For example, clustered methods have no sampling.
    """
    filled = {}
    for name in sorted(OWN_SETTINGS & set(_hidden_settings(rows))):
        lacks = rows["method"].map(
            lambda method, name=name: method in METHODS and not METHODS[method].has_setting(name)
        )
        usual = rows.loc[~lacks, name].mode()
        if lacks.any() and len(usual):
            filled[name] = rows[name].mask(lacks, usual[0])
    return rows.assign(**filled)


def encoder_scores(board: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``board`` with a score of encoder features, with all their settings."""
    is_scored = (board["status"] == "finished") & board["top1"].notna()
    return leaderboard.with_settings(board[is_scored & (board["features"] == "encoder")])


def by_one_probe(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores by the most frequent probe, on the latest images of each dataset and mixture."""
    rows = rows[rows["probe"] == rows["probe"].value_counts().index[0]]
    return latest_images(latest_images(rows), "data_fingerprint", "train_mixture")


def probe_words(rows: pd.DataFrame) -> str:
    """Describe the most frequent probe of ``rows``."""
    probes = rows["probe"].value_counts()
    others = f" (the most frequent of {len(probes)})" if len(probes) > 1 else ""
    return f"{probes.index[0]} probe{others} of encoder features"


def count_trained(rows: pd.DataFrame) -> int:
    """Return the number of trained encoders in ``rows``."""
    return rows.loc[~rows["method"].isin(UNTRAINED), "trial_id"].nunique()


def left_out(rows: pd.DataFrame, shown: int, why: str) -> str:
    """Return a sentence for a caption on the trained encoders in ``rows`` that are not shown; empty if all are."""
    left = count_trained(rows) - shown
    return f" Left out: {left} {why}." if left else ""


def unscored(board: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``board`` without a score, with all their settings."""
    return leaderboard.with_settings(board[(board["status"] != "finished") | board["top1"].isna()])


def unscored_like(rows: pd.DataFrame, trial: pd.Series) -> pd.DataFrame:
    """Select the ``rows`` that differ from ``trial`` only in settings that figures show or that their method lacks."""
    for name in _hidden_settings(rows):
        if name in trial:
            agree = _agree(rows[name], trial[name])
            rows = rows[agree | rows[name].isna()] if name in OWN_SETTINGS else rows[agree]
    return rows


def _agree(values: pd.Series, value: Any) -> pd.Series:
    """Which ``values`` are ``value``, or missing as it is."""
    return values.isna() if pd.isna(value) else values == value


def of_one_device(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of trials that ran on the most frequent device with the most frequent number of workers."""
    for name in ("device", "num_workers"):
        rows = rows[rows[name].isna() | rows[name].isin(rows[name].mode()[:1])]
    return rows


def _hidden_settings(rows: pd.DataFrame) -> list[str]:
    """Return the settings of ``rows`` that no figure shows."""
    return [name for name in settings_of(rows) if name not in _SHOWN]


def _described(trial: pd.Series, differing: list[str]) -> list[str]:
    stem = f" ({trial['stem']} stem)" if pd.notna(trial.get("stem")) else ""
    parts = [f"{trial['arch']}{stem}"] if pd.notna(trial.get("arch")) else []
    if pd.notna(trial.get("iterations")):
        batch = f" of {trial['batch_per_domain']} images a domain" if pd.notna(trial.get("batch_per_domain")) else ""
        parts.append(f"{trial['iterations']:,} steps{batch}")
    named = {"arch", "stem", "iterations", "batch_per_domain", "probe", "features"}
    return parts + [
        f"{style.setting_name(name)} {style.setting(trial[name])}" for name in differing if name not in named
    ]
