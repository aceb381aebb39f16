"""Preparing a dataset for a bucket: on this machine first, in the folder of copies, and then up, ``meta.json`` last."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import Dataset
from mdssl.data.local_copy import CHUNK, FILES, bucket_of, fetch, folder_of, is_prepared_in, meta_in
from mdssl.data.prepare import prepare
from mdssl.data.progress import byte_progress
from mdssl.data.staging import DATASET
from mdssl.errors import InputError
from mdssl.storage.filesystems import OBJECT_STORES
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_replaceable
from mdssl.storage.retry import retry, retrying


def prepare_in(
    data: str | Path, name: str, *, overwrite: bool = False, progress: bool = True, **settings: Any
) -> Dataset:
    """`prepare`, for a bucket as well; what it is given, and whatever else it raises, is said there.

    Built-in domains do not go into a bucket: every machine makes them by itself.

    Raises:
        ValueError: the bucket cannot be written.
    """
    bucket, folder = bucket_of(data), folder_of(data)
    if bucket is None or name in BUILTIN:
        return prepare(name, data=folder, overwrite=overwrite, progress=progress, **settings)
    is_there = is_prepared_in(data, name)
    if overwrite or not is_there:
        check_replaceable(bucket / name, DATASET)
    bucket.check_writable("--data or MDSSL_DATA")
    if is_there and not overwrite:
        fetch(bucket, folder, name, progress=progress)
    dataset = prepare(name, data=folder, overwrite=overwrite, progress=progress, **settings)
    if not is_there or meta_in(bucket, name) != (dataset.path / "meta.json").read_bytes():
        _upload(dataset.path, bucket / name, progress)
    return dataset


@retrying()
def _upload(folder: Path, target: Location, progress: bool) -> None:
    """Without ``meta.json`` a dataset is not there, so nobody takes half of the old and half of the new for one."""
    try:
        (target / "meta.json").delete()
        with byte_progress(progress) as bar:
            task = bar.add_task(f"upload {target.name}", total=sum((folder / file).stat().st_size for file in FILES))
            for file in FILES:
                retry(target.uri, partial(_upload_file, folder / file, target / file, bar, task), is_local=False)
        (target / "meta.json").write_bytes((folder / "meta.json").read_bytes())
    except OSError as error:
        raise InputError(
            f"dataset {target.name!r} cannot be uploaded to {target.parent}: {error}. It is prepared in {folder}; the "
            "same command uploads it."
        ) from error


def _upload_file(source: Path, target: Location, bar: Progress, task: TaskID) -> None:
    if target.filesystem.type_name not in OBJECT_STORES:
        target.filesystem.create_dir(target.parent.path, recursive=True)
    sent = 0
    try:
        with open(source, "rb") as file, target.filesystem.open_output_stream(target.path) as stream:
            while chunk := file.read(CHUNK):
                stream.write(chunk)
                bar.advance(task, len(chunk))
                sent += len(chunk)
    except OSError:
        bar.advance(task, -sent)
        raise
