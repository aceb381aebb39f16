"""Where a storage keeps a trial: ``trials/<trial_id>/`` its files, ``leaderboard/<trial_id>.parquet`` its rows."""

from __future__ import annotations

from pathlib import Path

from mdssl.storage.location import Location

TRIALS, LEADERBOARD = "trials", "leaderboard"


def trial_dir_in(storage: str | Path | Location, trial_id: str) -> Location:
    """The folder of a trial's files: see `mdssl.pretrain.trial_files`."""
    return Location.of(storage) / TRIALS / trial_id


def rows_file_in(storage: str | Path | Location, trial_id: str) -> Location:
    """The file of a trial's leaderboard rows."""
    return Location.of(storage) / LEADERBOARD / f"{trial_id}.parquet"


def storage_of(trial_dir: Location) -> Location:
    """The storage in which ``trial_dir`` is the folder of a trial."""
    return trial_dir.parent.parent
