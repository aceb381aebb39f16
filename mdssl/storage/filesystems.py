"""The filesystem of a URI, pyarrow's own or one of fsspec's, and the conditional write that pyarrow lacks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow.fs

from mdssl.errors import InputError
from mdssl.storage.retry import StorageLostError, retry

if TYPE_CHECKING:
    from opendal import Operator

OBJECT_STORES = {"s3", "gcs", "abfs"}
"""Filesystems of pyarrow in which files appear whole."""
_OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=60", "gcs": "retry_limit_seconds=60"}
"""On S3, one request for a small file instead of three; on GCS, an error after a minute without an answer, not
fifteen."""
_WRITE_SECONDS = 15.0
"""How long one conditional write may take."""

_found: set[tuple[str, str]] = set()


def file_name(uri: str) -> str:
    """The name of the file ``uri``, a local path or a URI with or without options. Its storage is not asked."""
    path = uri.partition("?")[0] if "://" in uri else uri
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def open_uri(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem of ``uri``, and the path in it.

    Raises:
        InputError: the scheme is unknown or needs a package that is not installed, or the bucket does not exist or
            denies access.
        StorageLostError: it did not answer in time.
    """
    try:
        return retry(uri, lambda: _open_by_pyarrow(uri), is_local=False)
    except StorageLostError:
        raise
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        if uri.partition("://")[0] in _OPTIONS and isinstance(error, pyarrow.ArrowInvalid):
            # fsspec would take a wrong parameter for a part of the path.
            raise InputError(f"storage {uri!r} cannot be opened: {error}. Correct the address.") from error
        # pyarrow does not support the scheme.
        return _from_fsspec(uri, str(error))
    except OSError as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error}. Check the bucket's name, the network, the credentials and "
            "their permissions."
        ) from error


def _open_by_pyarrow(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    # Both ask the server, the first for the bucket's region if it is not given.
    filesystem, path = pyarrow.fs.FileSystem.from_uri(_with_our_options(uri))
    _check_bucket(filesystem, path.split("/")[0], uri)
    return filesystem, path


def _with_our_options(uri: str) -> str:
    option = _OPTIONS.get(uri.partition("://")[0], "")
    if not option or option.partition("=")[0] in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{option}"


def _check_bucket(filesystem: pyarrow.fs.FileSystem, bucket: str, uri: str) -> None:
    """Check once that each bucket exists, because a missing one looks like an empty folder.

    Raises:
        OSError: it does not answer, or denies access.
    """
    kind = filesystem.type_name
    if kind not in OBJECT_STORES or (kind, bucket) in _found:
        return
    if filesystem.get_file_info(bucket).type == pyarrow.fs.FileType.NotFound:
        raise InputError(
            f"storage {uri!r} cannot be opened: there is no bucket {bucket!r}. Check its name, or create it first."
        )
    _found.add((kind, bucket))


def _from_fsspec(uri: str, pyarrow_says: str) -> tuple[pyarrow.fs.FileSystem, str]:
    import fsspec

    try:
        # A cached listing would hide what other processes write.
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error} (pyarrow: {pyarrow_says}). Give a local path, s3://…, gs://…, "
            "or a URI that an installed fsspec filesystem opens."
        ) from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path  # type: ignore[abstract]


def write_if_absent(filesystem: pyarrow.fs.FileSystem, path: str, data: bytes) -> bool:
    """Write a small file if there is none; returns whether it was written.

    On S3 and GCS this is one request, on fsspec's filesystems an exclusive open. Azure and HDFS have neither: if two
    processes write at the same moment, both get True, and the last file stays.

    Raises:
        OSError: the request failed, or its answer was lost; in that case the file may have been written.
    """
    if filesystem.type_name in ("s3", "gcs"):
        return _put_if_absent(filesystem, path, data)
    if isinstance(filesystem, pyarrow.fs.PyFileSystem):
        assert isinstance(filesystem.handler, pyarrow.fs.FSSpecHandler)
        files: Any = filesystem.handler.fs
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            with files.open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.NotFound:
        return False
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)
    return True


def _put_if_absent(filesystem: pyarrow.fs.FileSystem, path: str, data: bytes) -> bool:
    from opendal import exceptions

    bucket, _, key = path.partition("/")
    try:
        _client(filesystem.type_name, bucket, **_settings(filesystem)).write(key, data, if_not_exists=True)
    except exceptions.ConditionNotMatch:
        return False
    except (exceptions.Unexpected, exceptions.RateLimited, exceptions.Conflict, exceptions.PermissionDenied) as error:
        kind = PermissionError if isinstance(error, exceptions.PermissionDenied) else OSError
        # Without the request's headers and the backtrace that follow.
        raise kind(str(error).partition("\n")[0]) from error
    except (exceptions.Error, exceptions.NotFound, exceptions.ConfigInvalid, exceptions.Unsupported) as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be written if it is absent: {why}. Check the bucket and its settings."
        ) from error
    return True


def _settings(filesystem: pyarrow.fs.FileSystem) -> dict[str, str]:
    """The settings of pyarrow's client, from the URI and the environment, under OpenDAL's names.

    Both clients find credentials that are not in the URI as AWS and Google document it: in the environment, in
    profiles, from the machine's metadata service.
    """
    reduced: Any = filesystem.__reduce__()
    _, (given,) = reduced
    endpoint, region = given["endpoint_override"], getattr(filesystem, "region", None)
    if endpoint and "://" not in endpoint:
        endpoint = f"{given['scheme']}://{endpoint}"
    settings = {
        "endpoint": endpoint,
        "region": region,
        "access_key_id": given.get("access_key"),
        "secret_access_key": given.get("secret_key"),
        "skip_signature": "true" if given["anonymous"] else None,
    }
    return {name: value for name, value in settings.items() if value}


@lru_cache(maxsize=8)
def _client(kind: str, bucket: str, **settings: str) -> Operator:
    from opendal import Operator, layers

    return Operator(kind, bucket=bucket, **settings).layer(layers.TimeoutLayer(_WRITE_SECONDS, _WRITE_SECONDS))
