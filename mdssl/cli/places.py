"""Flags that many commands share."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from mdssl.config.presets import DATA, STORAGE


@dataclass(frozen=True, kw_only=True)
class StorageFlag:
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


@dataclass(frozen=True, kw_only=True)
class RowsFlag(StorageFlag):
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE), or one Parquet file of rows, as --compact writes."""


@dataclass(frozen=True, kw_only=True)
class DataFlag:
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


@dataclass(frozen=True, kw_only=True)
class TrialArgument:
    trial_id: Positional[str] = ""
    """A trial: its id, which the leaderboard and `mdssl status` print, or 4 or more of its first digits; best (by its
    validation score) | last (that has finished)."""


@dataclass(frozen=True, kw_only=True)
class DeviceFlag:
    device: str = "auto"
    """cpu | cuda | auto (a GPU if there is one)."""
