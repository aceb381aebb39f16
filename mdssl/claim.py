"""Who works on a trial: one process at a time, among all that share a storage, on one machine or many.

A claim is a small file in the trial's folder that says who has it, and that its owner renews while it lives::

    claim.json                 the first owner
    claim-after-TOKEN.json     who took over when the owner with that token had died, and so on

The last of this chain has the trial. Every step along it is `Location.write_new`, of which one of several that try at
once is told that it succeeded, and no name is ever used for a second owner: so exactly one process succeeds a dead one,
and a slow observer of it cannot hit whoever came next, as it could by deleting or renaming one ``claim.json``.

Dead is an owner of this machine whose process is gone: at once. Any other is dead when its file has not changed for
`DEAD_SECONDS` by the observer's own clock; clocks of two machines are never compared. A process that was suspended for
so long finds, before it writes a checkpoint or a row, that the claim is no longer its own, and stops.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from mdssl.errors import InputError
from mdssl.ownership import FolderKind, delete
from mdssl.storage import Location

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""How often an owner renews its claim, and looks whether it still has it."""
DEAD_SECONDS = 60.0
"""A claim that has not changed for so long is dead."""
POLL_SECONDS = 1.0
"""How often one who waits looks."""
_FILE, _SUCCESSOR = "claim.json", "claim-after-"
_SIZE = 512
TRIAL = FolderKind(
    what="a trial",
    marker="config.json",
    is_marker=lambda said: isinstance(said, dict) and "method" in said,
    files=(
        *("config.json", "run.json", "training.json", "metrics.parquet", "clusters.parquet", "encoder.safetensors"),
        *("checkpoints/step-*.safetensors", "representations/*.safetensors", "neighbours.png", "neighbours.json"),
        *("logs/*.txt", "tensorboard/events.out.tfevents.*"),
    ),
    setting="--storage or MDSSL_STORAGE",
)
"""The folder of a trial, but for its claim."""


@dataclass(frozen=True)
class Owner:
    """What a claim says.

    Attributes:
        token: random; no two claims have the same.
        host: for people, with ``pid`` and ``sweep``.
        machine: this boot of the machine, and its space of process ids; empty where it cannot be told.
        started: when the process started, in ticks since that boot: a process id alone is given again.
        heartbeat: by the owner's clock, for people; for others only whether it changes counts.
    """

    token: str
    host: str = ""
    pid: int = 0
    machine: str = ""
    started: int | None = None
    sweep: str = ""
    heartbeat: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}" + (f" ({self.sweep})" if self.sweep else "")

    def is_gone(self) -> bool:
        """Whether its process is known to be gone, which only a process of the same machine can know."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started

    def to_bytes(self) -> bytes:
        # Always as long as before: a heartbeat goes over the file in place, and makes none where it was taken away.
        return json.dumps(asdict(self)).ljust(_SIZE).encode()


class ClaimLostError(InputError):
    """Another process has taken the trial over; this one must write no more."""


class Claim:
    """The right to write one trial's files and rows. A context manager that releases it, if it is held."""

    def __init__(self, trial_dir: Location, sweep: str = ""):
        """``sweep`` tells people who has it."""
        self.trial_dir = trial_dir
        self.owner = Owner(
            token=uuid.uuid4().hex[:12],
            host=socket.gethostname()[:80],
            pid=os.getpid(),
            machine=_machine(),
            started=_started(os.getpid()),
            sweep=sweep[:80],
            heartbeat=_now(),
        )
        self._place: Location | None = None
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def token(self) -> str:
        return self.owner.token

    def take(self, dead: Owner | None = None) -> Owner | None:
        """Take the claim unless another lives that has it: None, or that other.

        Args:
            dead: an owner that was seen to be dead (see `Watch`) as it was then: if it has renewed its claim since, it
                lives.
        """
        while True:
            chain = _chain(self.trial_dir)
            holder = chain[-1][1] if chain else None
            if holder and holder != dead and not holder.is_gone():
                return holder
            place = self.trial_dir / (f"{_SUCCESSOR}{holder.token}.json" if holder else _FILE)
            if not place.write_new(self.owner.to_bytes()):
                continue
            if (now := holder_of(self.trial_dir)) is None or now.token != self.token:
                # What this one succeeded was released meanwhile: not dead after all, or cleared away.
                place.delete()
                continue
            if holder:
                log.info("trial %s: taken over from %s, which died", self.trial_dir.name, holder)
            self._place = place
            self._clear_up()
            self._heart = threading.Thread(target=self._beat, name=f"claim-{self.trial_dir.name}", daemon=True)
            self._heart.start()
            return None

    def wait(self, say: Callable[[Owner], None] = lambda owner: None) -> None:
        """Take the claim as soon as nobody who lives has it; ``say`` who has it, once for each."""
        watch, told = Watch(), ""
        while holder := self.take(watch.dead):
            if holder.token != told:
                say(holder)
                told = holder.token
            watch.look(holder)
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise `ClaimLostError` unless the claim is held."""
        check_held(self.trial_dir, self.token)

    def clear(self) -> None:
        """Delete all that mdssl has written of the trial. The claim stays, and so does what others put there."""
        delete(self.trial_dir, TRIAL)

    def release(self) -> None:
        """Give the claim back and leave no file of it; nothing where it is not held, or no longer."""
        if self._place is None:
            return
        self._released.set()
        self._heart.join()
        self._place = None
        chain = _chain(self.trial_dir)
        if chain and chain[-1][1].token == self.token:
            # The first goes first. Without the last, those before it would be seen: dead owners, to be taken over from
            # while their files still vanish.
            for place, _ in chain:
                place.delete()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                check_held(self.trial_dir, self.token)
                self._place.overwrite(replace(self.owner, heartbeat=_now()).to_bytes())
            except (ClaimLostError, FileNotFoundError):
                # Whoever trains finds it by itself; renewing what is another's would be wrong.
                return
            except OSError as error:
                log.warning("trial %s: its claim could not be renewed: %s", self.trial_dir.name, error)

    def _clear_up(self) -> None:
        """Remove what processes that were killed have left: only whoever has the claim may write here."""
        own = {place.name for place, _ in _chain(self.trial_dir)} | {f"{_SUCCESSOR}{self.token}.json"}
        for name in self.trial_dir.names():
            if name.startswith(_SUCCESSOR) and name not in own:
                (self.trial_dir / name).delete()
        for folder in (self.trial_dir, self.trial_dir / "checkpoints", self.trial_dir / "representations"):
            folder.clear_temporaries()
        storage = self.trial_dir.parent.parent
        (storage / "leaderboard").clear_temporaries(f"{self.trial_dir.name}.parquet")


class Watch:
    """Sees by its own clock whether an owner still renews its claim.

    Who could not look for a while, suspended or without the storage, begins to count anew: the owner may not have had
    the storage either, and is to have the time to renew its claim first. Who always looks as rarely goes on counting.
    """

    def __init__(self) -> None:
        self.seen: Owner | None = None
        self.since = self.looked = 0.0
        self.was_slow = False

    def look(self, owner: Owner) -> bool:
        """Whether ``owner``, as it has just been read, is dead."""
        before, self.looked = self.looked, time.monotonic()
        is_new, is_slow = owner != self.seen, self.looked - before > DEAD_SECONDS / 2
        if is_new or (is_slow and not self.was_slow):
            self.seen, self.since = owner, self.looked
        self.was_slow = is_slow and not is_new
        return self.dead is not None

    @property
    def dead(self) -> Owner | None:
        """The owner, as it was seen last, if it is dead."""
        is_dead = self.seen and (self.seen.is_gone() or self.looked - self.since >= DEAD_SECONDS)
        return self.seen if is_dead else None


def holder_of(trial_dir: Location) -> Owner | None:
    """Who has the trial, dead or alive."""
    chain = _chain(trial_dir)
    return chain[-1][1] if chain else None


def check_held(trial_dir: Location, token: str) -> None:
    """Raise `ClaimLostError` unless the claim with ``token`` is the one that is held."""
    holder = holder_of(trial_dir)
    if holder is None or holder.token != token:
        who = f"{holder} has it now" if holder else "its claim is gone"
        raise ClaimLostError(
            f"trial {trial_dir.name} is no longer this process's: {who}, as happens when a process is suspended, or "
            f"cannot reach the storage, for {DEAD_SECONDS:g} s. It stops, for only one may write a trial; the same "
            "command waits for the trial, or goes on with it."
        )


def _chain(trial_dir: Location) -> list[tuple[Location, Owner]]:
    chain: list[tuple[Location, Owner]] = []
    place = trial_dir / _FILE
    while owner := _read(place, f"torn-{len(chain)}"):
        chain.append((place, owner))
        place = trial_dir / f"{_SUCCESSOR}{owner.token}.json"
    return chain


def _read(place: Location, token_if_torn: str) -> Owner | None:
    for _ in range(20):
        try:
            said = json.loads(place.read_bytes())
            # A later version may say more.
            return Owner(**{field.name: said[field.name] for field in fields(Owner) if field.name in said})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            time.sleep(0.01)  # being written, where files cannot appear whole
    return Owner(token_if_torn)  # killed in it: nobody renews this one


@cache
def _machine() -> str:
    """This boot of this machine and its space of process ids; a host's name may be another's as well."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When the process started, in ticks since boot; None where there is none, or it is dead and not yet reaped."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(numbers[18])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
