"""Whether a process of this machine is still the one that it was: a process id alone is given again."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

DEAD = -1
"""When a process started that is dead and not yet reaped."""


@cache
def machine() -> str:
    """This boot of this machine and its space of process ids; empty where it cannot be told.

    A host's name may be another's as well.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> int | None:
    """When the process started, in ticks since boot, or `DEAD`; None where ``/proc`` does not show it."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return DEAD if state in "ZX" else int(numbers[18])


def has_ended(pid: int, started_then: int | None) -> bool:
    """Whether the process of this machine that had ``pid`` is known to be gone.

    With hidepid, as on many shared machines, ``/proc`` shows no process of another user. A signal then tells whether
    there is one, but not whether it is the same one: False.
    """
    now = started(pid)
    if now is not None and started_then is not None:
        return now != started_then
    try:
        os.kill(pid, 0)
    except OSError as error:  # EPERM: there is one, of another user
        return isinstance(error, ProcessLookupError)
    return False
