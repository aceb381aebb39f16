"""A model of processes that share a trial through an object store: every order of their requests, every lost answer.

Each process, and the thread that renews its claim, is a greenlet that stops before each request and whenever it sleeps.
The world decides who goes on, what becomes of the request, and who dies, by one random generator; time is its own.
`mdssl.storage.claim` and `mdssl.storage.location` run as they are, but for their clocks, threads and the store.
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
import pyarrow.fs

from mdssl.storage import claim as claims
from mdssl.storage import claim_files, filesystems
from mdssl.storage import retry as retries
from mdssl.storage.claim import Claim, ClaimLostError
from mdssl.storage.location import Location
from mdssl.storage.retry import StorageLostError, retrying

FAULTS = ("refused", "lost", "late", "twice", "slow")
"""Of one request: it is not done; done, and the answer lost; done after the answer was given up; done once more later;
done in time and answered late."""
LONGEST = 40.0
"""Seconds that a request may be late."""
_BEAT = "claim-beat-"
FOLDER = "bucket/results/trials/0123456789ab"


class World:
    """Runs processes, each with a claim of its own, and checks what must hold whatever happens.

    Args:
        seed: decides all that happens.
        faults: kinds that may happen.
        rate: how many of the requests meet one.
        deaths: how many of the processes may die.
        seen: whether processes see at once that another has died, as on one machine.
        suspends: whether processes may stand still for minutes.
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
        """The current thread goes on after so long, or somewhat later, as threads do."""
        if not self.ended:
            self.at(self.now + seconds * self.random.uniform(1, 1.2) + self.random.uniform(0, 0.05), self.current)
            self.loop.switch()
        if self.ended:
            raise greenlet.GreenletExit

    def run(self, until: float) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self.queue)
            self.steps += 1
            assert self.steps < 20_000, "somebody asks again and again"
            if callable(what):
                what()
            elif (resumes := self.suspended.pop(what[0], 0)) > self.now:
                self.suspended[what[0]] = resumes
                self.at(resumes, what)
            elif what[0] not in self.dead:
                self.current = what
                what[1].switch()

    def end(self) -> None:
        """Leave no thread behind that waits to go on."""
        self.ended = True
        for thread in self.threads:
            thread.throw()

    # The store

    def request(self, action, *, changes: bool):
        """Do ``action`` for the current thread, and what else the network does with it."""
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
        """Nobody deletes a file of a chain that another has now, unless requests or processes are late."""
        if self.suspends or {"late", "twice"} & set(self.faults) or _BEAT in path:
            return
        chain, name = {}, f"{FOLDER}/claim.json"
        while data := self.files.get(name):
            chain[name] = json.loads(data)
            name = f"{FOLDER}/claim-after-{chain[name]['token']}.json"
        if path in chain:
            holder = list(chain.values())[-1]["pid"]
            assert holder == self.current[0] or holder in self.dead, f"{path} is of a chain that {holder} has"

    def check_succession(self, path: str) -> None:
        """Who asks to succeed an owner has seen it dead, or its file unchanged for so long."""
        token = path.rpartition("/")[2].removeprefix("claim-after-").removesuffix(".json")
        owners = [json.loads(data) for name, data in self.files.items() if _BEAT not in name]
        owner = next((owner for owner in owners if owner["token"] == token), None)
        if owner is None or (self.seen and owner["pid"] in self.dead):
            return
        looked, given = self.last_look(owner)
        assert looked - given >= claims.DEAD_SECONDS, f"{token} was alive"

    def last_look(self, owner) -> tuple[float, float]:
        """When the current process looked last for a sign of life, and when that had been given."""
        looked, given = self.last_looks.get((self.current[0], owner["token"]), (0.0, 0.0))
        return looked, max(given, float(owner["heartbeat"]))

    # What a process does

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
                        # It held when the store had no successor, however late that was answered.
                        self.passed.append((self.read_at[self.current[1]], claim.token))
                        self.pause(self.random.choice((0.1, 5, 30, 3 * claims.DEAD_SECONDS)))
            except (ClaimLostError, StorageLostError, OSError):
                self.pause(1)
                continue
            self.done.add(pid)
            return

    def warn(self, text: str, *said: object) -> None:
        """Count the releases that were given up, after which files are left."""
        self.unreleased += "could not be released" in text

    def check_other(self, holder) -> None:
        assert holder.token not in self.tokens[self.current[0]], "it waits for itself"


def _ignore(*said: object) -> None:
    pass


def _ignoring(action) -> None:
    with contextlib.suppress(OSError):
        action()


class Store:
    """What `Location` asks of pyarrow's S3 filesystem."""

    type_name = "s3"

    def __init__(self, world: World):
        self.world = world

    def get_file_info(self, what):
        return self.world.request(lambda: self._info(what), changes=False)

    def _info(self, what):
        files = self.world.files
        if isinstance(what, str):
            kind = pyarrow.fs.FileType.File if what in files else pyarrow.fs.FileType.NotFound
            return pyarrow.fs.FileInfo(what, kind)
        start = f"{what.base_dir}/"
        inside = sorted(name for name in files if name.startswith(start) and "/" not in name.removeprefix(start))
        return [pyarrow.fs.FileInfo(name, pyarrow.fs.FileType.File) for name in inside]

    def open_input_file(self, path):
        data = self.world.request(lambda: self._read(path), changes=False)
        return pyarrow.BufferReader(data)

    def _read(self, path):
        world = self.world
        if _BEAT in path:
            token = path.partition(_BEAT)[2]
            world.last_looks[world.current[0], token] = (world.now, float(world.files.get(path, 0)))
        if path not in world.files:
            if "claim-after" in path:
                world.read_at[world.current[1]] = world.now
            raise FileNotFoundError(path)
        return world.files[path]

    def open_output_stream(self, path):
        world = self.world

        class Stream:
            def __enter__(self):
                return self

            def write(self, data):
                world.request(lambda: world.files.update({path: data}), changes=True)

            def __exit__(self, *exception):
                pass

        return Stream()

    def delete_file(self, path):
        def action():
            if path not in self.world.files:
                raise FileNotFoundError(path)
            self.world.check_deletion(path)
            del self.world.files[path]

        self.world.request(action, changes=True)


def check(seed: int, monkeypatch, **settings) -> World:
    """One world, from the start of its processes until a last one has found all in order."""
    world = World(seed, **settings)
    clock = SimpleNamespace(monotonic=lambda: world.now, sleep=world.pause)
    with monkeypatch.context() as patched:
        for module in (claims, claim_files, retries):
            patched.setattr(module, "time", clock)
        patched.setattr(claims, "threading", SimpleNamespace(Thread=_thread_of(world), Event=_event_of(world)))
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
    # Some minutes with faults, then enough without for all who live to have had their turn.
    world.run(300)
    world.rate = 0
    world.run(300 + 60 * claims.DEAD_SECONDS)
    alive = set(range(world.processes)) - world.dead
    assert world.done == alive, "who lives gets the trial in the end"
    runs = [token for token, _ in itertools.groupby(token for _, token in sorted(world.passed))]
    assert len(runs) == len(set(runs)), "nobody may write again after another was allowed to"
    if not world.dead and not world.unreleased and not {"late", "twice"} & set(world.faults):
        assert not world.files, "what was released leaves nothing"
    world.start(world.processes, lambda: world.work(world.processes))
    world.run(world.now + 20 * claims.DEAD_SECONDS)
    assert world.processes in world.done
    assert not world.files


def _thread_of(world: World):
    class Thread:
        def __init__(self, target, name, daemon):
            self.target, self.ended = target, False

        def start(self):
            def run():
                self.target()
                self.ended = True

            world.start(world.current[0], run)

        def join(self):
            while not self.ended:
                world.pause(0.1)

    return Thread


def _event_of(world: World):
    class Event:
        is_set = False

        def set(self):
            self.is_set = True

        def clear(self):
            self.is_set = False

        def wait(self, seconds):
            end = world.now + seconds
            while not self.is_set and world.now < end:
                world.pause(min(1, end - world.now))
            return self.is_set

    return Event
