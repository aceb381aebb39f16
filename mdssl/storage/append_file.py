"""A file to which one process appends while others read it, such as a log."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import BinaryIO

from mdssl.storage.location import Location
from mdssl.storage.retry import retrying

log = logging.getLogger(__name__)

RENEW_SECONDS = 30.0
"""Interval at which a file in an object store, where nothing can be appended, is written again."""


class AppendFile:
    """A context manager. The first `write` creates the file.

    On a local or network filesystem bytes are appended at once. In an object store the whole file is written every
    `RENEW_SECONDS` and at the end. A file that cannot be written is closed with a warning.
    """

    def __init__(self, place: Location):
        self.place = place
        self._file: BinaryIO | None = None
        self._data, self._saved = bytearray(), 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._renewing: threading.Thread | None = None
        self._given_up = False

    def write(self, data: bytes) -> None:
        if self._given_up or self._closed.is_set():
            return
        if not self.place.is_local:
            self._keep(data)
            return
        try:
            if self._file is None:
                path = Path(self.place.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            self._file.write(data)
        except OSError as error:
            self._given_up = True
            log.warning("%s cannot be written (%s); training continues without it", self.place, error)

    def close(self) -> None:
        """Write the remaining data to the storage, if it is available."""
        self._closed.set()
        if self._file:
            self._file.close()
        if self._renewing:
            self._renewing.join()
            self._renew()

    def __enter__(self) -> AppendFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self, data: bytes) -> None:
        with self._lock:
            self._data += data
        if self._renewing is None:
            self._renewing = threading.Thread(target=self._renew_often, name=f"renew-{self.place.name}", daemon=True)
            self._renewing.start()

    def _renew_often(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            data = bytes(self._data)
        if len(data) == self._saved:
            return
        try:
            with retrying(0):
                self.place.write_bytes(data)
            self._saved = len(data)
        except OSError as error:
            # The next renewal may succeed.
            log.debug("%s could not be renewed: %s", self.place, error)
