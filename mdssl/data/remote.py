"""Prepared datasets in a bucket. Each node keeps a local copy, which training maps into memory.

    <cache>/<bucket>-<12 hex digits>/<name>/...      as in a data folder; the digits are a hash of the URI

A copy is downloaded on first use to a hidden folder, under the lock for preparing, and renamed after its SHA-256 is
checked. Later uses compare only ``meta.json``, and download again if the dataset in the bucket has changed.

To prepare a dataset in a bucket, mdssl prepares it in the local folder and uploads it, ``meta.json`` last. Until then,
``uploading.json`` marks the files as those of mdssl.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from mdssl.data.atomic_folder import ARRAYS, DATASET, all_or_nothing, locked
from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import Dataset, dataset_of, is_prepared, open_dataset, prepared_names, refuse_unprepared
from mdssl.data.prepare import ensure_builtin, prepare
from mdssl.data.progress import byte_progress
from mdssl.errors import InputError
from mdssl.storage.filesystems import OBJECT_STORES
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_replaceable
from mdssl.storage.retry import retry, retrying

_CHUNK = 8 << 20
"""Bytes per request."""
_BIG = 32 << 20
"""Progress is shown from this number of bytes on."""

_UPLOADING = replace(DATASET, marker="uploading.json", files=(*DATASET.files, "uploading.json"))
"""A dataset whose upload has begun."""
log = logging.getLogger(__name__)


class _DamagedError(InputError):
    """A copy has another SHA-256 than the dataset, or a file is missing."""


def ensure_local(data: str | Path, names: Iterable[str], *, progress: bool = False) -> Path:
    """Fetch missing datasets, and return the folder on this node from which ``names`` can be opened.

    This is ``data`` itself if it is local. Built-in domains are generated on each node, not fetched.

    Args:
        data: folder or bucket of prepared datasets.
        progress: whether to show progress on standard error.

    Raises:
        InputError: one of ``names`` is not prepared, does not have its SHA-256, or cannot be reached.
    """
    names = tuple(names)
    folder = folder_of(data)
    if bucket := bucket_of(data):
        for name in dict.fromkeys(names):
            if name not in BUILTIN:
                fetch(bucket, folder, name, progress=progress)
    ensure_builtin(folder, names)
    return folder


def bucket_of(data: str | Path) -> Location | None:
    """Return the location of ``data``, or None if it is a local folder."""
    if "://" not in str(data):
        return None
    place = Location.of(data)
    return None if place.is_local else place


def folder_of(data: str | Path) -> Path:
    """Return the local folder of ``data``: itself, or the folder of copies (``MDSSL_DATA_CACHE``)."""
    if "://" not in str(data):
        return Path(data).expanduser()
    place = Location.of(data)
    if place.is_local:
        return Path(place.path)
    cache = os.environ.get("MDSSL_DATA_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/mdssl/data"
    bucket = re.sub(r"[^A-Za-z0-9._-]+", "-", place.path.strip("/").partition("/")[0])
    return Path(cache).expanduser().absolute() / f"{bucket}-{hashlib.sha256(place.uri.encode()).hexdigest()[:12]}"


def is_prepared_in(data: str | Path, name: str) -> bool:
    """Whether ``name`` is prepared in the folder or bucket ``data``."""
    bucket = bucket_of(data)
    return is_prepared(folder_of(data), name) if bucket is None else (bucket / name / "meta.json").exists()


def described_in(data: str | Path, name: str) -> Dataset:
    """Return the dataset ``name`` in the folder or bucket ``data``, from ``meta.json`` alone.

    Raises:
        InputError: it is not prepared there, or ``meta.json`` is damaged.
    """
    folder, bucket = folder_of(data), bucket_of(data)
    if bucket is None and not is_prepared(folder, name):
        refuse_unprepared(data, name, prepared_names(folder))
    meta = (folder / name / "meta.json").read_bytes() if bucket is None else meta_in(bucket, name)
    return dataset_of(name, folder / name, meta, data)


def variants_in(data: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Return the `Dataset.variant` of each of ``names`` that is prepared in ``data`` and has one."""
    prepared = [name for name in dict.fromkeys(names) if is_prepared_in(data, name)]
    return {name: words for name in prepared if (words := described_in(data, name).variant)}


def list_prepared(data: str | Path) -> tuple[list[Dataset], list[str]]:
    """Return the datasets in the folder or bucket ``data``, by name, and the errors of those that cannot be opened.

    From a bucket only each ``meta.json`` is read.
    """
    bucket, datasets, problems = bucket_of(data), [], []
    for name in prepared_names(folder_of(data)) if bucket is None else _names_in(bucket):
        try:
            datasets.append(open_dataset(folder_of(data), name) if bucket is None else described_in(data, name))
        except InputError as error:
            problems.append(str(error))
    return datasets, problems


def fetch(bucket: Location, folder: Path, name: str, *, progress: bool = False) -> None:
    """Copy ``name`` from ``bucket`` to ``folder`` unless the copy is up to date. A damaged transfer is repeated once.

    Raises:
        InputError: see `ensure_local`.
    """
    if _is_copy(folder, name, meta_in(bucket, name)):
        return
    with locked(folder, name, progress), retrying():
        for attempt in (1, 2):
            # Read under the lock and in each attempt, because another process may have prepared the dataset again.
            meta = meta_in(bucket, name)
            if _is_copy(folder, name, meta):
                return
            try:
                with all_or_nothing(folder, name) as temporary:
                    _download(bucket / name, temporary, progress)
                    (temporary / "meta.json").write_bytes(meta)
                    _check_copy(dataset_of(name, temporary, meta, bucket.uri))
            except _DamagedError as error:
                if attempt == 2:
                    raise
                log.warning("%s was damaged during the transfer from %s and is fetched again: %s", name, bucket, error)
            else:
                log.info("fetched %s from %s to %s", name, bucket, folder)
                return


def _check_copy(dataset: Dataset) -> None:
    try:
        dataset.check_fingerprints()
    except InputError as error:
        raise _DamagedError(str(error)) from error


def meta_in(bucket: Location, name: str) -> bytes:
    """Return the bytes of the ``meta.json`` of ``name``. Raises ``InputError`` if it is not prepared there."""
    try:
        with _answering(bucket):
            return (bucket / name / "meta.json").read_bytes()
    except FileNotFoundError:
        refuse_unprepared(bucket.uri, name, _names_in(bucket))


def _names_in(bucket: Location) -> list[str]:
    with _answering(bucket):
        return [name for name in bucket.names() if (bucket / name / "meta.json").exists()]


def _is_copy(folder: Path, name: str, meta: bytes) -> bool:
    """Whether ``name`` is in ``folder`` with this ``meta.json``, and none of its files is cut off."""
    if not is_prepared(folder, name) or (folder / name / "meta.json").read_bytes() != meta:
        return False
    try:
        open_dataset(folder, name)
    except InputError:
        return False
    return True


def _download(source: Location, target: Path, progress: bool) -> None:
    sizes = {file: _size(source / file) for file in ARRAYS}
    total = sum(sizes.values())
    with byte_progress(progress and total >= _BIG) as bar:
        task = bar.add_task(f"fetch {source.name}", total=total)
        for file in ARRAYS:
            (target / file).parent.mkdir(exist_ok=True)
            with open(target / file, "wb") as copy:
                for start in range(0, sizes[file], _CHUNK):
                    bar.advance(task, copy.write(_chunk(source / file, start)))
                copy.flush()
                os.fsync(copy.fileno())


def _size(file: Location) -> int:
    with _answering(file):
        size = retry(file.uri, lambda: file.filesystem.get_file_info(file.path).size, is_local=False)
    if size is None:
        raise _DamagedError(f"{file} is missing.")
    return size


def _chunk(file: Location, start: int) -> bytes:
    """Read up to `_CHUNK` bytes from ``start``. The file is opened for each chunk, so that a retry repeats only one."""

    def read() -> bytes:
        with file.filesystem.open_input_file(file.path) as opened:
            return opened.read_at(_CHUNK, start)  # type: ignore[call-arg]

    try:
        with _answering(file):
            return retry(file.uri, read, is_local=False)
    except FileNotFoundError as error:
        raise _DamagedError(f"{file} is missing.") from error


@contextlib.contextmanager
def _answering(place: Location) -> Iterator[None]:
    """Convert ``OSError``, except ``FileNotFoundError``, to ``InputError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"data in {place} cannot be read: {error}. Check the network, the credentials and their permissions, or "
            "give another --data."
        ) from error


def prepare_in(
    data: str | Path, name: str, *, overwrite: bool = False, progress: bool = True, **options: Any
) -> Dataset:
    """`mdssl.data.prepare.prepare` for a folder or bucket.

    Built-in domains are not uploaded, because every machine generates them.

    Raises:
        InputError: the bucket cannot be written, or see `prepare`.
    """
    bucket, folder = bucket_of(data), folder_of(data)
    if bucket is None or name in BUILTIN:
        return prepare(name, data=folder, overwrite=overwrite, progress=progress, **options)
    was_there = is_prepared_in(data, name)
    if overwrite or not was_there:
        check_replaceable(bucket / name, _UPLOADING if (bucket / name / _UPLOADING.marker).exists() else DATASET)
    bucket.check_writable("--data or MDSSL_DATA", what="data folder")
    if was_there and not overwrite:
        fetch(bucket, folder, name, progress=progress)
    dataset = prepare(name, data=folder, overwrite=overwrite, progress=progress, **options)
    if not was_there or meta_in(bucket, name) != (dataset.path / "meta.json").read_bytes():
        _upload(dataset.path, bucket / name, progress)
    return dataset


@retrying()
def _upload(folder: Path, target: Location, progress: bool) -> None:
    """Upload a dataset. Readers ignore a dataset without ``meta.json``, so it is deleted first and uploaded last."""
    try:
        meta = (folder / "meta.json").read_bytes()
        (target / _UPLOADING.marker).write_bytes(meta)
        (target / "meta.json").delete()
        with byte_progress(progress) as bar:
            task = bar.add_task(f"upload {target.name}", total=sum((folder / file).stat().st_size for file in ARRAYS))
            for file in ARRAYS:
                retry(target.uri, partial(_upload_file, folder / file, target / file, bar, task), is_local=False)
        (target / "meta.json").write_bytes(meta)
        (target / _UPLOADING.marker).delete()
    except OSError as error:
        raise InputError(
            f"dataset {target.name!r} cannot be uploaded to {target.parent}: {error}. It is prepared in {folder}; "
            "repeat the command to upload it."
        ) from error


def _upload_file(source: Path, target: Location, bar: Progress, task: TaskID) -> None:
    if target.filesystem.type_name not in OBJECT_STORES:
        target.filesystem.create_dir(target.parent.path, recursive=True)
    sent = 0
    try:
        with open(source, "rb") as file, target.filesystem.open_output_stream(target.path) as stream:
            while chunk := file.read(_CHUNK):
                stream.write(chunk)
                bar.advance(task, len(chunk))
                sent += len(chunk)
    except OSError:
        bar.advance(task, -sent)
        raise
