"""Helpers for tests of claims: a folder as a local disk or as an object store."""

import os

import fsspec
import pyarrow.fs

from mdssl.storage.location import Location


def located(kind, path):
    if kind == "local":
        return Location.of(path)
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("file", auto_mkdir=True)))
    return Location(filesystem, str(path), str(path))


def files(trial_dir):
    return sorted(os.listdir(trial_dir.path))
