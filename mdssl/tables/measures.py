"""Measures of how domains lie in the representation space, from the files that are saved with a trial.

`mdssl.leaderboard.columns.MEASURES` defines them. Neither torch, nor the data, nor an encoder is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdssl.config.presets import place_flags
from mdssl.errors import InputError, some_of
from mdssl.evaluate.representations import of_trial
from mdssl.evaluate.similarity import class_similarity, stacked, summarize
from mdssl.leaderboard.columns import MEASURE_NAMES
from mdssl.leaderboard.files import is_file_of_rows, results_in
from mdssl.leaderboard.names import plain_name
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import FORMER_NEIGHBORS, NEIGHBORS, read_table, storage_of, trial_dir_in
from mdssl.tables.statistics import mean

LAYER = "projection"
_LAST = 0.1
"""Share of the training steps, at the end, that alignment is the mean of."""
_NAN = float("nan")


def add_measures(board: pd.DataFrame, storage: str | Location, domains: Sequence[str]) -> pd.DataFrame:
    """Return ``board`` with the columns `MEASURES`; NaN where a trial lacks the file, and in rows without a dataset.

    Args:
        board: rows of the leaderboard, as `mdssl.leaderboard.board.read` returns them, or with all their settings.
        storage: the folder or bucket that has the files of their trials.
        domains: the training domains that are compared. They are an argument because an untrained encoder has none.

    Raises:
        ValueError: ``storage`` is a file or does not exist; or a file of a trial is damaged.
    """
    storage, domains = results_in(storage), [plain_name(name) for name in domains]
    datasets = board["eval_dataset"].map(plain_name, na_action="ignore")
    trials: list[tuple[Any, ...]] = [
        (trial_id, own["temperature"].iloc[0], list(datasets[own.index].dropna().unique()))
        for trial_id, own in board.groupby("trial_id")
    ]
    found = in_threads(lambda trial: _of_trial(storage, domains, *trial), trials)
    by_score = {score: values for of_one in found for score, values in of_one.items()}
    keys = zip(board["trial_id"], datasets, strict=True)
    values = pd.DataFrame(
        [by_score.get(key, {}) for key in keys], index=board.index, columns=list(MEASURE_NAMES), dtype=float
    )
    return board.assign(**values)


def with_measures(rows: pd.DataFrame, storage: str | Location, domains: Sequence[str]) -> pd.DataFrame:
    """Return ``rows`` as they are if they have the columns `MEASURES`, as from a file of rows; else `add_measures`.

    Raises:
        ValueError: as `add_measures`; ``storage`` is a file of rows without these columns.
    """
    missing = [name for name in MEASURE_NAMES if name not in rows]
    if missing and is_file_of_rows(Location.of(storage)):
        raise InputError(
            f"{storage} has no columns {', '.join(missing)}. mdssl.tables.measures.add_measures computes them where "
            "the files of the trials are; docs/leaderboard.md shows how."
        )
    return add_measures(rows, storage, domains) if missing else rows


def domains_compared(rows: pd.DataFrame) -> list[str]:
    """Return the domains of the only training mixture of several domains in ``rows``.

    Raises:
        ValueError: there is none, or there are several.
    """
    mixtures = sorted(name for name in rows["train_mixture"].unique() if "+" in name)
    if len(mixtures) != 1:
        raise InputError(
            f"{', '.join(MEASURE_NAMES)} compare the domains of one training mixture, and there are "
            f"{len(mixtures)}{': ' if mixtures else ''}{some_of(mixtures, 4)}. Keep one with --train-mixture, or name "
            "the domains in mdssl.tables.measures.add_measures."
        )
    return mixtures[0].split("+")


def uniformity(features: np.ndarray) -> float:
    """Return log E exp(-2 |x - y|²) over pairs of different rows of ``features``, l2-normalized; NaN for one row.

    Wang and Isola, 2020, arXiv 2005.10242, with t = 2: between -8, and 0 where all rows have one direction.

    Args:
        features: (n, width).
    """
    cosines = class_similarity(features)[np.triu_indices(len(features), 1)]
    return float(np.log(np.exp(4 * cosines - 4).mean())) if len(cosines) else _NAN


def _of_trial(
    storage: Location, domains: Sequence[str], trial_id: str, temperature: float, datasets: Sequence[str]
) -> dict[tuple[str, str], dict[str, float]]:
    """Return the measures of one trial by its id and dataset."""
    trial_dir = trial_dir_in(storage, trial_id)
    kept = {
        name: one
        for name, one in of_trial(storage, trial_id, list(dict.fromkeys([*datasets, *domains]))).items()
        if LAYER in one.layers
    }
    within, across = {}, {}
    if kept:
        similar = stacked(kept, LAYER)
        means = summarize(similar.matrix, similar.groups)
        within, across = means.by_domain, {frozenset(pair): value for pair, value in means.by_pair.items()}
    of_all = _alignment(trial_dir, temperature)
    neighbors = _own_neighbors(trial_dir, domains)
    found = {}
    for name in datasets:
        others = [across.get(frozenset((name, domain)), _NAN) for domain in domains if domain != name]
        spread = uniformity(kept[name].layers[LAYER].sample) if name in kept else _NAN
        values = (within.get(name, _NAN), mean(others), of_all, spread, neighbors.get(name, _NAN))
        found[trial_id, name] = dict(zip(MEASURE_NAMES, values, strict=True))
    return found


def _alignment(trial_dir: Location, temperature: float) -> float:
    """E |f(x) - f(x⁺)|² = 2 - 2 cos at the end of training. The logged term is -cos / temperature (eq. 2)."""
    metrics = read_table(trial_dir / "metrics.parquet")
    if metrics is None or metrics.empty or "alignment" not in metrics or pd.isna(temperature):
        return _NAN
    # A row is the mean over the steps since the one before.
    steps = metrics["step"].to_numpy(dtype=float)
    first = (1 - _LAST) * steps[-1]
    weights = np.diff(np.clip(steps, first, None), prepend=first)
    return float(2 + 2 * temperature * np.average(metrics["alignment"], weights=weights))


def _own_neighbors(trial_dir: Location, domains: Sequence[str]) -> dict[str, float]:
    """Return by domain the percentage of neighbors from it, if images of ``domains`` and of no other were searched."""
    for name in (NEIGHBORS[1], FORMER_NEIGHBORS[1]):
        file = trial_dir / name
        try:
            content = json.loads(file.read_bytes())
            if set(content["candidates"]) != set(domains):
                return {}
            found = content["datasets"].items()
            return {domain: 100 * float(of["own_domain"]) for domain, of in found if domain in domains}
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} is damaged ({type(error).__name__}: {error}). Move it away; `mdssl probe {trial_dir.name}"
                f"{place_flags(storage_of(trial_dir))}` writes it again."
            ) from error
    return {}
