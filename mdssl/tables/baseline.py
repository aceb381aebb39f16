"""The baseline of each trial: the trial of the same training mixture, seed and other settings.

The images and views of a step depend on the seed alone. Two trials with one seed have the same randomness, so their
difference has less noise than their scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import hexdigits

import numpy as np
import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError, check_name
from mdssl.tables.compare import settings_of
from mdssl.tables.select import Condition, matching, parse_condition, shown


def find_baselines(
    rows: pd.DataFrame, board: pd.DataFrame, wanted: Sequence[str] = ("simclr",), *, strict: bool = True
) -> dict[str, str]:
    """Find the baseline of each trial of ``rows``; trials without one are left out.

    A trial's baseline has the same training mixture, seed and other settings. A setting that one of the two does not
    have is not compared: SimCLR on the union has no λ1 and λ2, a random encoder was trained on nothing. Those that
    ``wanted`` names are not compared either. Of several it is the one that is among ``rows``.

    Args:
        rows: with all their settings (`mdssl.leaderboard.board.with_settings`).
        board: rows to search for baselines, with the same columns; may include ``rows``.
        wanted: the baseline: a method, conditions (``lambda1=1``), both; or a trial id, which is that trial and those
            that differ from it in nothing but the seed, whatever the settings of ``rows`` are.
        strict: whether to raise if no trial is ``wanted``, or if a trained trial has several baselines. Otherwise these
            trials have none.

    Returns:
        Trial ids. An untrained encoder that has several baselines, as on several mixtures, has none here.

    Raises:
        ValueError: see ``strict``.
    """
    return only_baselines(possible_baselines(rows, board, wanted, strict=strict))


def only_baselines(possible: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return those of `possible_baselines` that are the only one of their trial."""
    return {trial_id: found[0] for trial_id, found in possible.items() if len(found) == 1}


def incomplete_baselines(baseline_of: Mapping[str, str], scores: pd.DataFrame) -> np.ndarray:
    """Return the ids of the baselines that lack a score which a trial compared with them has.

    Args:
        baseline_of: as `find_baselines` returns it.
        scores: a row per trial id and a column per dataset; NaN where there is no score.
    """
    has, baseline_has = (
        scores.reindex(list(ids)).notna().to_numpy(dtype=bool) for ids in (baseline_of, baseline_of.values())
    )
    return np.array(list(baseline_of.values()), dtype=object)[(has & ~baseline_has).any(axis=1)]


def possible_baselines(
    rows: pd.DataFrame, board: pd.DataFrame, wanted: Sequence[str] = ("simclr",), *, strict: bool = True
) -> dict[str, list[str]]:
    """Return the ids of all trials that can be the baseline of each trial of ``rows``: see `find_baselines`.

    Trials without one have an empty list, or are missing if no trial is ``wanted``.
    """
    scored = board[board["eval_dataset"].notna() & (board["status"] != "stopped")]
    trials = scored.drop_duplicates("trial_id").set_index("trial_id")
    if not strict and wanted[0] not in set(trials["method"]):
        return {}
    # Of a pretrained encoder it is what others start from.
    names = settings_of(board) + [name for name in ("init_fingerprint",) if name in board]
    candidates, compared = _candidates(trials, names, wanted)
    own = rows.drop_duplicates("trial_id").set_index("trial_id")
    return _matches(own[names], trials.loc[candidates, names], compared, " ".join(wanted), strict)


def _candidates(trials: pd.DataFrame, names: list[str], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Trials that may be baselines, and the settings that they must have in common with the row."""
    if len(wanted) == 1 and set(wanted[0]) <= set(hexdigits):
        check_trial_id(wanted[0])
        if wanted[0] not in trials.index:
            raise InputError(f"baseline {wanted[0]!r} is not a trial with a score on the selected datasets.")
        settings = np.stack([pd.factorize(trials[name])[0] for name in names if name != "seed"], axis=1)
        same = (settings == settings[trials.index.get_loc(wanted[0])]).all(axis=1)
        return list(trials.index[same]), ["seed"]
    conditions = [_condition(word, trials) for word in wanted]
    named = {condition.name for condition in conditions} | {"method"}
    if "train_mixture" in named:
        named.add("data_fingerprint")
    found = list(matching(trials, conditions).index)
    if not found:
        raise InputError(
            f"baseline {' '.join(wanted)!r}: no trial with a score meets {' and '.join(map(str, conditions))}; leave "
            "out one of these conditions, or change it."
        )
    return found, [name for name in names if name not in named]


def _condition(word: str, trials: pd.DataFrame) -> Condition:
    if set(word) & set("=<>"):
        return parse_condition(word)
    hint = "A trial id, or conditions such as method=mdssl lambda1=1 lambda2=0, name a baseline as well."
    check_name("baseline", word, sorted(set(trials["method"])), hint)
    return Condition("method", "=", (word,))


def _matches(
    own: pd.DataFrame, baselines: pd.DataFrame, compared: Sequence[str], label: str, strict: bool
) -> dict[str, list[str]]:
    """Return the trial ids of possible baselines by trial id."""
    codes, theirs = _codes(own, baselines, compared)
    different, which = np.unique(codes, axis=0, return_inverse=True)
    untrained = (own["train_mixture"] == "").to_numpy()
    ids, shown_ids = baselines.index.to_numpy(), set(own.index)
    matches: list[list[str]] = []
    ambiguous: dict[int, list[str]] = {}
    for number, settings in enumerate(different):
        agree = ((theirs == settings) | (theirs < 0) | (settings < 0)).all(axis=1)
        found = list(ids[agree])
        shown = [trial_id for trial_id in found if trial_id in shown_ids]
        found = shown if len(shown) == 1 else found
        if strict and len(found) > 1 and not untrained[which == number].all():
            ambiguous[number] = found
        matches.append(found)
    if ambiguous:
        number, found = next(iter(ambiguous.items()))
        methods = own.loc[np.isin(which, list(ambiguous)) & ~untrained, "method"]
        raise InputError(_ambiguous(baselines.loc[found], own[which == number].iloc[0], label, sorted(set(methods))))
    return {trial_id: matches[number] for trial_id, number in zip(own.index, which, strict=True)}


def _codes(own: pd.DataFrame, baselines: pd.DataFrame, compared: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Encode each value as a number; -1 marks a setting that the trial's method does not have."""
    both = pd.concat([own, baselines], ignore_index=True)
    method = both["method"]
    columns = []
    for name in compared:
        absent = both[name].isna() | (both[name] == "").fillna(False).astype(bool)
        absent |= ~method.map({own: _has(own, name) for own in method.unique()}).astype(bool)
        columns.append(pd.factorize(both[name].where(~absent))[0])
    codes = np.stack(columns, axis=1) if columns else np.zeros((len(both), 1), int)
    return codes[: len(own)], codes[len(own) :]


def _has(method: str, name: str) -> bool:
    """Whether trials of the method are compared by the setting. Of pretrained weights these are the file, which others
    start from, and the input of the network."""
    if method not in METHODS:
        return True
    own = METHODS[method]
    if own.loads_weights:
        return name in ("init_fingerprint", "input_size", "patch_size")
    weighed = own.weighs_domains or name not in ("lambda1", "lambda2")
    return own.has_setting(name) and weighed


def _ambiguous(found: pd.DataFrame, trial: pd.Series, label: str, methods: Sequence[str]) -> str:
    differing = {
        name: [shown(value) for value in sorted(found[name].dropna().unique().tolist())]
        for name in settings_of(found)
        if found[name].nunique() > 1
    }
    listed = "; ".join(f"{name}: {', '.join(values)}" for name, values in differing.items())
    example = " ".join(f"{name}={values[-1]}" for name, values in differing.items())
    return (
        f"baseline {label!r} matches {len(found)} trials for trial {trial.name} ({trial['method']}), which differ in "
        f"{listed}. Select one of them: --baseline {label} {example}; or leave out trials that match several: "
        f"--where method!={','.join(methods)}"
    )
