"""A cluster with two nodes on one machine, started by ``ray up`` from the checked-in ``clusters/on-premises.yaml``.

The nodes are two loopback addresses. Each has its own sshd and its own home folder. All files are in one temporary
folder, and all ports belong to the cluster. Each process that the cluster starts remains a descendant of this process,
also after several forks. Processes that remain of a cluster can therefore be listed and ended by pid while other Ray
clusters run on the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# Not 127.0.0.1: Ray replaces it by the network address of the machine.
NODES = {"head": "127.0.0.2", "worker": "127.0.0.3"}


def missing() -> str:
    """What this machine lacks to run the cluster, or an empty string."""
    if not sys.platform.startswith("linux"):
        return "needs Linux: the whole of 127.0.0.0/8, and /proc"
    lacks = [name for name in ("ssh", "sshd", "rsync", "ssh-keygen") if not _which(name)]
    return f"needs {', '.join(lacks)} (apt-get install openssh-server rsync)" if lacks else ""


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Loopback:
    """The cluster. ``with Loopback(folder) as cluster`` starts the two sshd and ends all processes at the end.

    Attributes:
        config: the YAML file of the cluster: the checked-in file with addresses, ports and the key of this machine.
        dashboard: the port of the dashboard and the Jobs API.
    """

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "cluster.yaml"
        ports = _free_ports(5)
        self.ssh_port, self.dashboard, self.gcs, self.client_server, self.agent = ports
        laptop = self._home("laptop")
        _private(laptop / ".ray" / "auth_token", secrets.token_hex(32))
        keep = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = keep | {
            "HOME": str(laptop),
            "TMPDIR": str(laptop),
            "RAY_TMPDIR": str(laptop),
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "dumb",
        }
        self._write_commands()
        self._write_homes()
        self._write_config()

    def _home(self, name: str) -> Path:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        return home

    def _write_commands(self) -> None:
        """Write the commands that are first on the PATH of a node."""
        # Ray has no option for the SSH port. In the path of a key, ssh expands ~ to the user's home and ignores HOME.
        key = 'case "$before $word" in "-i ~/"*) word="$HOME${word#?}";; esac'
        words = f'before=; for word; do shift; {key}; set -- "$@" "$word"; before="$word"; done'
        _script(self.folder / "bin" / "ssh", f'{words}\nexec {_which("ssh")} -F none -p {self.ssh_port} "$@"')
        # `ray stop` ends every Ray process of a machine, but a node of this cluster is only a part of a machine.
        ray = Path(sys.executable).parent / "ray"
        stop = f'[ "$1" = stop ] && exec {sys.executable} {Path(__file__).resolve()} "$RAY_TMPDIR"'
        _script(self.folder / "bin" / "ray", f'{stop}\nexec {ray} "$@"')

    def _write_homes(self) -> None:
        for name in NODES:
            home = self._home(name)
            lines = [
                f"export PATH={self.folder / 'bin'}:{Path(sys.executable).parent}:$PATH",
                f"export PYTHONPATH={PROJECT} RAY_TMPDIR={home} RAY_USAGE_STATS_ENABLED=0",
                f"cd {home}",  # sshd starts in the home of the user
            ]
            (home / ".bashrc").write_text("\n".join(lines) + "\n")
            (home / "project").symlink_to(PROJECT)  # in place of the mounts

    def _write_config(self) -> None:
        # Not at the top: a node runs this file as a program for `ray stop`, with the standard library alone.
        import yaml

        config = yaml.safe_load((PROJECT / "clusters" / "on-premises.yaml").read_text())
        config["cluster_name"] = self.folder.name
        config["provider"] |= {"head_ip": NODES["head"], "worker_ips": [NODES["worker"]]}
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        config["auth"] = {"ssh_user": user, "ssh_private_key": str(self.folder / "ssh" / "key")}
        # The nodes use the environment and the checkout of this process, so nothing is installed.
        config["file_mounts"] = {to: path for to, path in config["file_mounts"].items() if "auth_token" in to}
        config["setup_commands"] = [command for command in config["setup_commands"] if ".bashrc" in command]
        # If a flag is given twice, the later one counts. Each node has one CPU, so that two workers need both nodes.
        node = f" --num-cpus=1 --object-store-memory={128 << 20} --min-worker-port=0 --max-worker-port=0"
        head = f" --port={self.gcs} --dashboard-port={self.dashboard} --ray-client-server-port={self.client_server}"
        head += f" --dashboard-agent-listen-port={self.agent} --node-ip-address={NODES['head']}"
        worker = f" --address=$RAY_HEAD_IP:{self.gcs} --dashboard-agent-listen-port=0"
        worker += f" --node-ip-address={NODES['worker']}"
        config["head_start_ray_commands"][-1] += node + head
        config["worker_start_ray_commands"][-1] += node + worker
        self.config.write_text(yaml.safe_dump(config))

    def __enter__(self) -> Loopback:
        _adopt_orphans(True)
        try:
            self._start_sshd()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_sshd(self) -> None:
        ssh = self.folder / "ssh"
        ssh.mkdir()
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / name)], check=True)
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd needs this folder to drop its privileges
        for name, address in NODES.items():
            config = ssh / f"{name}.conf"
            config.write_text(
                f"ListenAddress {address}:{self.ssh_port}\nHostKey {ssh}/host_key\nPidFile none\n"
                f"AuthorizedKeysFile {ssh}/key.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
                f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\n"
                f"SetEnv HOME={self.folder / name}\n"
            )
            with open(ssh / f"{name}.log", "w") as log:
                subprocess.Popen([_which("sshd"), "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL)
            wait(lambda address=address: _answers(address, self.ssh_port), 10, f"sshd on {address}")

    def ray(self, *arguments: str, timeout: float = 120, code: int | None = 0) -> str:
        """Run ``ray`` as a user would on a laptop. Return its output."""
        with subprocess.Popen(
            ["ray", *arguments],
            env=self.environment,
            cwd=PROJECT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                raise AssertionError(f"ray {' '.join(arguments)}: not done in {timeout} s\n{output}") from None
        assert code is None or process.returncode == code, f"ray {' '.join(arguments)}: {process.returncode}\n{output}"
        return output

    def processes(self) -> dict[int, str]:
        """Command lines by pid of all processes that were started here and still run, without the two sshd."""
        sshd = f"-f {self.folder}/ssh/"
        return {pid: line for pid, line in descendants(os.getpid()).items() if sshd not in line}

    def story(self) -> str:
        """The end of the logs of the autoscaler and of the two sshd."""
        files = [*self.folder.glob("head/ray/session_latest/logs/monitor*"), *self.folder.glob("ssh/*.log")]
        return "\n".join(f"== {file}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def __exit__(self, *exception: object) -> None:
        # Repeat until no process is left: a process may start another one before it ends.
        for _ in range(50):
            pids = [pid for pid, line in descendants(os.getpid()).items() if self._is_ours(pid, line)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.1)
        _adopt_orphans(False)

    @staticmethod
    def _is_ours(pid: int, line: str) -> bool:
        # The interpreter ends this helper process itself.
        return "multiprocessing.resource_tracker" not in line


def descendants(ancestor: int) -> dict[int, str]:
    """Command lines by pid of all living processes under ``ancestor``. Dead children are reaped."""
    children: dict[int, list[int]] = {}
    for pid, parent, state in _processes():
        if state == "Z" and parent == ancestor:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        elif state != "Z":
            children.setdefault(parent, []).append(pid)
    found, queue = {}, [ancestor]
    while queue:
        for pid in children.get(queue.pop(), []):
            found[pid] = command_line(pid)
            queue.append(pid)
    return found


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def command_line(pid: int) -> str:
    """The command line in /proc. A process may have replaced it, for example by ``ray::IDLE``."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process."""
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        with contextlib.suppress(OSError):
            state, parent = _stat(pid)
            yield pid, int(parent), state


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]


def wait(condition: Callable[[], object], seconds: float, what: str, why: Callable[[], object] = lambda: "") -> object:
    """The first true value of ``condition``. Fails after ``seconds`` with ``why()`` in the message."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s\n{why()}"
        time.sleep(0.2)
    return value


def _adopt_orphans(on: bool) -> None:
    """Make this process, and not init, the new parent of descendants whose parent ends."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, int(on), 0, 0, 0)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _private(path: Path, text: str) -> None:
    path.parent.mkdir()
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _stop(node: str) -> None:
    """``ray stop`` for one node: end the processes that use its temporary folder."""
    ours = [pid for pid, _, _ in _processes() if pid != os.getpid() and f"{node}/ray/" in command_line(pid)]
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        time.sleep(2 if ours else 0)
    print(f"Stopped {len(ours)} Ray processes of {node}.")


if __name__ == "__main__":
    _stop(sys.argv[1])
