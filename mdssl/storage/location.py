"""One interface for files on local disks, S3, GCS and every other filesystem that fsspec opens.

A file appears whole or not at all. Object stores guarantee that; on other filesystems the bytes are written to a hidden
temporary name in the same folder, synced to the disk, and renamed. Requests are retried as `mdssl.storage.retry` says.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow.fs

from mdssl.errors import InputError
from mdssl.storage.filesystems import OBJECT_STORES, open_uri, write_if_absent
from mdssl.storage.retry import is_transient, retry, retrying

_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}

T = TypeVar("T")


@dataclass(frozen=True)
class Location:
    """A file or folder of a storage. ``Location.of(uri) / "name"`` is one that lies in it.

    Attributes:
        filesystem: the pyarrow filesystem that opens it.
        path: its path in that filesystem.
        uri: as a user types it, with its scheme (``s3://…``), or an absolute local path.
    """

    filesystem: pyarrow.fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str | Path | Location) -> Location:
        """The location of a local path, or of a URI that pyarrow's filesystems or fsspec know.

        Raises:
            InputError: the name is empty, or `mdssl.storage.filesystems.open_uri` raises it.
        """
        if isinstance(uri, Location):
            return uri
        uri = str(uri)
        if not uri.strip():
            raise InputError(
                "the name of a folder or bucket is empty; check that the variables on the command line are set."
            )
        if "://" not in uri:
            path = str(Path(uri).expanduser().absolute())
            return cls(pyarrow.fs.LocalFileSystem(), path, path)
        filesystem, path = open_uri(uri)
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            uri = path
        return cls(filesystem, path.rstrip("/"), uri.rstrip("/"))

    def __truediv__(self, name: str) -> Location:
        place, options = self._split_uri()
        return Location(self.filesystem, f"{self.path}/{name}", f"{place}/{name}{options}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        place, options = self._split_uri()
        return Location(self.filesystem, self.path.rsplit("/", 1)[0], place.rsplit("/", 1)[0] + options)

    def _split_uri(self) -> tuple[str, str]:
        """The URI up to its options, as in ``s3://…?region=…``, and those."""
        place, mark, options = ("" if self.is_local else self.uri).partition("?")
        return (place, mark + options) if mark else (self.uri, "")

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def exists(self) -> bool:
        info = self._retry(lambda: self.filesystem.get_file_info(self.path))
        return info.type != pyarrow.fs.FileType.NotFound

    def may_come_back(self, error: OSError) -> bool:
        """Whether an operation that failed with ``error`` may succeed in some minutes."""
        return is_transient(error, is_local=self.is_local)

    def names(self) -> list[str]:
        """The names directly in this folder, sorted, without hidden ones; empty if there is no folder."""
        return list(self.listing())

    def listing(self) -> dict[str, pyarrow.fs.FileInfo]:
        """`names` with the properties of each file, such as ``size`` and ``mtime_ns``, by one request."""
        found = {info.base_name: info for info in self._infos()}
        return {name: found[name] for name in sorted(found) if not name.startswith((".", "_"))}

    def files(self) -> list[str]:
        """The relative paths of all files in this folder and below, sorted, with hidden ones."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """The size of each of `files`, in bytes, by relative path."""
        found = [info for info in self._infos(recursive=True) if info.type != pyarrow.fs.FileType.Directory]
        return {info.path.removeprefix(f"{self.path}/"): info.size or 0 for info in found}

    def _infos(self, *, recursive: bool = False) -> list[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        return self._retry(lambda: self.filesystem.get_file_info(selector))

    def now_ns(self) -> int | None:
        """The time by the storage's clock, as in `listing`: ns since 1970 UTC; None if the storage has no times.

        Writes a hidden file, and deletes it.
        """
        clock = self / f".clock-{uuid.uuid4().hex[:8]}"
        try:
            clock.write_bytes(b"")
            return self._retry(lambda: self.filesystem.get_file_info(clock.path)).mtime_ns
        finally:
            clock.delete()

    def read_bytes(self) -> bytes:
        """The whole file. Raises ``FileNotFoundError`` where there is none."""
        return self._retry(self._read)

    def _read(self) -> bytes:
        try:
            with self.filesystem.open_input_file(self.path) as file:
                return file.read()
        except OSError as error:
            # S3 looks the object up first and then gets it; one that vanishes in between is a separate error.
            if isinstance(error, NotADirectoryError) or "NO_SUCH_KEY" in str(error):
                raise FileNotFoundError(self.uri) from error
            raise

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, or leave the previous one untouched."""
        self._retry(lambda: self._write(data))

    def _write(self, data: bytes) -> None:
        if not self.is_local:
            self._write_elsewhere(data)
            return
        # Where a link leads, which stays a link.
        target = Path(os.path.realpath(self.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that nobody who lists or reads the folder meanwhile takes it for a result.
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            _write_synced(temporary, data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _write_elsewhere(self, data: bytes) -> None:
        if self.filesystem.type_name in OBJECT_STORES:
            self._stream(data)
            return
        temporary = self.parent / f".{self.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.filesystem.create_dir(self.parent.path, recursive=True)
            temporary._stream(data)
            self.filesystem.move(temporary.path, self.path)
        except BaseException:
            with suppress(OSError):
                temporary._delete()
            raise

    def _stream(self, data: bytes) -> None:
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(data)

    def write_new(self, data: bytes) -> bool:
        """Write the whole file if there is none; of several callers at once, exactly one gets True.

        ``data`` must differ between callers, for example by a random token: a caller that finds its own data has
        written them by a request whose answer was lost.
        """
        return self._retry(lambda: self._write_new(data))

    def _write_new(self, data: bytes) -> bool:
        is_new = self._link_new(data) if self.is_local else write_if_absent(self.filesystem, self.path, data)
        try:
            return is_new or self._read() == data
        except FileNotFoundError:
            return False

    def _link_new(self, data: bytes) -> bool:
        target = Path(self.path)
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                _write_synced(temporary, data)
                # Unlike a rename this fails where there is a file, on network filesystems too.
                os.link(temporary, target)
                return True
            except FileNotFoundError:
                continue  # `clear_temporaries` has taken it for one that was left
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return _write_exclusively(target, data)
            finally:
                temporary.unlink(missing_ok=True)

    def clear_temporaries(self, name: str = "") -> None:
        """Delete the temporary files of killed writers in this folder, or only those of its file ``name``.

        Only for a caller that knows that nobody writes there now. Object stores have none.
        """
        if self.filesystem.type_name in OBJECT_STORES:
            return
        ours = re.compile(rf"\.{re.escape(name)}.*\.[0-9a-f]{{8}}\.tmp")
        if self.is_local:
            # The properties of thousands of files take several times as long as their names.
            names = self._retry(lambda: [file.name for file in Path(self.path).glob(".*.tmp")])
        else:
            names = [info.base_name for info in self._infos()]
        for found in filter(ours.fullmatch, names):
            (self / found).delete()

    def move(self, target: Location) -> None:
        """Move this file to ``target`` in the same filesystem, and replace a file there."""
        if self.filesystem.type_name not in OBJECT_STORES:
            self._retry(lambda: self.filesystem.create_dir(target.parent.path, recursive=True))
        self._retry(lambda: self.filesystem.move(self.path, target.path))

    def delete(self) -> None:
        """Delete this file, or this folder with all its content, if it exists."""
        self._retry(self._delete)

    def _delete(self) -> None:
        kind = self.filesystem.get_file_info(self.path).type
        if self.is_local and kind == pyarrow.fs.FileType.Directory:
            shutil.rmtree(self.path, ignore_errors=False)
        elif kind == pyarrow.fs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif kind != pyarrow.fs.FileType.NotFound:
            # Another process may have deleted it since.
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path)

    def check_writable(self, setting: str = "--storage or MDSSL_STORAGE", what: str = "storage") -> None:
        """Raise ``InputError`` unless a file can be written in this folder, which is made.

        Args:
            setting: with which the user named this folder.
            what: the kind of folder, for the message.
        """
        probe = self / f".writable-{uuid.uuid4().hex[:8]}"
        try:
            # A full disk is an error at the start; requests to a bucket that is unavailable are retried.
            with retrying(0) if self.is_local else nullcontext():
                # Some bytes: a full disk takes an empty file.
                probe.write_bytes(bytes(4096))
                probe.delete()
        except OSError as error:
            raise InputError(
                f"{what} {self.uri!r} cannot be written: {error}. Give a writable folder or bucket with {setting}."
            ) from error

    def _retry(self, action: Callable[[], T]) -> T:
        return retry(self.uri, action, is_local=self.is_local)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_exclusively(target: Path, data: bytes) -> bool:
    """Where there are no hard links: readers may see the file before all of it is written."""
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        target.unlink()
        raise
    return True
