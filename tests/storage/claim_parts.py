"""Helpers for tests of claims: a folder as a local disk or as an object store, and dead owners."""

import os

import fsspec
import pyarrow.fs

from mdssl.storage.claim import Owner
from mdssl.storage.claim_files import machine
from mdssl.storage.location import Location


def located(kind, path):
    if kind == "local":
        return Location.of(path)
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("file", auto_mkdir=True)))
    return Location(filesystem, str(path), str(path))


def dead_owner(token="dead"):
    """An owner on this machine whose process does not exist: its process id is above the maximum."""
    return Owner(token, "here", pid=2**23, machine=machine(), started=1)


def files(trial_dir):
    return sorted(os.listdir(trial_dir.path))
