"""Where results live: one small interface over local folders, S3, GCS and whatever else fsspec opens.

A file appears whole or not at all. Object stores give that by themselves; on a local or network filesystem the bytes go
to a hidden temporary name in the same folder, reach the disk, and are renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs

from mdssl.errors import InputError


@dataclass(frozen=True)
class Location:
    """A file or folder in some storage. ``Location.of(uri) / "leaderboard"`` walks down.

    Attributes:
        filesystem: the pyarrow filesystem that opens it.
        path: its path inside that filesystem.
        uri: what a user would type to reach it, with its scheme (``s3://…``), or an absolute local path.
    """

    filesystem: pyarrow.fs.FileSystem
    path: str
    uri: str

    @classmethod
    def of(cls, uri: str | Path | Location) -> Location:
        """Open ``uri``: a local path, or a URI that pyarrow's filesystems or fsspec know.

        Raises:
            ValueError: the scheme is unknown, or needs a package that is not installed.
        """
        if isinstance(uri, Location):
            return uri
        uri = str(uri)
        if "://" not in uri:
            path = str(Path(uri).expanduser().absolute())
            return cls(pyarrow.fs.LocalFileSystem(), path, path)
        try:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            # A scheme that pyarrow does not know; or one that it does, wrongly written, and then its word counts too.
            filesystem, path = _from_fsspec(uri, str(error))
        except OSError as error:
            raise InputError(
                f"storage {uri!r} cannot be opened: {error}. Check the bucket's name, the network and the credentials, "
                "or give another --storage."
            ) from error
        if isinstance(filesystem, pyarrow.fs.LocalFileSystem):
            uri = path
        return cls(filesystem, path.rstrip("/"), uri.rstrip("/"))

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.uri}/{name}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        return Location(self.filesystem, self.path.rsplit("/", 1)[0], self.uri.rsplit("/", 1)[0])

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type != pyarrow.fs.FileType.NotFound

    def names(self) -> list[str]:
        """The names directly inside this folder, sorted, hidden ones left out; empty where there is no folder."""
        return list(self.listing())

    def listing(self) -> dict[str, pyarrow.fs.FileInfo]:
        """What is known of each of `names` without opening it, such as ``size`` and ``mtime_ns``; one call for all."""
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True)
        found = {info.base_name: info for info in self.filesystem.get_file_info(selector)}
        return {name: found[name] for name in sorted(found) if not name.startswith((".", "_"))}

    def now_ns(self) -> int | None:
        """The time by the clock of those who keep this folder, as `listing` tells it: ns since 1970 UTC.

        None where they do not tell when files were written. A hidden file is written for it, and deleted.
        """
        clock = self / f".clock-{uuid.uuid4().hex[:8]}"
        try:
            clock.write_bytes(b"")
            return self.filesystem.get_file_info(clock.path).mtime_ns
        finally:
            clock.delete()

    def read_bytes(self) -> bytes:
        """The whole file. Raises ``FileNotFoundError`` where there is none."""
        with self.filesystem.open_input_file(self.path) as file:
            return file.read()

    def write_bytes(self, data: bytes) -> None:
        """Write the whole file, or leave what was there before untouched."""
        if not self.is_local:
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(data)
            return
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Hidden, so that nobody who lists or reads the folder meanwhile takes it for a result.
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove this file, or this folder with all that is in it. Nothing there is fine."""
        kind = self.filesystem.get_file_info(self.path).type
        if self.is_local and kind == pyarrow.fs.FileType.Directory:
            shutil.rmtree(self.path, ignore_errors=False)
        elif kind == pyarrow.fs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif kind != pyarrow.fs.FileType.NotFound:
            self.filesystem.delete_file(self.path)

    def check_writable(self) -> None:
        """Raise ``ValueError`` unless a file can be made here; leaves nothing behind but the folder itself."""
        probe = self / f".writable-{uuid.uuid4().hex[:8]}"
        try:
            probe.write_bytes(b"")
            probe.delete()
        except OSError as error:
            raise InputError(
                f"storage {self.uri!r} cannot be written: {error}. Give a writable folder or bucket with --storage "
                "or MDSSL_STORAGE."
            ) from error


def _from_fsspec(uri: str, pyarrow_says: str) -> tuple[pyarrow.fs.FileSystem, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"storage {uri!r} cannot be opened: {error} (pyarrow: {pyarrow_says}). Give a local path, s3://…, gs://…, "
            "or a URI that an installed fsspec filesystem opens."
        ) from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), path
