"""Names of trials in commands: the id, its first digits, ``best`` or ``last``."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

import pandas as pd

from mdssl.config.trial import is_trial_id
from mdssl.errors import InputError, some_of
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.files import SUFFIX, is_file_of_rows, results_in, trial_ids
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import LEADERBOARD, trial_dir_in
from mdssl.tables.select import best_by_validation

_LISTED = 8


def is_trial_name(text: str) -> bool:
    """Whether ``text`` is the name of a trial, and not of a file, method or kind of figure."""
    return re.fullmatch(r"[0-9a-f]{4,12}|best|last", text) is not None


def find_trial(storage: str | Location, name: str) -> str:
    """Return the id of the trial ``name``: an id, at least 4 of its first digits, ``best`` or ``last``.

    ``best`` has the highest validation score of the storage (`mdssl.tables.select.best_by_validation`, over all
    mixtures). ``last`` is the trial that finished most recently: its scores, or, without any, its training.

    Raises:
        InputError: the storage or the trial does not exist, several trials have these digits, or none has the scores or
            the end that ``best`` and ``last`` require.
    """
    if not is_trial_name(name):
        raise InputError(
            f"{name!r} is not a trial id (12 hex digits, such as 0123456789ab, or at least 4 of its first ones), and "
            "neither best nor last."
        )
    results = results_in(storage, rows_only=True)
    if name == "best":
        return _best(results)
    if is_file_of_rows(results):
        of_rows = list(leaderboard.read(results)["trial_id"])
    else:
        of_rows = [file.removesuffix(SUFFIX) for file in (results / LEADERBOARD).names() if file.endswith(SUFFIX)]
    known = sorted({*trial_ids(results), *filter(is_trial_id, of_rows)})
    if name == "last":
        return _last(results, set(known))
    found = [trial_id for trial_id in known if trial_id.startswith(name)]
    if len(found) > 1:
        raise InputError(f"{name!r} is {len(found)} trials in {results}: {some_of(found, _LISTED)}. Give more digits.")
    if not found:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        there = f"Did you mean {' or '.join(close)}?" if close else f"There are: {some_of(known, _LISTED) or 'none'}."
        listing = "`mdssl leaderboard` lists"
        if not is_file_of_rows(results):
            listing = "`mdssl leaderboard` and `mdssl status` list"
        raise InputError(
            f"no trial of {results} is {name!r}. {there} {listing} them, and --storage selects another place."
        )
    return found[0]


def _best(results: Location) -> str:
    rows = leaderboard.with_settings(leaderboard.read(results))
    validated = rows[rows["val_top1"].notna()] if len(rows) else rows
    probes = sorted(validated["probe"].unique())
    if len(probes) > 1:
        raise InputError(
            f"there is no best trial of {results}: its validation scores are of several probes ({', '.join(probes)}). "
            "`mdssl leaderboard` names the best by each; give its id."
        )
    ranked = best_by_validation(validated) if len(validated) else pd.DataFrame({"val": []})
    ranked = ranked[ranked["val"].notna()]
    if ranked.empty:
        has = "only test scores, by which none is selected" if rows["top1"].notna().any() else "no scores"
        raise InputError(
            f"there is no best trial of {results}: it has {has}. `mdssl probe TRIAL_ID` adds validation scores; or "
            "give the id of a trial that `mdssl leaderboard` lists."
        )
    return str(ranked["trial_id"].iloc[0])


def _last(results: Location, known: set[str]) -> str:
    rows = leaderboard.read(results, status="finished")
    ended: dict[str, Any] = {str(name): at for name, at in rows.groupby("trial_id")["finished_at"].max().items()}
    for trial_id in known - set(ended):
        try:
            training = json.loads((trial_dir_in(results, trial_id) / "training.json").read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        if training.get("status") == "finished":
            ended[trial_id] = pd.Timestamp(training["finished_at"])
    if not ended:
        raise InputError(f"there is no last trial of {results}: none has finished. `mdssl status` shows their states.")
    return max(sorted(ended), key=lambda trial_id: ended[trial_id])
