"""The Ray that a sweep runs on: a private one on this machine, or a running cluster."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mdssl.errors import InputError
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.temporary import TemporaryFolder, temporary_folder
from mdssl.tracking.trackers import TRACKER_VARIABLES

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # How often Ray Train's controller checks its workers and takes their reports.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A trial waits until its CPUs are free; by default it fails after a minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # A nested trial has several processes; Ray warns of them where it may start as few at once as there are CPUs.
    "RAY_worker_maximum_startup_concurrency": "16",
    # `mdssl.sweep.progress` reports what Tune would.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Nor are its logs of each trial and its record of all of them needed, which grow with the number of trials.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # `mdssl.sweep.machines` tells what trials wait for.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "86400",
    # `mdssl.sweep.stopping` handles Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_ENVIRONMENT_OF_A_CLUSTER = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
_ENVIRONMENT_OF_ITS_OWN = {
    # Only cloud machines give notice.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # All of Ray's ports on loopback, as on macOS and Windows. Ray reads this when it is imported: see `_start_ray`.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The workers of a trial would meet at the address of the host's name. PyTorch's TCPStore, which the first of
    # several workers has, listens on all interfaces in any case.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
_CONNECT_SECONDS = 10.0
_START_SECONDS = 180.0
"""Time in which Ray's processes must start. Ray itself waits for 30 seconds, which is too short on a busy machine."""
TOKEN = Path("~/.ray/auth_token")


@contextmanager
def ray_session(settings: SweepSettings, console: Console) -> Iterator[TemporaryFolder]:
    """Start or join Ray; yields the folder for the sweep's temporary files, with the session of a private Ray.

    After an error, or with ``keep``, the folder stays, and the console shows the folder of Ray's logs.
    """
    with temporary_folder() as folder, _variables(settings) as variables:
        try:
            _start_ray(settings, folder, variables)
            from mdssl.sweep.stopping import delete_records

            yield folder
            delete_records()
        except Exception as error:
            folder.keep |= not isinstance(error, InputError)
            raise
        finally:
            import ray

            ray.shutdown()
            # A cluster has its logs elsewhere.
            folder.keep &= not settings.address
            if folder.keep:
                console.print(f"Ray's logs: {folder.path}", markup=False, soft_wrap=True)


def _start_ray(settings: SweepSettings, folder: TemporaryFolder, environment: dict[str, str]) -> None:
    """Start a private Ray in ``folder``, or join the one at ``address``, whose processes get ``environment``.

    Raises:
        InputError: there is no Ray at ``address``, or none can be started.
    """
    import ray
    from ray._private import services, utils

    # Ray's own handler would end the process: see `mdssl.sweep.stopping`.
    leaves_sigterm = _replaced(utils, "set_sigterm_handler", lambda handler: None)
    # A raylet's warnings and dumps of its state, which reach the terminal of each driver in spite of `log_to_driver`.
    # They list trials without a log and trials that failed, and name a folder that is deleted when the sweep ends.
    for name in ("ray.tune.analysis.experiment_analysis", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: log.debug("%s", data["lines"])
    if settings.address:
        address = _address_of_cluster(settings.address)
        environment |= {name: os.environ[name] for name in TRACKER_VARIABLES if name in os.environ}
        environment |= {"RAY_ADDRESS": address}
        try:
            with leaves_sigterm:
                ray.init(
                    address=address,
                    runtime_env={"env_vars": environment},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the Ray cluster at {address} cannot be joined: {error}; a sweep starts on one of its machines."
            ) from error
        return
    make_private_token()
    with (
        # For this process, if Ray had been imported before.
        _replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False),
        # A signal to the process group of the sweep, as ``timeout`` sends it, must not reach Ray's processes: trials
        # need them until they have saved their checkpoints.
        _replaced(services, "ConsolePopen", partial(services.ConsolePopen, start_new_session=True)),
        _replaced(services, "get_node", partial(_started_node, services.get_node)),
        _own_address(),
        leaves_sigterm,
    ):
        # The dashboard process stays: without its State API a trial that Tune stops would leak its placement group.
        try:
            ray.init(
                address="local",
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=256 << 20,
                _temp_dir=str(folder.path / "r"),  # which Ray opens to all users; the folder above is not
            )
        except Exception as error:
            # Where the time is over, Ray raises no subclass of Exception.
            folder.keep = True
            raise InputError(
                f"Ray could not be started on this machine: {str(error).rstrip('.')}. Its logs have the reason. Try "
                "again when the machine is less busy, or give the --address of a running Ray."
            ) from error


def _started_node(get_node: Callable[[str, str], Any], address: str, node: str) -> Any:
    """Return what Ray's ``get_node`` returns as soon as the node has started; it raises RuntimeError before."""
    ends = time.monotonic() + _START_SECONDS
    while True:
        try:
            return get_node(address, node)
        except RuntimeError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


@contextmanager
def _variables(settings: SweepSettings) -> Iterator[dict[str, str]]:
    """Within the context, this process has the environment variables of Ray that the user has not set; yields all."""
    defaults = _ENVIRONMENT | (_ENVIRONMENT_OF_A_CLUSTER if settings.address else _ENVIRONMENT_OF_ITS_OWN)
    added = defaults.keys() - os.environ.keys()
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield {name: os.environ[name] for name in defaults}
    finally:
        for name in added:
            os.environ.pop(name, None)


def _address_of_cluster(address: str) -> str:
    """HOST:PORT of a Ray that answers. Ray itself would try for a quarter of an hour.

    Raises:
        InputError: none does, or it refuses the token.
    """
    import ray
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        found = services.canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        GcsClient(address=found).internal_kv_exists(b"", None, _CONNECT_SECONDS)
    except ray.exceptions.AuthenticationError as error:
        raise InputError(
            f"the Ray cluster at --address {address} refuses this machine's token. Set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token to the cluster's token."
        ) from error
    except (OSError, ValueError, RuntimeError, ray.exceptions.RpcError) as error:
        raise InputError(
            f"no Ray cluster answers at --address {address} ({error}). Give auto on one of its machines, or HOST:PORT "
            "as `ray start` prints it; without --address the sweep starts a private Ray."
        ) from error
    return found


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the context, an attribute of Ray's modules or classes has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _own_address() -> Iterator[None]:
    """Within the context, the processes of a Ray that starts find its address in their environment.

    Otherwise Ray Train looks for "the" Ray of the machine, which fails where there are two: nobody then frees the
    resources of a trial after its processes die, and its retry waits for them.
    """
    from ray._private.node import Node

    start = Node.start_gcs_server

    def start_and_tell(node: Node) -> None:
        # The first of Ray's processes, which takes a free port. Those that follow get this environment.
        start(node)
        os.environ["RAY_ADDRESS"] = node.gcs_address

    before = {name: os.environ.pop(name, None) for name in ("RAY_GCS_SERVER_PORT", "RAY_ADDRESS")}
    try:
        with _replaced(Node, "start_gcs_server", start_and_tell):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def make_private_token() -> None:
    """Write the token of a private Ray to a file that only the user can read; Ray's own would be readable by all."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = TOKEN.expanduser()
    try:
        token.parent.mkdir(exist_ok=True)
        if token.exists() and token.stat().st_size:
            token.chmod(0o600)
            return
        # It appears whole: other processes may read it at any moment.
        temporary = token.with_name(f".{token.name}.{secrets.token_hex(4)}.tmp")
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        os.replace(temporary, token)
    except OSError as error:
        raise InputError(
            f"Ray's token cannot be written: {error}. Set RAY_AUTH_TOKEN_PATH to a file that you can write."
        ) from error
