"""A lock on a trial: of all processes that share a storage, one at a time works on the trial.

A claim is a file in the trial's folder that names its owner, with a file that the owner renews while it lives::

    claim.json                 the first owner
    claim-after-TOKEN.json     the owner that took over when the owner with that token had died, and so on
    claim-beat-TOKEN           the last heartbeat of the owner with that token

The last owner of this chain holds the trial. Each file of the chain is written by `Location.write_new`, which succeeds
for one of several callers, and its name is used for one owner only. So exactly one process succeeds a dead owner. A
slow observer of the dead owner cannot harm the successor, as it could by deleting or renaming one ``claim.json``.

An owner on this machine is dead when its process is gone. Any other is dead when its heartbeat has not changed for
`DEAD_SECONDS` by the observer's clock; clocks of two machines are never compared. A process that was suspended for that
long sees, before it writes a checkpoint or a row, that it has lost the claim, and stops.
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

from mdssl.errors import InputError, StoppedError
from mdssl.storage.claim_files import (
    BEAT,
    FIRST,
    SUCCESSOR,
    Chain,
    Owner,
    last_of,
    machine,
    read_chain,
    read_claim,
    started,
)
from mdssl.storage.location import Location
from mdssl.storage.retry import retry, retrying
from mdssl.storage.trial_dir import rows_file_in, stop_request, storage_of
from mdssl.terminal import printable

log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""Interval at which an owner checks and renews its claim."""
DEAD_SECONDS = 60.0
"""Age of the last heartbeat from which on an owner is dead."""
POLL_SECONDS = 1.0
"""Interval at which a waiting process checks the claim."""


class ClaimLostError(InputError):
    """Another process has taken over the trial, so this one must not write its files."""


class Claim:
    """The right to write one trial's files and rows. A context manager that releases it, if it is held.

    Args:
        sweep: for messages about the owner.

    Attributes:
        stop_asked: whether the trial has been asked to stop (`mdssl.storage.trial_dir.stop_request`); looked up with
            each heartbeat.
    """

    def __init__(self, trial_dir: Location, sweep: str = ""):
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
        self._tokens = {self.token}  # of all attempts: a write whose answer was lost may arrive late
        self._place: Location | None = None
        self._released = threading.Event()
        self._heart: threading.Thread | None = None
        self.stop_asked = False

    @property
    def token(self) -> str:
        return self.owner.token

    @property
    def _beat_file(self) -> Location:
        return self.trial_dir / f"{BEAT}{self.token}"

    def take(self, dead: Owner | None = None) -> Owner | None:
        """Take the claim unless a living process holds it. Returns None, or the owner.

        Args:
            dead: an owner that `Watch` found dead, as it was then: if it has renewed its claim since, it lives.
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
        """Give up the last written place in the chain, and draw a new token.

        Its file is an orphan if the predecessor released its claim meanwhile. A file that is in the chain, or is the
        first, may be another process's.
        """
        if self._place is None:
            return
        if self._place.name not in {FIRST, *(place.name for place, _ in chain)}:
            self._place.delete()
        self._place = None
        self.owner = replace(self.owner, token=_new_token())
        self._tokens.add(self.token)

    def wait(self, say: Callable[[Owner], None] = lambda owner: None) -> None:
        """Take the claim as soon as no living process holds it; ``say`` is called once with each earlier owner."""
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

    def wait_aloud(self) -> None:
        """`wait`, and print the owner of the claim."""
        trial_id = self.trial_dir.name
        self.wait(
            lambda owner: print(
                printable(f"waiting for {owner}, which holds the claim on trial {trial_id}"), flush=True
            )
        )

    def check(self) -> None:
        """Raise `ClaimLostError` unless the claim is held."""
        check_held(self.trial_dir, self.token)

    def release(self) -> None:
        """Delete the files of the claim, if it is held."""
        if self._place is None:
            return
        self._released.set()
        if self._heart:
            self._heart.join()
            self._heart = None
        chain = read_chain(self.trial_dir)
        if chain and chain[-1][1].token in self._tokens:
            # A worker of this owner may have been killed while it wrote.
            self._clear_temporaries()
            # From the first to the last: without the last one, others would see the dead owners before it, and take
            # over from them while their files are being deleted.
            _delete_first(*chain[0])
            for place, _ in chain[1:]:
                place.delete()
        # Last of all: without its heartbeat an owner looks as it did at first.
        self._beat_file.delete()
        self._withdraw(chain)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.release()
        except (OSError, StoppedError) as error:
            # Others take over when they see no heartbeat. What the block did counts.
            log.warning("trial %s: its claim could not be released: %s", self.trial_dir.name, error)

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                check_held(self.trial_dir, self.token)
                self._beat_file.write_bytes(_now().encode())
                self.stop_asked |= stop_request(self.trial_dir).exists()
            except ClaimLostError:
                return  # `check` tells the training
            except (OSError, InputError) as error:
                log.warning("trial %s: its claim could not be renewed: %s", self.trial_dir.name, error)

    def _clear_up(self) -> None:
        """Delete the leftover files of killed processes: only the owner of the claim may write here."""
        own = {place.name for place, _ in read_chain(self.trial_dir)} | {
            f"{SUCCESSOR}{self.token}.json",
            self._beat_file.name,
        }
        for name in self.trial_dir.names():
            if name.startswith((SUCCESSOR, BEAT)) and name not in own:
                (self.trial_dir / name).delete()
        self._clear_temporaries()

    def _clear_temporaries(self) -> None:
        for folder in (self.trial_dir, self.trial_dir / "checkpoints", self.trial_dir / "representations"):
            folder.clear_temporaries()
        rows = rows_file_in(storage_of(self.trial_dir), self.trial_dir.name)
        rows.parent.clear_temporaries(rows.name)


class Watch:
    """Observes, by its own clock, whether an owner still renews its claim.

    After an interval without a check, because the process was suspended or the storage unavailable, the count restarts:
    the storage may have been unavailable to the owner too. An observer whose checks are always that rare continues to
    count.
    """

    def __init__(self) -> None:
        self.seen: Owner | None = None
        self.since = self.looked = 0.0
        self.was_slow = False

    def look(self, owner: Owner, asked: float) -> bool:
        """Whether ``owner``, which the storage returned for a request at the time ``asked``, is dead."""
        before, self.looked = self.looked, asked
        is_new, is_slow = owner != self.seen, self.looked - before > DEAD_SECONDS / 2
        if is_new or (is_slow and not self.was_slow):
            self.seen, self.since = owner, time.monotonic()
        self.was_slow = is_slow and not is_new
        return self.dead is not None

    @property
    def dead(self) -> Owner | None:
        """The last observed owner, if it is dead."""
        is_dead = self.seen and (self.seen.is_gone() or self.looked - self.since >= DEAD_SECONDS)
        return self.seen if is_dead else None


def holder_of(trial_dir: Location) -> Owner | None:
    """The owner of the trial, dead or alive."""
    return last_of(trial_dir, read_chain(trial_dir))


def check_held(trial_dir: Location, token: str) -> None:
    """Raise `ClaimLostError` unless the claim with ``token`` is the one that is held."""
    chain = read_chain(trial_dir)
    holder = chain[-1][1] if chain else None
    if holder is None or holder.token != token:
        who = f"{holder} holds the claim now" if holder else "the claim was deleted"
        raise ClaimLostError(
            f"trial {trial_dir.name} is no longer claimed by this process: {who}. This happens when a process is "
            f"suspended, or cannot reach the storage, for {DEAD_SECONDS:g} s. It stops, because only one process may "
            "write a trial. The same command waits for the trial, or resumes it."
        )


def _delete_first(place: Location, owner: Owner) -> None:
    """Delete the file of ``owner``. If the answer to a first request was lost, the file may be another's already."""

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
