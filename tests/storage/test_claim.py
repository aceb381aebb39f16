"""One process at a time has a trial: several real processes race for it, die with it, are suspended with it.

On a local folder, and on the same folder as an object store sees it: no links, no renames, only whole files and lists.
"""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import fsspec
import pyarrow.fs
import pytest
from processes import wait_for

from mdssl.storage import claim as claims
from mdssl.storage import claim_files
from mdssl.storage.claim import Claim, ClaimLostError, Owner, Watch, holder_of
from mdssl.storage.claim_files import machine, started
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying

# Forked from a process that has imported all this, and nothing of the tests before.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
PROCESSES = 4

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


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(claims, "DEAD_SECONDS", 1.0)
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.05)


@pytest.fixture(params=["local", "objects"])
def kind(request):
    return request.param


@pytest.fixture
def trial_dir(tmp_path):
    return Location.of(tmp_path / "trials" / "0123456789ab")


@pytest.fixture
def holder(trial_dir):
    """Another process that holds the claim until it loses it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, trial_dir.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def located(kind, path):
    if kind == "local":
        return Location.of(path)
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("file", auto_mkdir=True)))
    return Location(filesystem, str(path), str(path))


class Clock:
    """In place of the module ``time``: it goes on when somebody sleeps."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def dead_owner(token="dead"):
    """Of this machine, and its process is gone: no process has an id as high."""
    return Owner(token, "here", pid=2**23, machine=machine(), started=1)


def files(trial_dir):
    return sorted(os.listdir(trial_dir.path))


def race(folder, kind, rounds, barrier, results):
    won = []
    for number in range(rounds):
        claim = Claim(located(kind, f"{folder}/{number}"))
        barrier.wait()
        if claim.take() is None:
            won.append(number)
    barrier.wait()
    results.put(won)


@pytest.mark.parametrize("after", ["nobody", "a dead owner", "three dead owners"])
def test_of_several_that_race_exactly_one_gets_the_claim(tmp_path, kind, after):
    rounds = 60 if kind == "local" else 5
    for number in range(rounds):
        trial_dir = located(kind, tmp_path / str(number))
        before = {"nobody": [], "a dead owner": ["a"], "three dead owners": ["a", "b", "c"]}[after]
        for previous, token in zip([None, *before], before, strict=False):
            name = f"claim-after-{previous}.json" if previous else "claim.json"
            assert (trial_dir / name).write_new(dead_owner(token).to_bytes())
    barrier, results = FORKS.Barrier(PROCESSES), FORKS.Queue()
    racers = [
        FORKS.Process(target=race, args=(str(tmp_path), kind, rounds, barrier, results)) for _ in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    won = [number for _ in racers for number in results.get(timeout=100)]
    for racer in racers:
        racer.join()
    assert sorted(won) == list(range(rounds)), "each once"
    for number in range(rounds):
        assert not list((tmp_path / str(number)).glob(".*")), "nothing temporary is left"


def count(trial_dir, kind, times, die_at):
    claims.POLL_SECONDS = 0.01
    counter = os.path.join(trial_dir, "count")
    for turn in range(times):
        with Claim(located(kind, trial_dir)) as claim:
            claim.wait()
            if turn == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(counter) as file:
                seen = int(file.read())
            time.sleep(random.uniform(0, 0.004))
            with open(counter, "w") as file:
                file.write(str(seen + 1))


@pytest.mark.parametrize("die_at", [None, 3])
def test_what_is_done_under_a_claim_is_never_done_by_two_at_once(tmp_path, kind, die_at):
    """A counter that loses counts when two read it at once; with ``die_at`` two of the processes die with the claim."""
    times = 25 if kind == "local" else 5
    (tmp_path / "count").write_text("0")
    workers = [
        FORKS.Process(target=count, args=(str(tmp_path), kind, times, die_at if number < 2 else None))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
        assert worker.exitcode in (0, -signal.SIGKILL)
    expected = times * PROCESSES if die_at is None else times * (PROCESSES - 2) + 2 * die_at
    assert int((tmp_path / "count").read_text()) == expected
    with Claim(located(kind, tmp_path)) as claim:
        claim.wait()  # after a process that died as the last
    assert os.listdir(tmp_path) == ["count"], "no claim and no temporary file is left"


def test_a_claim_says_who_has_it_and_is_gone_when_released(trial_dir):
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


def test_a_heartbeat_keeps_a_claim_alive(trial_dir, kind):
    place = located(kind, trial_dir.path)
    with Claim(place) as held:
        held.take()
        beats = [holder_of(place).heartbeat]
        for _ in range(3):
            wait_for(lambda: holder_of(place).heartbeat != beats[-1], 10)
            beats.append(holder_of(place).heartbeat)
        assert sorted(beats) == beats


def test_an_owner_of_another_machine_is_dead_when_its_claim_no_longer_changes(trial_dir, monkeypatch):
    (trial_dir / "claim.json").write_new(Owner("far", "elsewhere", 1, "another boot", 1, "", "2050-01-01").to_bytes())
    told, clock = [], Clock()
    monkeypatch.setattr(claims, "time", clock)
    with Claim(trial_dir) as claim:
        claim.wait(told.append)
        assert 1 <= clock.now < 1.1
        assert [owner.host for owner in told] == ["elsewhere"]
    assert files(trial_dir) == []


def test_who_could_not_look_for_a_while_gives_the_owner_time_to_renew_its_claim(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    assert not watch.look(owner, now)
    now += 100
    assert not watch.look(owner, now), "the storage may have been away for both"
    for _ in range(4):
        now += 0.4
        is_dead = watch.look(owner, now)
    assert is_dead
    assert watch.dead == owner


def test_who_always_looks_rarely_sees_a_dead_owner_too(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner, seen = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00"), []
    for _ in range(5):
        seen.append(watch.look(owner, now))
        now += 0.6
    assert seen == [False, False, False, True, True]


def test_an_answer_that_was_long_under_way_tells_of_the_time_when_it_was_asked_for(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    watch, owner = Watch(), Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    for _ in range(3):
        assert not watch.look(owner, now)
        now += 0.3
    asked, now = now - 0.2, now + 0.15
    assert not watch.look(owner, asked), "it may have renewed its claim while the answer was under way"


def test_a_claim_of_a_later_version_is_as_good(trial_dir):
    later = json.loads(Owner("far", "elsewhere", 1, "another boot", 1).to_bytes()) | {"priority": 3}
    (trial_dir / "claim.json").write_bytes(json.dumps(later).encode())
    assert Claim(trial_dir).take() == Owner("far", "elsewhere", 1, "another boot", 1)


def test_who_was_seen_dead_and_has_renewed_its_claim_since_lives(trial_dir):
    seen = Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:00")
    renewed = Owner("far", "elsewhere", 1, "another boot", 1, "", "12:00:10")
    (trial_dir / "claim.json").write_new(renewed.to_bytes())
    assert Claim(trial_dir).take(dead=seen) == renewed


def test_the_claim_of_a_killed_process_of_this_machine_is_dead_at_once(trial_dir, holder, monkeypatch):
    monkeypatch.setattr(claims, "DEAD_SECONDS", 1000)
    claim = Claim(trial_dir)
    assert claim.take().pid == holder.pid
    holder.kill()  # not yet waited for: a zombie is dead too
    wait_for(lambda: claim.take() is None, 10)
    claim.release()
    assert files(trial_dir) == []


def test_a_process_id_that_was_given_again_is_not_the_owner(trial_dir):
    other_start = started(os.getpid()) - 1
    (trial_dir / "claim.json").write_new(Owner("old", "here", os.getpid(), machine(), other_start).to_bytes())
    with Claim(trial_dir) as claim:
        assert claim.take() is None


def hide_processes(monkeypatch, signal_ends_in):
    """``/proc`` as mounted with hidepid=2 shows it to a user who may not signal the processes of another."""

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
def test_the_process_of_another_user_that_proc_does_not_show_is_gone_only_if_it_is(
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


def test_a_link_that_is_made_and_answered_with_an_error_is_the_claim(trial_dir, monkeypatch):
    """As on soft-mounted NFS and some FUSE filesystems."""
    link, faults = os.link, [OSError(errno.EIO, "Input/output error")]

    def link_and_fail(source, target):
        link(source, target)
        if faults:
            raise faults.pop()

    monkeypatch.setattr(os, "link", link_and_fail)
    claim = Claim(trial_dir)
    with retrying(60):
        assert claim.take() is None
    claim.release()
    faults.append(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        claim.take()
    assert claim.take() is None, "it does not wait for itself"
    claim.check()
    claim.release()
    faults.append(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"), claim:
        claim.take()
    assert files(trial_dir) == [], "one that gives up leaves none either"


def test_a_claim_whose_deletion_is_answered_with_an_error_may_be_anothers_when_it_is_deleted_again(
    trial_dir, monkeypatch
):
    delete, first, second = Location._delete, Claim(trial_dir), Claim(trial_dir)

    def delete_and_fail(place):
        delete(place)
        if place.name == "claim.json":
            monkeypatch.undo()
            assert second.take() is None
            raise OSError(errno.EIO, "Input/output error")

    assert first.take() is None
    monkeypatch.setattr(Location, "_delete", delete_and_fail)
    with retrying(60):
        first.release()
    second.check()
    second.release()
    assert files(trial_dir) == []


def test_who_succeeds_an_owner_that_gives_its_claim_back_at_the_same_moment_leaves_no_file(trial_dir, monkeypatch):
    write_new, second, late = Location.write_new, Claim(trial_dir), Claim(trial_dir)
    (trial_dir / "claim.json").write_bytes(dead_owner().to_bytes())

    def write_late(place, data):
        monkeypatch.undo()
        (trial_dir / "claim.json").delete()
        assert second.take() is None
        return write_new(place, data)

    monkeypatch.setattr(Location, "write_new", write_late)
    assert late.take().token == second.token
    second.release()
    assert files(trial_dir) == []


@pytest.mark.parametrize("successors", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "b"}])
def test_claims_that_lead_back_to_themselves_are_taken_over_from(trial_dir, successors):
    (trial_dir / "claim.json").write_bytes(dead_owner("a").to_bytes())
    for token, successor in successors.items():
        (trial_dir / f"claim-after-{token}.json").write_bytes(dead_owner(successor).to_bytes())
    with Claim(trial_dir) as claim:
        claim.wait()
        claim.check()
    assert files(trial_dir) == []


def test_a_suspended_owner_loses_the_claim_and_stops_when_it_goes_on(trial_dir, holder):
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
    assert holder_of(trial_dir).token == claim.token, "the loser's heartbeat and release touch nothing"
    claim.release()
    assert files(trial_dir) == []


def test_who_has_a_claim_sees_that_it_is_gone(trial_dir):
    with Claim(trial_dir) as claim:
        claim.take()
        claim.check()
        wait_for((trial_dir / f"claim-beat-{claim.token}").exists, 10)
        for name in trial_dir.names():
            (trial_dir / name).delete()
        wait_for(lambda: not claim._heart.is_alive(), 10)
        with pytest.raises(ClaimLostError, match="the claim was deleted"):
            claim.check()
        assert not (trial_dir / "claim.json").exists(), "a heartbeat makes no claim anew"
    assert files(trial_dir) == []


def test_who_takes_a_claim_removes_what_killed_writers_left(trial_dir):
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


def test_a_file_that_was_cut_off_is_a_dead_owner(trial_dir):
    (trial_dir / "claim.json").write_bytes(b"")
    with Claim(trial_dir) as claim:
        claim.wait()
    assert files(trial_dir) == []


def test_threads_race_on_a_filesystem_of_fsspec():
    folder = Location.of(f"memory://race-{os.getpid()}")
    won, barrier = [], threading.Barrier(4)

    def run():
        for number in range(5):
            barrier.wait()
            if Claim(folder / str(number)).take() is None:
                won.append(number)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(5))
