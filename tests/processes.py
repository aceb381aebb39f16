"""What the processes of a test hold, from /proc."""

import os
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """``pid`` and the processes that it has started, and so on."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it has ended
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


def open_files(pid: int) -> list[str]:
    """What each of its file descriptors is."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass  # it has ended, or closed one meanwhile
    return found


def listening(pids: set[int]) -> dict[tuple[str, int], str]:
    """The command of whoever of ``pids`` listens, by address (as /proc writes it) and port."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                sockets[f"socket:[{fields[9]}]"] = (address, int(port, 16))
    return {sockets[file]: command_line(pid) for pid in pids for file in open_files(pid) if file in sockets}
