"""Files that grow: seen while they do, on a disk and in an object store, and harmless where they cannot."""

import time
import uuid

import pytest

from mdssl.storage import append_file as growing_file
from mdssl.storage.append_file import AppendFile
from mdssl.storage.location import Location


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    """``memory`` is a filesystem that takes whole files only, as an object store does."""
    folder = tmp_path if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    return Location.of(folder) / "trials" / "log.txt"


def test_nothing_written_makes_no_file(place):
    with AppendFile(place):
        pass
    assert not place.exists()


def test_all_that_was_written_is_there_at_the_end(place):
    with AppendFile(place) as file:
        for number in range(100):
            file.write(b"%d\n" % number)
    assert place.read_bytes().split() == [b"%d" % number for number in range(100)]


def test_what_was_written_is_seen_before_the_end(place, monkeypatch):
    monkeypatch.setattr(growing_file, "RENEW_SECONDS", 0.05)
    with AppendFile(place) as file:
        for expected in (b"first ", b"first second "):
            file.write(expected.split()[-1] + b" ")
            deadline = time.monotonic() + 30
            while not (place.exists() and place.read_bytes() == expected):
                assert time.monotonic() < deadline
                time.sleep(0.01)


def test_a_file_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with AppendFile(Location.of(tmp_path / "taken" / "log.txt")) as file:
        file.write(b"first")
        file.write(b"second")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be written" in caplog.text
