"""Prepared datasets that live in a bucket: each node keeps a copy on its disk, where training maps it.

    <cache>/<bucket>-<12 hex digits>/<name>/...      as in a data folder; the digits stand for the whole URI

A copy is fetched when it is first needed, under the lock with which datasets are prepared, to a hidden name; it gets
its own only when its pixels and labels have the SHA-256 that ``meta.json`` says. From then on only ``meta.json`` is
compared, one small request, so a dataset that is prepared anew in the bucket is fetched anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import (
    SPLITS,
    Dataset,
    dataset_of,
    is_prepared,
    list_datasets,
    open_dataset,
    refuse_unprepared,
)
from mdssl.data.prepare import ensure_builtin
from mdssl.data.progress import byte_progress
from mdssl.data.staging import all_or_nothing, locked
from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.retry import retry, retrying

FILES = tuple(f"{split}/{array}.npy" for split in SPLITS for array in ("images", "labels"))
"""Of a prepared dataset, besides ``meta.json``."""
CHUNK = 8 << 20
"""Bytes that travel at a time."""
_BIG = 32 << 20
"""Bytes from which on progress is shown."""

log = logging.getLogger(__name__)


class _DamagedError(InputError):
    """What arrived is not what its SHA-256 says, or not all of it was there."""


def ensure_local(data: str | Path, names: Iterable[str], *, progress: bool = False) -> Path:
    """The folder on this node from which ``names`` can be opened, after what is missing was fetched or made.

    For a local ``data`` it is that folder. Built-in domains are made where they are needed, never fetched.

    Args:
        data: folder or bucket of prepared datasets.
        progress: whether to show on standard error what takes long.

    Raises:
        ValueError: one of ``names`` is not prepared, is not what its SHA-256 says, or cannot be reached.
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
    """Where ``data`` is, unless that is a folder of this machine."""
    if "://" not in str(data):
        return None
    place = Location.of(data)
    return None if place.is_local else place


def folder_of(data: str | Path) -> Path:
    """The folder of this machine that holds ``data``, or its copy: see ``MDSSL_DATA_CACHE``."""
    if "://" not in str(data):
        return Path(data).expanduser()
    place = Location.of(data)
    if place.is_local:
        return Path(place.path)
    cache = os.environ.get("MDSSL_DATA_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/mdssl/data"
    bucket = re.sub(r"[^A-Za-z0-9._-]+", "-", place.path.strip("/").partition("/")[0])
    return Path(cache).expanduser().absolute() / f"{bucket}-{hashlib.sha256(place.uri.encode()).hexdigest()[:12]}"


def is_prepared_in(data: str | Path, name: str) -> bool:
    """Whether ``name`` stands in the folder or bucket ``data``."""
    bucket = bucket_of(data)
    return is_prepared(folder_of(data), name) if bucket is None else (bucket / name / "meta.json").exists()


def described_in(data: str | Path, name: str) -> Dataset:
    """What ``meta.json`` says of ``name`` in the folder or bucket ``data``; of a bucket nothing else is fetched.

    Raises:
        ValueError: it is not prepared there, or ``meta.json`` is damaged.
    """
    folder, bucket = folder_of(data), bucket_of(data)
    if bucket is None and not is_prepared(folder, name):
        refuse_unprepared(data, name, [dataset.name for dataset in list_datasets(folder)[0]])
    meta = (folder / name / "meta.json").read_bytes() if bucket is None else meta_in(bucket, name)
    return dataset_of(name, folder / name, meta, data)


def variants_in(data: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Of those of ``names`` that are prepared in ``data``, the `Dataset.variant` of each that has one."""
    prepared = [name for name in dict.fromkeys(names) if is_prepared_in(data, name)]
    return {name: words for name in prepared if (words := described_in(data, name).variant)}


def list_prepared(data: str | Path) -> tuple[list[Dataset], list[str]]:
    """`list_datasets`, for a bucket as well: of that nothing but each ``meta.json`` is read."""
    bucket = bucket_of(data)
    if bucket is None:
        return list_datasets(folder_of(data))
    datasets, problems = [], []
    for name in _names_in(bucket):
        try:
            datasets.append(dataset_of(name, folder_of(data) / name, meta_in(bucket, name), data))
        except InputError as error:
            problems.append(str(error))
    return datasets, problems


def fetch(bucket: Location, folder: Path, name: str, *, progress: bool = False) -> None:
    """Have ``name`` in ``folder`` as it is in ``bucket``.

    Raises:
        ValueError: see `at_hand`. What arrived damaged is fetched once more before that is said.
    """
    if _is_copy(folder, name, meta_in(bucket, name)):
        return
    with locked(folder, name, progress), retrying():
        for attempt in (1, 2):
            # Read anew under the lock, and again after damage: it may have been prepared anew meanwhile.
            meta = meta_in(bucket, name)
            if _is_copy(folder, name, meta):
                return
            try:
                with all_or_nothing(folder, name) as temporary:
                    _download(bucket / name, temporary, progress)
                    (temporary / "meta.json").write_bytes(meta)
                    _check(dataset_of(name, temporary, meta, bucket.uri))
            except _DamagedError as error:
                if attempt == 2:
                    raise
                log.warning("%s arrived damaged from %s, and is fetched again: %s", name, bucket, error)
            else:
                log.info("fetched %s from %s to %s", name, bucket, folder)
                return


def _check(dataset: Dataset) -> None:
    try:
        dataset.check_fingerprints()
    except InputError as error:
        raise _DamagedError(str(error)) from error


def meta_in(bucket: Location, name: str) -> bytes:
    """The ``meta.json`` of ``name``. Raises ``ValueError`` where it is not prepared there."""
    try:
        with _answering(bucket):
            return (bucket / name / "meta.json").read_bytes()
    except FileNotFoundError:
        refuse_unprepared(bucket.uri, name, _names_in(bucket))


def _names_in(bucket: Location) -> list[str]:
    with _answering(bucket):
        return [name for name in bucket.names() if (bucket / name / "meta.json").exists()]


def _is_copy(folder: Path, name: str, meta: bytes) -> bool:
    """Whether ``name`` is in ``folder``, with this ``meta.json``, and none of its files cut off."""
    if not is_prepared(folder, name) or (folder / name / "meta.json").read_bytes() != meta:
        return False
    try:
        open_dataset(folder, name)
    except InputError:
        return False
    return True


def _download(source: Location, target: Path, progress: bool) -> None:
    sizes = {file: _size(source / file) for file in FILES}
    total = sum(sizes.values())
    with byte_progress(progress and total >= _BIG) as bar:
        task = bar.add_task(f"fetch {source.name}", total=total)
        for file in FILES:
            (target / file).parent.mkdir(exist_ok=True)
            with open(target / file, "wb") as copy:
                for start in range(0, sizes[file], CHUNK):
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
    """`CHUNK` bytes from ``start``, or those up to the end. Opened for each: so one that is cut off is read again."""

    def read() -> bytes:
        with file.filesystem.open_input_file(file.path) as opened:
            return opened.read_at(CHUNK, start)

    # Only what the bucket says: an error of the disk that it is written to is another one.
    try:
        with _answering(file):
            return retry(file.uri, read, is_local=False)
    except FileNotFoundError as error:
        raise _DamagedError(f"{file} is missing.") from error


@contextlib.contextmanager
def _answering(place: Location) -> Iterator[None]:
    """Turn what a bucket answers into a message; that something is not there stays ``FileNotFoundError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"data in {place} cannot be read: {error}. Check the network, the credentials and what they allow, or give "
            "another --data."
        ) from error
