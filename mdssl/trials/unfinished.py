"""Trials that have no row on the leaderboard yet, in words, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.trials.describe import duration, labels
from mdssl.trials.status import trial_status


def trials_without_rows(storage: Location, trial_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the trials ``trial_ids``, which have no row; folders that are no trial's are left out.

    Returns:
        Objects with ``trial_id``, ``label``, ``state``, ``step``, ``iterations``, and ``eta``, such as ``3m20s``, or
        None.
    """
    trials = [each for each in in_threads(lambda trial_id: trial_status(storage, trial_id), trial_ids) if each]
    names = labels(trial.config for trial in trials)
    return [
        {
            "trial_id": trial.config.trial_id,
            "label": names[trial.config.trial_id],
            "state": trial.state,
            "step": trial.step,
            "iterations": trial.config.iterations,
            "eta": None if trial.eta_seconds is None else duration(trial.eta_seconds),
        }
        for trial in trials
    ]
