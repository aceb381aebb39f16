"""A storage as whoever reads it opens it: it has to be there, and not all that lies in it is ours."""

from __future__ import annotations

import pyarrow.fs

from mdssl.config.trial import is_trial_id
from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import TRIALS


def results_in(storage: str | Location) -> Location:
    """``storage``, to be read.

    Raises:
        ValueError: it is a file, or there is nothing of that name.
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
    """The ids of the trials that have a folder, sorted; whatever else lies among them is passed over."""
    found = (storage / TRIALS).listing().items()
    return [name for name, info in found if is_trial_id(name) and info.type == pyarrow.fs.FileType.Directory]
