"""The files of a claim: the owners of a trial and their heartbeats. Rules: `mdssl.storage.claim`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from mdssl.storage.location import Location

FIRST, SUCCESSOR, BEAT = "claim.json", "claim-after-", "claim-beat-"
DEAD = -1
"""The start time of a process that is dead and not yet reaped."""


@dataclass(frozen=True)
class Owner:
    """The content of a claim.

    Attributes:
        token: random; no two claims have the same.
        host: for people, with ``pid`` and ``sweep``.
        machine: this boot of the machine, and its space of process ids; empty if unknown.
        started: when the process started, in ticks since that boot: a process id alone is given again.
        heartbeat: by the owner's clock; other processes only compare it with the one before.
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
        """Whether its process has ended, as far as a process on the same machine can tell."""
        return bool(self.machine) and self.machine == machine() and has_ended(self.pid, self.started)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


Chain: TypeAlias = list[tuple[Location, Owner]]
"""From the first owner to the current one."""


def read_chain(trial_dir: Location) -> Chain:
    """Read the files of the claim with their owners, from the first to the last, which has the claim.

    A successor may appear and be released between the request for the last file and that for its successor. A claim is
    released from its first file on, so the last file is read again: if it is still there, this has not happened.
    """
    while True:
        chain: Chain = []
        place = trial_dir / FIRST
        while owner := read_claim(place, torn := f"torn-{len(chain)}"):
            if owner.token in (before.token for _, before in chain):
                owner = Owner(torn)  # damaged: it would lead back into the chain
            chain.append((place, owner))
            place = trial_dir / f"{SUCCESSOR}{owner.token}.json"
        if not chain:
            return chain
        last, owner = chain[-1]
        again = read_claim(last, owner.token)
        if again and (again.token == owner.token or owner.token.startswith("torn-")):
            return chain


def last_of(trial_dir: Location, chain: Chain) -> Owner | None:
    """The current owner, with its last heartbeat."""
    if not chain:
        return None
    owner = chain[-1][1]
    try:
        return replace(owner, heartbeat=(trial_dir / f"{BEAT}{owner.token}").read_bytes().decode(errors="replace"))
    except FileNotFoundError:
        return owner


def read_claim(place: Location, token_if_torn: str) -> Owner | None:
    for _ in range(20):
        try:
            said = json.loads(place.read_bytes())
            # A later version may say more.
            return Owner(**{field.name: said[field.name] for field in fields(Owner) if field.name in said})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            time.sleep(0.01)  # it is being written, on a filesystem where files do not appear whole
    return Owner(token_if_torn)  # its writer was killed: nobody renews this claim


@cache
def machine() -> str:
    """An identifier of this machine's boot and process id namespace, unlike a host name unique; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> int | None:
    """When the process started, in ticks since boot, or `DEAD`; None if ``/proc`` does not show it."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return DEAD if state in "ZX" else int(numbers[18])


def has_ended(pid: int, started_then: int | None) -> bool:
    """Whether the process of this machine that had ``pid`` is known to have ended.

    With hidepid, as on many shared machines, ``/proc`` hides processes of other users. A signal then tells whether
    there is a process, but not whether it is the same: False.
    """
    now = started(pid)
    if now is not None and started_then is not None:
        return now != started_then
    try:
        os.kill(pid, 0)
    except OSError as error:  # EPERM: there is one, of another user
        return isinstance(error, ProcessLookupError)
    return False
