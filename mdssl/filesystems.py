"""From a URI to the filesystem that opens it: pyarrow's own, or one of fsspec's; and whether its bucket is there."""

from __future__ import annotations

import pyarrow.fs

from mdssl.errors import InputError

OBJECT_STORES = {"s3", "gcs", "abfs"}
"""Filesystems of pyarrow in which a file appears whole when it has been written."""
_OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=60", "gcs": "retry_limit_seconds=60"}
"""On S3 one request for a small file instead of three; on GCS a minute, not fifteen, until it is said that nobody
answers."""

_found: set[tuple[str, str]] = set()


def open_uri(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem of ``uri``, and the path in it.

    Raises:
        ValueError: the scheme is unknown, or needs a package that is not installed; or the bucket does not exist, or
            does not let us in.
    """
    try:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(_with_our_options(uri))
        _check_bucket(filesystem, path.split("/")[0], uri)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        # A scheme that pyarrow does not know; or one that it does, wrongly written, and then its word counts too.
        return _from_fsspec(uri, str(error))
    except OSError as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error}. Check the bucket's name, the network, the credentials and "
            "what they allow."
        ) from error
    return filesystem, path


def _with_our_options(uri: str) -> str:
    option = _OPTIONS.get(uri.partition("://")[0], "")
    if not option or option.partition("=")[0] in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{option}"


def _check_bucket(filesystem: pyarrow.fs.FileSystem, bucket: str, uri: str) -> None:
    """Ask once for each bucket whether it is there: to all who look into one that is not, it is an empty folder.

    Raises:
        OSError: it does not answer, or not us.
    """
    kind = filesystem.type_name
    if kind not in OBJECT_STORES or (kind, bucket) in _found:
        return
    if filesystem.get_file_info(bucket).type == pyarrow.fs.FileType.NotFound:
        raise InputError(
            f"storage {uri!r} cannot be opened: there is no bucket {bucket!r}. Check its name, or make it first."
        )
    _found.add((kind, bucket))


def _from_fsspec(uri: str, pyarrow_says: str) -> tuple[pyarrow.fs.FileSystem, str]:
    import fsspec

    try:
        # What others write must be seen at once, which a cached listing would prevent.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error} (pyarrow: {pyarrow_says}). Give a local path, s3://…, gs://…, "
            "or a URI that an installed fsspec filesystem opens."
        ) from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path
