"""Claims on a local folder and on the same folder as an object store sees it, and owners that are dead."""

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
    """Of this machine, and its process is gone: no process has an id as high."""
    return Owner(token, "here", pid=2**23, machine=machine(), started=1)


def files(trial_dir):
    return sorted(os.listdir(trial_dir.path))
