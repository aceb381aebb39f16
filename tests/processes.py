"""Processes, open files and ports of a test, from /proc; and waiting for a condition."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """``pid`` and all its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # the process has ended
    found, before = {pid}, set()
    while found != before:
        before = found
        found = found | {child for child, parent in parents.items() if parent in found}
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def ours(token: str) -> dict[int, str]:
    """Command lines, by pid, of all other processes with ``token`` in their environment: those that a test started with
    it, directly or indirectly, even if their parents have ended."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and token.encode() in (folder / "environ").read_bytes():
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if line:  # empty for a zombie
                    found[int(folder.name)] = line
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], seconds: float = 600, why: Callable[[], object] = lambda: "") -> object:
    """The first true value of ``condition``; fails with the message ``why`` after ``seconds``.

    At most a fifth of the time goes to ``condition``, because what it waits for runs on the same cores.
    """
    deadline = time.monotonic() + seconds
    while True:
        begun = time.monotonic()
        if found := condition():
            return found
        assert begun < deadline, why()
        time.sleep(max(0.1, 4 * (time.monotonic() - begun)))


def open_files(pid: int) -> list[str]:
    """Targets of the file descriptors of a process."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # the process has ended or closed a file
    return found


def listening(pids: set[int]) -> dict[tuple[str, int], str]:
    """Command lines of those of ``pids`` that listen, by address (as /proc writes it) and port."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                sockets[f"socket:[{fields[9]}]"] = (address, int(port, 16))
    return {sockets[file]: command_line(pid) for pid in pids for file in open_files(pid) if file in sockets}
