"""Retries: requests to a full or unavailable storage are repeated within `retrying`, and only there."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
import uuid

import fsspec
import pyarrow.fs
import pytest

from mdssl.errors import StoppedError
from mdssl.storage import retry as retries
from mdssl.storage.location import Location
from mdssl.storage.retry import StorageLostError, in_threads, retrying

FULL = OSError(errno.ENOSPC, "No space left on device")
AWAY = OSError("When reading information: AWS Error NETWORK_CONNECTION during HeadObject operation")


class Flaky:
    """Raises ``error`` in its first ``times`` calls."""

    def __init__(self, error, times):
        self.error, self.left = error, times

    def __call__(self):
        if self.left:
            self.left -= 1
            raise self.error


class FlakyHandler(pyarrow.fs.FSSpecHandler):
    """fsspec's handler as an object store; each request first calls ``fault``."""

    def __init__(self, filesystem, fault):
        super().__init__(filesystem)
        self.fault = fault


for method in ("get_file_info", "get_file_info_selector", "open_input_file", "open_output_stream", "delete_file"):

    def _request(self, *arguments, _method=method, **named):
        self.fault()
        return getattr(pyarrow.fs.FSSpecHandler, _method)(self, *arguments, **named)

    setattr(FlakyHandler, method, _request)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)


@pytest.fixture
def bucket():
    """A function that makes a folder in an object store, and the fault that its requests meet."""

    def make(error, times):
        fault = Flaky(error, 0)
        filesystem = pyarrow.fs.PyFileSystem(FlakyHandler(fsspec.filesystem("memory"), fault))
        folder = Location(filesystem, f"/{uuid.uuid4().hex}", "s3://bucket")
        (folder / "a").write_bytes(b"one")
        fault.error, fault.left = error, times
        return folder, fault

    return make


def full_disk(monkeypatch, error, times):
    fault, fsync = Flaky(error, times), os.fsync

    def sync(descriptor):
        fault()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    return fault


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_local_write_is_retried_with_one_warning(tmp_path, monkeypatch, caplog, code):
    fault = full_disk(monkeypatch, OSError(code, os.strerror(code)), times=4)
    with retrying(60):
        (Location.of(tmp_path) / "row").write_bytes(b"new")
    assert fault.left == 0
    assert (tmp_path / "row").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["row"]
    assert [caplog.text.count(words) for words in ("retrying for up to 1 min", "is available again")] == [1, 1]


FULL_TMPFS = """
import os, sys, threading, time
from mdssl.storage.retry import retrying
from mdssl.storage.location import Location
folder = sys.argv[1]
filler = open(f"{folder}/filler", "wb", buffering=0)
try:
    while True:
        filler.write(bytes(4096))
except OSError as error:
    print(error.strerror)
file = Location.of(folder) / "row"
try:
    file.write_bytes(bytes(100_000))
except OSError as error:
    print(error.strerror, os.listdir(folder))
threading.Timer(1, lambda: os.truncate(f"{folder}/filler", 0)).start()
with retrying(60):
    file.write_bytes(bytes(100_000))
print(len(file.read_bytes()), sorted(os.listdir(folder)))
"""


def in_full_disk(folder):
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, folder]
    return subprocess.run([*command, sys.executable, "-c", FULL_TMPFS, folder], capture_output=True, text=True)


def may_mount(folder):
    try:
        command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", folder]
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_write_to_a_full_disk_is_retried_until_there_is_space(tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a disk of one's own")
    lines = in_full_disk(tmp_path)
    full = "No space left on device"
    assert lines.stdout.splitlines() == [full, f"{full} ['filler']", "100000 ['filler', 'row']"], lines.stderr


@pytest.mark.parametrize("action", ["read", "write", "list", "exists", "delete"])
def test_request_to_an_object_store_is_retried(bucket, action):
    folder, fault = bucket(AWAY, times=3)
    with retrying(60):
        if action == "read":
            assert (folder / "a").read_bytes() == b"one"
        elif action == "write":
            (folder / "b").write_bytes(b"two")
        elif action == "list":
            assert folder.names() == ["a"]
        elif action == "exists":
            assert (folder / "a").exists()
        else:
            (folder / "a").delete()
    assert fault.left == 0
    assert folder.names() == {"write": ["a", "b"], "delete": []}.get(action, ["a"])


def test_message_of_a_lost_storage_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "row").write_bytes(b"old")
    full_disk(monkeypatch, FULL, times=10**6)
    with (
        retrying(0.2),
        pytest.raises(StorageLostError, match=r"row was unavailable for .* No space left.*--retry-failed"),
    ):
        (Location.of(tmp_path) / "row").write_bytes(b"new")
    assert (tmp_path / "row").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["row"]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), OSError("AWS Error ACCESS_DENIED during PutObject operation")]
)
def test_permanent_error_is_not_retried(bucket, error):
    folder, fault = bucket(error, times=5)
    with retrying(60), pytest.raises(OSError) as raised:
        (folder / "a").read_bytes()
    assert not isinstance(raised.value, StorageLostError)
    assert fault.left >= 3, "there was one attempt (and a check for the file)"


def test_missing_file_is_not_retried(tmp_path):
    with retrying(60), pytest.raises(FileNotFoundError):
        (Location.of(tmp_path) / "nothing").read_bytes()


def test_requests_outside_retrying_and_check_writable_are_not_retried(bucket, tmp_path, monkeypatch):
    folder, fault = bucket(AWAY, times=9)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        folder.names()
    assert fault.left == 8
    fault = full_disk(monkeypatch, FULL, times=9)
    with retrying(60), pytest.raises(ValueError, match="cannot be written: .*No space left"):
        Location.of(tmp_path).check_writable()
    assert fault.left == 8, "check_writable fails at once"


@pytest.mark.parametrize("patient", [True, False])
def test_threads_inherit_retrying(bucket, patient):
    place, _ = bucket(AWAY, times=2)
    with contextlib.nullcontext() if patient else pytest.raises(OSError):  # noqa: SIM117
        with retrying(60 if patient else 0):
            assert in_threads(lambda name: (place / name).exists(), ["a", "b", "c"]) == [True, False, False]


def test_retries_do_not_depend_on_the_wall_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e12)
    full_disk(monkeypatch, FULL, times=4)
    with retrying(60):
        (Location.of(tmp_path) / "row").write_bytes(b"new")
    assert (tmp_path / "row").read_bytes() == b"new"


def test_a_request_to_stop_ends_retries_and_all_later_requests_at_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "_SECONDS_AFTER_STOP", 0.1)
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 50.0)
    (folder, fault), stop = bucket(AWAY, times=10**6), threading.Event()
    threading.Timer(0.3, stop.set).start()
    begun = time.monotonic()
    with retrying(60, stop_requested=stop.is_set):
        with retrying(50, stop_requested=lambda: False), pytest.raises(StoppedError, match=r"is unavailable .*NETWORK"):
            folder.names()
        left = fault.left
        with pytest.raises(StorageLostError, match="not used any more"):
            folder.names()
        assert fault.left == left, "the request was repeated"
        full_disk(monkeypatch, FULL, times=1)
        with pytest.raises(OSError, match="No space left"):
            (Location.of(tmp_path) / "row").write_bytes(b"new")
        (Location.of(tmp_path) / "row").write_bytes(b"new")
    assert 0.3 < time.monotonic() - begun < 5


def test_short_outage_is_retried_after_a_request_to_stop(tmp_path, monkeypatch):
    full_disk(monkeypatch, FULL, times=4)
    with retrying(60, stop_requested=lambda: True):
        (Location.of(tmp_path) / "row").write_bytes(b"new")
    assert (tmp_path / "row").read_bytes() == b"new"


def test_ctrl_c_during_a_retry_makes_later_requests_fail_at_once(bucket, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    folder, fault = bucket(AWAY, times=10**6)
    with retrying(60, stop_requested=lambda: False):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(time, "sleep", interrupt)
            folder.names()
        left = fault.left
        with pytest.raises(StorageLostError, match="not used any more"):
            folder.names()
    assert fault.left == left
