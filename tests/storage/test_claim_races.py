"""Several processes race for a claim, and some die with it."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
from claim_parts import dead_owner, located

from mdssl.storage import claim as claims
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location

pytestmark = pytest.mark.usefixtures("fast")

# Forked from a process that has imported all this, and nothing of the tests before.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
PROCESSES = 4


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
