"""Outages of an S3 server that throttles, is unreachable or truncates responses: every request is retried."""

import re
import threading
import time

import pytest
import s3_server

from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local
from mdssl.storage import retry as retries
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.retry import StorageLostError, retrying

FAULTS = {"writes": s3_server.writes, "lists": s3_server.lists, "everything": s3_server.everything, "away": None}


@pytest.fixture
def outage(gate, monkeypatch):
    """A function that starts an outage of some seconds."""
    monkeypatch.setattr(retries, "_LONGEST_PAUSE", 0.5)
    ending = []

    def begin(fault, seconds):
        if FAULTS[fault]:
            gate.refuses = FAULTS[fault]
        else:
            gate.go_away()
        ending.append(threading.Timer(seconds, end, (fault,)))
        ending[-1].start()

    def end(fault):
        if FAULTS[fault]:
            gate.refuses = s3_server.nothing
        else:
            gate.come_back()

    yield begin
    for timer in ending:
        timer.join()


def use(uri):
    """Make every kind of request that a trial makes, including the first."""
    folder = Location.of(uri)
    with Claim(folder / "trials" / "0123456789ab", "a sweep") as claim:
        claim.wait()
        claim.check()
        (folder / "a").write_bytes(b"one")
        assert (folder / "a").exists()
        assert (folder / "a").read_bytes() == b"one"
        assert folder.names() == ["a", "trials"]
        assert folder.now_ns() is not None
        assert (folder / "b").write_new(b"two")
        assert not (folder / "b").write_new(b"three")
        (folder / "a").delete()
    assert (folder / "trials" / "0123456789ab").names() == []


# pyarrow's client itself retries for six seconds.
@pytest.mark.parametrize(
    ("fault", "seconds"),
    [("writes", 8), ("away", 8)]
    + [
        pytest.param(*both, marks=pytest.mark.long)
        for both in [("lists", 8), ("everything", 8), *((each, 180) for each in FAULTS)]
    ],
)
def test_requests_are_retried_until_the_outage_ends(bucket, gate, outage, fault, seconds):
    outage(fault, seconds)
    with retrying(30 + seconds):
        use(f"{bucket}/new")
    assert gate.refused or fault == "away"


@pytest.mark.long
def test_each_request_is_retried_when_it_is_refused(bucket, gate):
    """Each request is refused for longer than pyarrow's client retries."""
    first: dict[tuple[str, str], float] = {}

    def refuses(method, path):
        key = method, re.sub("[0-9a-f]{8,}", "", path)
        return time.monotonic() < first.setdefault(key, time.monotonic()) + 7

    gate.refuses = refuses
    with retrying(60):
        use(f"{bucket}/new")
    assert len(first) > 12


def test_first_request_fails_at_once_without_retrying(bucket, gate):
    gate.refuses = s3_server.everything
    with pytest.raises(ValueError, match=f"storage '{bucket}/new' cannot be opened: .*Check the bucket's name"):
        Location.of(f"{bucket}/new")


def test_message_of_a_permanent_outage_names_the_remedy(bucket, gate):
    gate.refuses = s3_server.everything
    with retrying(1), pytest.raises(StorageLostError, match=rf"{bucket}/new was unavailable for .*--retry-failed"):
        Location.of(f"{bucket}/new")


def test_truncated_download_is_resumed(bucket, gate, tiny_data, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(tmp_path / "cache"))
    s3_server.sync(tiny_data, f"{bucket}/data")
    cut = []

    def cuts(method, path):
        if method != "GET" or not path.endswith("images.npy") or len(cut) == 3:
            return False
        cut.append(path)
        return True

    gate.cuts = cuts
    open_dataset(ensure_local(f"{bucket}/data", ["tiny-a"]), "tiny-a").check_fingerprints()
    assert len(cut) == 3
    assert "was damaged during the transfer" not in caplog.text
