"""A simulation of processes that share a trial through an object store that reorders, delays and loses requests.

Each process, and the thread that renews its claim, is a greenlet that yields before each request and when it sleeps.
A seeded random generator decides which greenlet runs next, whether its request succeeds and which process dies. Time is
simulated. `mdssl.storage.claim` and `mdssl.storage.location` run unchanged, except for clocks, threads and the store.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
from collections import defaultdict
from types import SimpleNamespace

import greenlet
from claim_stand_ins import BEAT, Store, event_of, thread_of

from mdssl.storage import claim as claims
from mdssl.storage import claim_files, filesystems
from mdssl.storage import retry as retries
from mdssl.storage.claim import Claim, ClaimLostError
from mdssl.storage.location import Location
from mdssl.storage.retry import StorageLostError, retrying

FAULTS = ("refused", "lost", "late", "twice", "slow")
"""Faults of a request. refused: it is not executed; lost: it is executed, but its response is lost; late: it is
executed after the client has timed out; twice: it is executed again later; slow: the response is late."""
LONGEST = 40.0
"""Longest delay of a request in seconds."""
FOLDER = "bucket/results/trials/0123456789ab"


class World:
    """Runs processes, each with its own claim, and checks the invariants.

    Args:
        seed: of the random generator.
        faults: kinds of faults that may occur.
        rate: fraction of requests with a fault.
        deaths: maximum number of processes that die.
        seen: whether processes detect at once that another has died, as on one machine.
        suspends: whether processes may be suspended for minutes.
    """

    def __init__(self, seed: int, *, faults=FAULTS, rate=0.1, deaths=1, seen=False, processes=3, suspends=True):
        self.random, self.faults, self.rate, self.deaths, self.seen = random.Random(seed), faults, rate, deaths, seen
        self.suspends = suspends
        self.tokens: dict[int, set[str]] = defaultdict(set)
        self.now, self.steps, self.order = 0.0, 0, itertools.count()
        self.files: dict[str, bytes] = {}
        self.queue: list[tuple[float, int, object]] = []
        self.dead: set[int] = set()
        self.suspended: dict[int, float] = {}
        self.processes = processes
        self.passed: list[tuple[float, str]] = []
        self.read_at: dict[greenlet.greenlet, float] = {}
        self.last_looks: dict[tuple[int, str], tuple[float, float]] = {}
        self.done: set[int] = set()
        self.current: tuple[int, greenlet.greenlet] | None = None
        self.threads: list[greenlet.greenlet] = []
        self.ended = False
        self.unreleased = 0
        self.loop = greenlet.getcurrent()

    # Time and processes

    def start(self, pid: int, target) -> greenlet.greenlet:
        thread = greenlet.greenlet(target, self.loop)
        self.threads.append(thread)
        self.at(self.now, (pid, thread))
        return thread

    def at(self, when: float, what: object) -> None:
        heapq.heappush(self.queue, (when, next(self.order), what))

    def pause(self, seconds: float) -> None:
        """Suspend the current thread for ``seconds`` or somewhat longer, as a scheduler does."""
        if not self.ended:
            self.at(self.now + seconds * self.random.uniform(1, 1.2) + self.random.uniform(0, 0.05), self.current)
            self.loop.switch()
        if self.ended:
            raise greenlet.GreenletExit

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self.queue)
            self.steps += 1
            assert self.steps < 20_000, "a process repeats its requests endlessly"
            if callable(what):
                what()
            elif (resumes := self.suspended.pop(what[0], 0)) > self.now:
                self.suspended[what[0]] = resumes
                self.at(resumes, what)
            elif what[0] not in self.dead:
                self.current = what
                what[1].switch()

    def end(self) -> None:
        """End all threads that still wait."""
        self.ended = True
        for thread in self.threads:
            thread.throw()

    # The store

    def request(self, action, *, changes: bool):
        """Execute ``action`` for the current thread, perhaps with a network fault."""
        self.pause(0.02)
        if self.random.random() >= self.rate:
            return action()
        pid = self.current[0]
        if self.deaths and self.random.random() < 0.1:
            self.deaths -= 1
            if self.random.random() < 0.5:
                action()
            self.dead.add(pid)
            self.loop.switch()
        if self.suspends and self.random.random() < 0.05:
            self.suspended[pid] = self.now + self.random.uniform(0, 3 * claims.DEAD_SECONDS)
            self.pause(0)
        fault = self.random.choice(self.faults)
        if fault == "slow":
            try:
                return action()
            finally:
                self.pause(self.random.uniform(0, LONGEST))
        if fault == "twice":
            if changes:
                self.at(self.now + self.random.uniform(0, LONGEST), lambda: _ignoring(action))
            return action()
        if fault == "lost":
            _ignoring(action)
        if fault == "late" and changes:
            self.at(self.now + self.random.uniform(0, LONGEST), lambda: _ignoring(action))
        self.pause(self.random.uniform(0, 10))
        raise OSError("AWS Error NETWORK_CONNECTION")

    def put_if_absent(self, filesystem, path: str, data: bytes) -> bool:
        self.check_succession(path)

        def action():
            if path in self.files:
                return False
            self.files[path] = data
            return True

        return self.request(action, changes=True)

    def new_token(self) -> str:
        token = f"{next(self.order):012x}"
        if self.current:
            self.tokens[self.current[0]].add(token)
        return token

    def check_deletion(self, path: str) -> None:
        """A process only deletes files of its own or a dead owner's chain, unless requests or processes are late."""
        if self.suspends or {"late", "twice"} & set(self.faults) or BEAT in path:
            return
        chain, name = {}, f"{FOLDER}/claim.json"
        while data := self.files.get(name):
            chain[name] = json.loads(data)
            name = f"{FOLDER}/claim-after-{chain[name]['token']}.json"
        if path in chain:
            holder = list(chain.values())[-1]["pid"]
            assert holder == self.current[0] or holder in self.dead, f"{path} belongs to the chain of process {holder}"

    def check_succession(self, path: str) -> None:
        """A process only succeeds an owner that it has seen dead, or without a heartbeat for `DEAD_SECONDS`."""
        token = path.rpartition("/")[2].removeprefix("claim-after-").removesuffix(".json")
        owners = [json.loads(data) for name, data in self.files.items() if BEAT not in name]
        owner = next((owner for owner in owners if owner["token"] == token), None)
        if owner is None or (self.seen and owner["pid"] in self.dead):
            return
        looked, given = self.last_look(owner)
        assert looked - given >= claims.DEAD_SECONDS, f"owner {token} was alive"

    def last_look(self, owner) -> tuple[float, float]:
        """When the current process last read the heartbeat of ``owner``, and the time of that heartbeat."""
        looked, given = self.last_looks.get((self.current[0], owner["token"]), (0.0, 0.0))
        return looked, max(given, float(owner["heartbeat"]))

    # The work of a process

    def work(self, pid: int) -> None:
        while True:
            self.tokens[pid] = set()
            claim = Claim(Location(Store(self), FOLDER, f"s3://{FOLDER}"), f"sweep {pid}")
            try:
                with retrying(self.random.choice((0, 60))), claim:
                    try:
                        claim.wait(self.check_other)
                    except OSError:
                        claim.wait(self.check_other)
                    for _ in range(self.random.randint(1, 4)):
                        claim.check()
                        # The claim was valid when the store had no successor, even if the response came later.
                        self.passed.append((self.read_at[self.current[1]], claim.token))
                        self.pause(self.random.choice((0.1, 5, 30, 3 * claims.DEAD_SECONDS)))
            except (ClaimLostError, StorageLostError, OSError):
                self.pause(1)
                continue
            self.done.add(pid)
            return

    def warn(self, text: str, *said: object) -> None:
        """Count releases that failed, which leave files behind."""
        self.unreleased += "could not be released" in text

    def check_other(self, holder) -> None:
        assert holder.token not in self.tokens[self.current[0]], "a process waits for its own claim"


def _ignore(*said: object) -> None:
    pass


def _ignoring(action) -> None:
    with contextlib.suppress(OSError):
        action()


def check(seed: int, monkeypatch, **settings) -> World:
    """Run one simulation. At the end a further process must get the claim and leave no file."""
    world = World(seed, **settings)
    clock = SimpleNamespace(monotonic=lambda: world.now, sleep=world.pause)
    with monkeypatch.context() as patched:
        for module in (claims, claim_files, retries):
            patched.setattr(module, "time", clock)
        patched.setattr(claims, "threading", SimpleNamespace(Thread=thread_of(world), Event=event_of(world)))
        patched.setattr(claims, "random", world.random)
        patched.setattr(claims, "os", SimpleNamespace(getpid=lambda: world.current[0] if world.current else 0))
        patched.setattr(claims, "_new_token", world.new_token)
        patched.setattr(claims, "_now", lambda: f"{world.now:.3f}")
        for module in (claims, claim_files):
            patched.setattr(module, "machine", lambda: "one" if world.seen else "")
        patched.setattr(claims, "started", lambda pid: 1)
        patched.setattr(claim_files, "has_ended", lambda pid, started: pid in world.dead)
        patched.setattr(filesystems, "_put_if_absent", world.put_if_absent)
        patched.setattr(retries.log, "disabled", True)
        patched.setattr(claims, "log", SimpleNamespace(info=_ignore, warning=world.warn))
        try:
            _run(world)
        finally:
            world.end()
    return world


def _run(world: World) -> None:
    for pid in range(world.processes):
        world.start(pid, lambda pid=pid: world.work(pid))
    # Five minutes with faults, then enough time without faults for every living process to get the claim.
    world.run(300)
    world.rate = 0
    world.run(300 + 60 * claims.DEAD_SECONDS)
    alive = set(range(world.processes)) - world.dead
    assert world.done == alive, "every living process gets the claim"
    runs = [token for token, _ in itertools.groupby(token for _, token in sorted(world.passed))]
    assert len(runs) == len(set(runs)), "an owner wrote after its successor"
    if not world.dead and not world.unreleased and not {"late", "twice"} & set(world.faults):
        assert not world.files, "released claims left files"
    world.start(world.processes, lambda: world.work(world.processes))
    world.run(world.now + 20 * claims.DEAD_SECONDS)
    assert world.processes in world.done
    assert not world.files
