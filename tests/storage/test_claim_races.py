"""Several processes race for a claim, and some of them die while they hold it."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
from claim_parts import located
from factories import dead_owner

from mdssl.storage import claim as claims
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location

pytestmark = pytest.mark.usefixtures("fast")

# Processes are forked from a server that has imported this module and has no state of earlier tests.
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
def test_exactly_one_of_several_processes_gets_the_claim(tmp_path, kind, after):
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
    assert sorted(won) == list(range(rounds)), "each claim is won once"
    for number in range(rounds):
        assert not list((tmp_path / str(number)).glob(".*")), "temporary files are left"


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
def test_claim_gives_mutual_exclusion(tmp_path, kind, die_at):
    """The counter loses counts if two processes read it at once. With ``die_at`` two processes die with the claim."""
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
        claim.wait()  # a process may have died as the last owner
    assert os.listdir(tmp_path) == ["count"], "claims or temporary files are left"


def test_exactly_one_of_several_threads_gets_the_claim_on_fsspec():
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
