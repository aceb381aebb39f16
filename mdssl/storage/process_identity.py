"""Check whether a process of this machine still runs, also if its id has been reused."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

DEAD = -1
"""The start time of a process that is dead and not yet reaped."""


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
