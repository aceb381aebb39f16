"""Flags that many commands share."""

from __future__ import annotations

from dataclasses import dataclass

from mdssl.config.presets import DATA, STORAGE


@dataclass(frozen=True, kw_only=True)
class StorageFlag:
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


@dataclass(frozen=True, kw_only=True)
class DataFlag:
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


@dataclass(frozen=True, kw_only=True)
class DeviceFlag:
    device: str = "auto"
    """cpu | cuda | auto (a GPU if there is one)."""
