"""From a URI to the filesystem that opens it: pyarrow's own, or one of fsspec's; and the write that pyarrow lacks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow.fs

from mdssl.errors import InputError
from mdssl.storage.retry import StorageLostError, retry

if TYPE_CHECKING:
    from opendal import Operator

OBJECT_STORES = {"s3", "gcs", "abfs"}
"""Filesystems of pyarrow in which a file appears whole when it has been written."""
_OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=60", "gcs": "retry_limit_seconds=60"}
"""On S3 one request for a small file instead of three; on GCS a minute, not fifteen, until it is said that nobody
answers."""
_WRITE_SECONDS = 15.0
"""How long one conditional write may take."""

_found: set[tuple[str, str]] = set()


def open_uri(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem of ``uri``, and the path in it.

    Raises:
        ValueError: the scheme is unknown, or needs a package that is not installed; or the bucket does not exist, or
            does not let us in.
        StorageLostError: it did not answer within the patience.
    """
    try:
        return retry(uri, lambda: _open_by_pyarrow(uri), is_local=False)
    except StorageLostError:
        raise
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        # A scheme that pyarrow does not know; or one that it does, wrongly written, and then its word counts too.
        return _from_fsspec(uri, str(error))
    except OSError as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error}. Check the bucket's name, the network, the credentials and "
            "what they allow."
        ) from error


def _open_by_pyarrow(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    # Both ask the server, the first for the bucket's region where nobody says it.
    filesystem, path = pyarrow.fs.FileSystem.from_uri(_with_our_options(uri))
    _check_bucket(filesystem, path.split("/")[0], uri)
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


def write_if_absent(filesystem: pyarrow.fs.FileSystem, path: str, data: bytes) -> bool:
    """Write a small file unless there is one; whether it was written.

    S3 and GCS decide it in one request, and a filesystem of fsspec when it opens the file. Azure and HDFS offer it
    neither in pyarrow nor here: of two that write at the same moment both are told that they did, and the last counts.

    Raises:
        OSError: the request failed, or its answer was lost, and then the file may be there.
    """
    if filesystem.type_name in ("s3", "gcs"):
        return _put_if_absent(filesystem, path, data)
    if isinstance(filesystem, pyarrow.fs.PyFileSystem):
        files = filesystem.handler.fs
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
        # The message goes on with the request's headers and a backtrace.
        raise kind(str(error).partition("\n")[0]) from error
    except (exceptions.Error, exceptions.NotFound, exceptions.ConfigInvalid, exceptions.Unsupported) as error:
        why = str(error).partition("\n")[0]
        raise InputError(
            f"{path} cannot be written if it is absent: {why}. Check the bucket and its settings."
        ) from error
    return True


def _settings(filesystem: pyarrow.fs.FileSystem) -> dict[str, str]:
    """What pyarrow's client was given, by the URI and the environment, in OpenDAL's words.

    Credentials that the URI does not have both clients find by themselves, where AWS and Google document them: in the
    environment, in profiles, at a service of the machine.
    """
    _, (given,) = filesystem.__reduce__()
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
