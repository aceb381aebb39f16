"""The Ray that a sweep runs on: one of its own on this machine, which nobody else reaches, or a running cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mdssl.sweep.settings import SweepSettings
from mdssl.tracking.choice import TRACKER_VARIABLES

_ENVIRONMENT = {
    # Ray Train's controller looks after its workers, and takes their reports, this often.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A trial whose CPUs are still taken waits; the default gives up after a minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # A machine of one's own gives no notice.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A nested trial has several processes; Ray warns of them where it may start as few at once as there are CPUs.
    "RAY_worker_maximum_startup_concurrency": "16",
    # Tune's own report says what ours says, and more than once.
    "RAY_AIR_NEW_OUTPUT": "0",
}
_ENVIRONMENT_OF_ITS_OWN = {
    # All of Ray's ports on loopback, as it has them on macOS and Windows; it reads this when it is imported.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The workers of a trial, which would meet at the address that the host's name has. The first of several also has
    # PyTorch's TCPStore, which listens on all interfaces whatever it is told.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
TOKEN = Path("~/.ray/auth_token")


@dataclass
class RaySession:
    """A Ray that runs.

    Attributes:
        folder: its files and logs; None of a cluster, whose they are.
        keep_logs: whether they stay when it ends, for somebody to look what went wrong.
    """

    folder: Path | None = None
    keep_logs: bool = False


@contextmanager
def ray_session(settings: SweepSettings, console: Console) -> Iterator[RaySession]:
    """Ray from here on; at the end its session's folder is removed, which Ray itself never does.

    After an error, or with `RaySession.keep_logs`, the folder stays, and the console says where it is.
    """
    session = RaySession()
    try:
        session.folder = start_ray(settings)
        yield session
    except Exception:
        session.keep_logs = True
        raise
    finally:
        import ray

        ray.shutdown()
        if session.folder and session.keep_logs:
            console.print(f"Ray's logs: {session.folder / 'logs'}", markup=False, soft_wrap=True)
        elif session.folder:
            # Its last processes may still write there while they end.
            shutil.rmtree(session.folder, ignore_errors=True)


def start_ray(settings: SweepSettings) -> Path | None:
    """A Ray of its own, or with ``address`` a running one, set up so that trials start soon and wait quietly.

    Returns:
        The folder of a Ray of its own.
    """
    if settings.address:
        import ray

        defaults = _ENVIRONMENT | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
        environment = {key: os.environ.get(key, value) for key, value in defaults.items()}
        os.environ.update(environment)
        environment |= {name: os.environ[name] for name in TRACKER_VARIABLES if name in os.environ}
        ray.init(address=settings.address, runtime_env={"env_vars": environment}, log_to_driver=False)
        return None
    for key, value in (_ENVIRONMENT | _ENVIRONMENT_OF_ITS_OWN).items():
        os.environ.setdefault(key, value)
    import ray

    # For this process, where somebody imported Ray before.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    make_private_token()
    # The dashboard process stays: without its State API a trial that Tune stops would leak its placement group.
    ray.init(
        address="local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 << 20,
    )
    return Path(ray._private.worker._global_node.get_session_dir_path())


def make_private_token() -> None:
    """The token that a Ray of its own asks everybody for, in a file for its user alone; Ray would let all read it."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = TOKEN.expanduser()
    token.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        token.chmod(0o600)
        return
    with open(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
