"""Open a storage for reading: it must exist, and it may hold other files."""

from __future__ import annotations

import pyarrow.fs

from mdssl.config.trial import is_trial_id
from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import TRIALS


def results_in(storage: str | Location) -> Location:
    """Open ``storage`` for reading.

    Raises:
        ValueError: it is a file, or it does not exist.
    """
    storage = Location.of(storage)
    kind = storage.filesystem.get_file_info(storage.path).type
    which = "Give the folder or bucket of a sweep's results with --storage or MDSSL_STORAGE."
    if kind == pyarrow.fs.FileType.File:
        raise InputError(f"storage {storage} is a file. {which}")
    if kind == pyarrow.fs.FileType.NotFound:
        raise InputError(f"storage {storage} has no leaderboard and no trials: there is no such folder. {which}")
    return storage


def trial_ids(storage: Location) -> list[str]:
    """The ids of the trials that have a folder, sorted; other files and folders are ignored."""
    found = (storage / TRIALS).listing().items()
    return [name for name, info in found if is_trial_id(name) and info.type == pyarrow.fs.FileType.Directory]
