"""Who works on a trial: one process at a time, among all that share a storage, on one machine or many.

A claim is a small file in the trial's folder that says who has it, beside one that its owner renews while it lives::

    claim.json                 the first owner
    claim-after-TOKEN.json     who took over when the owner with that token had died, and so on
    claim-beat-TOKEN           when the owner with that token was last alive

The last of this chain has the trial. Every step along it is `Location.write_new`, of which one of several that try at
once is told that it succeeded, and no name is ever used for a second owner: so exactly one process succeeds a dead one,
and a slow observer of it cannot hit whoever came next, as it could by deleting or renaming one ``claim.json``. No file
of the chain is ever written over: a request that arrives late gives nobody a claim that another has meanwhile.

Dead is an owner of this machine whose process is gone: at once. Any other is dead when its beat has not changed for
`DEAD_SECONDS` by the observer's own clock; clocks of two machines are never compared. A process that was suspended for
so long finds, before it writes a checkpoint or a row, that the claim is no longer its own, and stops.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from mdssl.errors import InputError
from mdssl.storage.claim_files import BEAT, FIRST, SUCCESSOR, Chain, Owner, last_of, read_chain, read_claim
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, delete
from mdssl.storage.process_identity import machine, started
from mdssl.storage.retry import retry, retrying
from mdssl.storage.trial_dir import rows_file_in, storage_of

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""How often an owner renews its claim, and looks whether it still has it."""
DEAD_SECONDS = 60.0
"""A claim that has not changed for so long is dead."""
POLL_SECONDS = 1.0
"""How often one who waits looks."""
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


class ClaimLostError(InputError):
    """Another process has taken the trial over; this one must write no more."""


class Claim:
    """The right to write one trial's files and rows. A context manager that releases it, if it is held."""

    def __init__(self, trial_dir: Location, sweep: str = ""):
        """``sweep`` tells people who has it."""
        self.trial_dir = trial_dir
        self.owner = Owner(
            token=_new_token(),
            host=socket.gethostname()[:80],
            pid=os.getpid(),
            machine=machine(),
            started=started(os.getpid()),
            sweep=sweep[:80],
            heartbeat=_now(),
        )
        self._tokens = {self.token}  # of all tries: a write whose answer was lost may arrive late
        self._place: Location | None = None
        self._released = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def token(self) -> str:
        return self.owner.token

    @property
    def _beat_file(self) -> Location:
        return self.trial_dir / f"{BEAT}{self.token}"

    def take(self, dead: Owner | None = None) -> Owner | None:
        """Take the claim unless another lives that has it: None, or that other.

        Args:
            dead: an owner that was seen to be dead (see `Watch`) as it was then: if it has renewed its claim since, it
                lives.
        """
        while True:
            chain = read_chain(self.trial_dir)
            holder = last_of(self.trial_dir, chain)
            if holder and holder.token in self._tokens:
                # Written just now, or by a request whose answer was lost.
                self.owner = replace(self.owner, token=holder.token)
                self._hold(chain)
                return None
            self._withdraw(chain)
            if holder and holder != dead and not holder.is_gone():
                return holder
            self._place = self.trial_dir / (f"{SUCCESSOR}{holder.token}.json" if holder else FIRST)
            if not self._place.write_new(self.owner.to_bytes()):
                self._place = None
                time.sleep(random.uniform(0, 0.1))

    def _hold(self, chain: Chain) -> None:
        if self._heart:
            return
        self._place = chain[-1][0]
        if len(chain) > 1:
            log.info("trial %s: taken over from %s, which died", self.trial_dir.name, chain[-2][1])
        self._released.clear()
        self._heart = threading.Thread(target=self._beat, name=f"claim-{self.trial_dir.name}", daemon=True)
        self._heart.start()
        self._clear_up()

    def _withdraw(self, chain: Chain) -> None:
        """Leave a place that this one no longer has, or never had: its predecessor had released its claim meanwhile.

        The first place, or one in the chain, is not, or no longer, its own to delete.
        """
        if self._place is None:
            return
        if self._place.name not in {FIRST, *(place.name for place, _ in chain)}:
            self._place.delete()
        self._place = None
        self.owner = replace(self.owner, token=_new_token())
        self._tokens.add(self.token)

    def wait(self, say: Callable[[Owner], None] = lambda owner: None) -> None:
        """Take the claim as soon as nobody who lives has it; ``say`` who has it, once for each."""
        watch, told = Watch(), ""
        while True:
            asked = time.monotonic()
            if (holder := self.take(watch.dead)) is None:
                return
            if holder.token != told:
                say(holder)
                told = holder.token
            watch.look(holder, asked)
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
        if self._heart:
            self._heart.join()
            self._heart = None
        chain = read_chain(self.trial_dir)
        if chain and chain[-1][1].token in self._tokens:
            # The first goes first. Without the last, those before it would be seen: dead owners, to be taken over from
            # while their files still vanish.
            _delete_first(*chain[0])
            for place, _ in chain[1:]:
                place.delete()
        # Last: without its beats an owner that still lives would look as it did at first.
        self._beat_file.delete()
        self._withdraw(chain)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.release()
        except OSError as error:
            # Without its heartbeats others take over after a while; what the block did counts.
            log.warning("trial %s: its claim could not be given back: %s", self.trial_dir.name, error)

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                check_held(self.trial_dir, self.token)
                self._beat_file.write_bytes(_now().encode())
            except ClaimLostError:
                # Whoever trains finds it by itself; renewing what is another's would be wrong.
                return
            except (OSError, InputError) as error:
                log.warning("trial %s: its claim could not be renewed: %s", self.trial_dir.name, error)

    def _clear_up(self) -> None:
        """Remove what processes that were killed have left: only whoever has the claim may write here."""
        own = {place.name for place, _ in read_chain(self.trial_dir)} | {
            f"{SUCCESSOR}{self.token}.json",
            self._beat_file.name,
        }
        for name in self.trial_dir.names():
            if name.startswith((SUCCESSOR, BEAT)) and name not in own:
                (self.trial_dir / name).delete()
        for folder in (self.trial_dir, self.trial_dir / "checkpoints", self.trial_dir / "representations"):
            folder.clear_temporaries()
        rows = rows_file_in(storage_of(self.trial_dir), self.trial_dir.name)
        rows.parent.clear_temporaries(rows.name)


class Watch:
    """Sees by its own clock whether an owner still renews its claim.

    Who could not look for a while, suspended or without the storage, begins to count anew: the owner may not have had
    the storage either, and is to have the time to renew its claim first. Who always looks as rarely goes on counting.
    """

    def __init__(self) -> None:
        self.seen: Owner | None = None
        self.since = self.looked = 0.0
        self.was_slow = False

    def look(self, owner: Owner, asked: float) -> bool:
        """Whether ``owner`` is dead, as the storage said that was asked then: what it answers late may be old."""
        before, self.looked = self.looked, asked
        is_new, is_slow = owner != self.seen, self.looked - before > DEAD_SECONDS / 2
        if is_new or (is_slow and not self.was_slow):
            self.seen, self.since = owner, time.monotonic()
        self.was_slow = is_slow and not is_new
        return self.dead is not None

    @property
    def dead(self) -> Owner | None:
        """The owner, as it was seen last, if it is dead."""
        is_dead = self.seen and (self.seen.is_gone() or self.looked - self.since >= DEAD_SECONDS)
        return self.seen if is_dead else None


def holder_of(trial_dir: Location) -> Owner | None:
    """Who has the trial, dead or alive."""
    return last_of(trial_dir, read_chain(trial_dir))


def check_held(trial_dir: Location, token: str) -> None:
    """Raise `ClaimLostError` unless the claim with ``token`` is the one that is held."""
    chain = read_chain(trial_dir)
    holder = chain[-1][1] if chain else None
    if holder is None or holder.token != token:
        who = f"{holder} has it now" if holder else "its claim is gone"
        raise ClaimLostError(
            f"trial {trial_dir.name} is no longer this process's: {who}, as happens when a process is suspended, or "
            f"cannot reach the storage, for {DEAD_SECONDS:g} s. It stops, for only one may write a trial; the same "
            "command waits for the trial, or goes on with it."
        )


def _delete_first(place: Location, owner: Owner) -> None:
    """Delete the file of ``owner``. After a request whose answer was lost the name may be another's already."""

    def delete() -> None:
        now = read_claim(place, owner.token)
        if now and now.token == owner.token:
            with retrying(0):
                place.delete()

    retry(place.uri, delete, is_local=place.is_local)


def _new_token() -> str:
    return uuid.uuid4().hex[:12]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
