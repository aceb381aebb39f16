"""The folder of Ray Train's records of a trial during training. mdssl does not need them afterwards."""

from __future__ import annotations

import logging

from mdssl.config.trial import TrialConfig
from mdssl.storage.claim import Claim, holder_of
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import trial_dir_in

log = logging.getLogger(__name__)

_FOLDER = ".ray"


def train_records(storage: Location, config: TrialConfig) -> Location:
    return storage / _FOLDER / f"{config.method}-{config.trial_id}"


def all_records(storage: Location) -> dict[str, Location]:
    """The folders, by id, of trials that train now, or left records because their processes were killed."""
    return {name.rpartition("-")[2]: storage / _FOLDER / name for name in (storage / _FOLDER).names()}


def clear_up(storage: Location, config: TrialConfig) -> None:
    """Delete the leftover files of a stopped trial, unless another sweep has the trial now."""
    trial_dir, records = trial_dir_in(storage, config.trial_id), train_records(storage, config)
    try:
        with retrying(0):
            if records.exists() or holder_of(trial_dir):
                with Claim(trial_dir) as claim:
                    if claim.take() is None:
                        records.delete()
    except OSError as error:
        log.warning("trial %s: its leftover files could not be deleted: %s", config.trial_id, error)
