"""`AppendFile`: its content is visible while it grows, on a disk and in an object store; errors are only warnings."""

import time
import uuid

import pytest

from mdssl.storage import append_file as growing_file
from mdssl.storage.append_file import AppendFile
from mdssl.storage.location import Location


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    """A file on a disk, or on a filesystem that, like an object store, only accepts whole files."""
    folder = tmp_path if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    return Location.of(folder) / "trials" / "log.txt"


def test_no_file_is_made_without_a_write(place):
    with AppendFile(place):
        pass
    assert not place.exists()


def test_closed_file_has_all_written_bytes(place):
    with AppendFile(place) as file:
        for number in range(100):
            file.write(b"%d\n" % number)
    assert place.read_bytes().split() == [b"%d" % number for number in range(100)]


def test_written_bytes_are_visible_before_the_file_is_closed(place, monkeypatch):
    monkeypatch.setattr(growing_file, "RENEW_SECONDS", 0.05)
    with AppendFile(place) as file:
        for expected in (b"first ", b"first second "):
            file.write(expected.split()[-1] + b" ")
            deadline = time.monotonic() + 30
            while not (place.exists() and place.read_bytes() == expected):
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_unwritable_file_gives_one_warning(tmp_path, caplog):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with AppendFile(Location.of(tmp_path / "taken" / "log.txt")) as file:
        file.write(b"first")
        file.write(b"second")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be written" in caplog.text
