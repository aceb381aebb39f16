"""Where Ray Train keeps records of a trial while it trains. Ours are complete without them."""

from __future__ import annotations

from mdssl.config.trial import TrialConfig
from mdssl.storage.location import Location

_FOLDER = ".ray"


def train_records(storage: Location, config: TrialConfig) -> Location:
    return storage / _FOLDER / f"{config.method}-{config.trial_id}"


def trials_with_records(storage: Location) -> set[str]:
    """Ids of trials that train now, or left records because their processes were killed."""
    return {name.rpartition("-")[2] for name in (storage / _FOLDER).names()}
