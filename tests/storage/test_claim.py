"""Claims: one process at a time owns a trial, also when owners die or are suspended.

Some tests run on a local folder and on the same folder as an object store: without links and renames, with whole files
and listings only.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from claim_parts import files, located
from processes import wait_for

from mdssl.storage import claim as claims
from mdssl.storage import claim_files
from mdssl.storage.claim import Claim, ClaimLostError, Owner, Watch, holder_of
from mdssl.storage.claim_files import machine, started

pytestmark = pytest.mark.usefixtures("fast")

HOLDER = """
import sys, time
from mdssl.storage import claim
from mdssl.storage.location import Location
claim.BEAT_SECONDS, claim.DEAD_SECONDS, claim.POLL_SECONDS = 0.1, 1.0, 0.05
trial_dir = Location.of(sys.argv[1])
mine = claim.Claim(trial_dir, "first")
mine.wait()
print("held", flush=True)
try:
    while True:
        mine.check()
        time.sleep(0.02)
except claim.ClaimLostError as error:
    print("lost:", error, flush=True)
    mine.release()
"""


@pytest.fixture
def holder(trial_dir):
    """Another process that holds the claim until it loses it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, trial_dir.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


class Clock:
    """Replaces the module ``time``; only `sleep` advances it."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_claim_names_its_owner_and_release_deletes_it(trial_dir):
    first, second = Claim(trial_dir, "lambda_grid"), Claim(trial_dir)
    assert first.take() is None
    there = second.take()
    assert (there.pid, there.sweep, there.token) == (os.getpid(), "lambda_grid", first.token)
    assert str(there).endswith(f":{os.getpid()} (lambda_grid)")
    assert json.loads((trial_dir / "claim.json").read_bytes())["host"] == there.host
    first.release()
    assert files(trial_dir) == []
    assert second.take() is None
    second.release()
    second.release()
    assert files(trial_dir) == []


def test_heartbeat_is_renewed(trial_dir, kind):
    place = located(kind, trial_dir.path)
    with Claim(place) as held:
        held.take()
        beats = [holder_of(place).heartbeat]
        for _ in range(3):
            wait_for(lambda: holder_of(place).heartbeat != beats[-1], 10)
            beats.append(holder_of(place).heartbeat)
        assert sorted(beats) == beats


def test_owner_on_another_machine_is_dead_when_its_heartbeat_stops(trial_dir, monkeypatch):
    (trial_dir / "claim.json").write_new(Owner("far", "elsewhere", 1, "another boot", 1, "", "2050-01-01").to_bytes())
    told, clock = [], Clock()
    monkeypatch.setattr(claims, "time", clock)
    with Claim(trial_dir) as claim:
        claim.wait(told.append)
        assert 1 <= clock.now < 1.1
        assert [owner.host for owner in told] == ["elsewhere"]
    assert files(trial_dir) == []


def test_owner_is_not_dead_after_a_gap_between_looks(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    assert not watch.look(owner, now)
    now += 100
    assert not watch.look(owner, now), "the storage may have been unavailable to both processes"
    for _ in range(4):
        now += 0.4
        is_dead = watch.look(owner, now)
    assert is_dead
    assert watch.dead == owner


def test_rare_looks_also_detect_a_dead_owner(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner, seen = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00"), []
    for _ in range(5):
        seen.append(watch.look(owner, now))
        now += 0.6
    assert seen == [False, False, False, True, True]


def test_age_of_a_heartbeat_counts_from_the_time_of_the_request(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    for _ in range(3):
        assert not watch.look(owner, now)
        now += 0.3
    asked, now = now - 0.2, now + 0.15
    assert not watch.look(owner, asked), "the owner may have renewed its claim after the request"


def test_claim_of_a_later_version_is_respected(trial_dir):
    later = json.loads(Owner("far", "elsewhere", 1, "another boot", 1).to_bytes()) | {"priority": 3}
    (trial_dir / "claim.json").write_bytes(json.dumps(later).encode())
    assert Claim(trial_dir).take() == Owner("far", "elsewhere", 1, "another boot", 1)


def test_owner_that_renewed_its_claim_after_it_seemed_dead_is_alive(trial_dir):
    seen = Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    renewed = Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:10")
    (trial_dir / "claim.json").write_new(renewed.to_bytes())
    assert Claim(trial_dir).take(dead=seen) == renewed


def test_killed_process_on_this_machine_loses_its_claim_at_once(trial_dir, holder, monkeypatch):
    monkeypatch.setattr(claims, "DEAD_SECONDS", 1000)
    claim = Claim(trial_dir)
    assert claim.take().pid == holder.pid
    holder.kill()  # without a wait: a zombie counts as dead, too
    wait_for(lambda: claim.take() is None, 10)
    claim.release()
    assert files(trial_dir) == []


def test_process_with_a_reused_id_is_not_the_owner(trial_dir):
    other_start = started(os.getpid()) - 1
    (trial_dir / "claim.json").write_new(Owner("old", "here", os.getpid(), machine(), other_start).to_bytes())
    with Claim(trial_dir) as claim:
        assert claim.take() is None


def hide_processes(monkeypatch, signal_ends_in):
    """Imitate ``/proc`` mounted with hidepid=2, and a signal to a process of another user that ends in an error."""

    def unseen(self, *arguments, **named):
        raise FileNotFoundError(2, "No such file or directory", str(self))

    def kill(pid, number):
        if signal_ends_in:
            raise signal_ends_in

    monkeypatch.setattr(claim_files.Path, "read_text", unseen)
    monkeypatch.setattr(claim_files.os, "kill", kill)


@pytest.mark.parametrize(
    ("signal_ends_in", "gone"),
    [(PermissionError(1, "Operation not permitted"), False), (None, False), (ProcessLookupError(3, "No such"), True)],
)
def test_hidden_process_of_another_user_is_dead_only_if_it_does_not_exist(
    trial_dir, holder, monkeypatch, signal_ends_in, gone
):
    machine()
    monkeypatch.setattr(claims, "DEAD_SECONDS", 1000)
    claim = Claim(trial_dir)
    hide_processes(monkeypatch, signal_ends_in)
    owner = claim.take()
    assert (owner is None) == gone
    monkeypatch.undo()
    assert gone or owner.pid == holder.pid


def test_suspended_owner_loses_the_claim_and_stops_when_resumed(trial_dir, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        claim = Claim(trial_dir, "second")
        claim.wait()
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    line = holder.stdout.readline()
    assert line.startswith("lost: trial 0123456789ab is no longer claimed by this process")
    assert f":{os.getpid()} (second) holds the claim now" in line
    assert holder.wait(10) == 0
    claim.check()
    assert holder_of(trial_dir).token == claim.token, "the former owner's heartbeat and release change nothing"
    claim.release()
    assert files(trial_dir) == []


def test_owner_notices_that_its_claim_was_deleted(trial_dir):
    with Claim(trial_dir) as claim:
        claim.take()
        claim.check()
        wait_for((trial_dir / f"claim-beat-{claim.token}").exists, 10)
        for name in trial_dir.names():
            (trial_dir / name).delete()
        wait_for(lambda: not claim._heart.is_alive(), 10)
        with pytest.raises(ClaimLostError, match="the claim was deleted"):
            claim.check()
        assert not (trial_dir / "claim.json").exists(), "a heartbeat does not recreate the claim"
    assert files(trial_dir) == []


def test_taking_a_claim_removes_temporary_files_of_killed_writers(trial_dir):
    board = trial_dir.parent.parent / "leaderboard"
    left = [
        trial_dir / ".config.json.0123abcd.tmp",
        trial_dir / "checkpoints" / ".step-00000002.safetensors.0123abcd.tmp",
    ]
    left += [trial_dir / "claim-after-nobody.json", board / ".0123456789ab.parquet.0123abcd.tmp"]
    for file in left:
        file.write_bytes(b"half")
    others = board / ".ba9876543210.parquet.0123abcd.tmp"
    others.write_bytes(b"another trial's, perhaps being written")
    (trial_dir / "checkpoints" / "step-00000001.safetensors").write_bytes(b"whole")
    with Claim(trial_dir) as claim:
        claim.take()
        assert not any(file.exists() for file in left)
        left[1].write_bytes(b"half, by a worker of this owner that was killed")
    assert not left[1].exists()
    assert others.exists()
    assert (trial_dir / "checkpoints").names() == ["step-00000001.safetensors"]


def test_truncated_claim_file_counts_as_a_dead_owner(trial_dir):
    (trial_dir / "claim.json").write_bytes(b"")
    with Claim(trial_dir) as claim:
        claim.wait()
    assert files(trial_dir) == []
