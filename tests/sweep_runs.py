"""Run sweeps in tests: in this process, or as a command that the test watches, signals and kills."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

from processes import descendants, listening, ours, wait_for

SWEEPS = Path(__file__).parents[1] / "sweeps"
SCRIPT = SWEEPS / "lambda_grid.py"
TINY = ["--domains", "tiny-a", "tiny-b", "--batch-per-domain", "8", "--precision", "fp32"]
NOISE = ("(raylet)", "TorchTrainer pid", "RayTrainWorker", "tensorboard", "Traceback")
"""Output of Ray that a sweep must not show."""
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

CLUSTER = """
import ray, sys
ray.init(
    address="local", num_cpus=int(sys.argv[1]), include_dashboard=sys.argv[2] == "dashboard",
    dashboard_host="127.0.0.1", log_to_driver=False, object_store_memory=80 << 20, _temp_dir=sys.argv[3],
)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running_ray(cpus: int, *, dashboard: bool = True, **environment: str) -> Iterator[str]:
    """Run a local Ray in its own process; gives its address."""
    # Ray's sockets are below this folder, and their paths may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="mdssl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", CLUSTER, str(cpus), "dashboard" if dashboard else "", folder]
        environment = os.environ | {"RAY_worker_maximum_startup_concurrency": "16"} | environment
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            address = next(line.split()[1] for line in process.stdout if line.startswith("address"))
            yield address
            process.stdin.close()


@functools.cache
def load_script(name: str) -> ModuleType:
    """Import a script in ``sweeps/`` as a module."""
    # Not the script's own name, because bench/ has a file of the same name.
    spec = importlib.util.spec_from_file_location(f"sweep_script_{name}", SWEEPS / f"{name}.py")
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def run_here(*flags: object, script: str = "lambda_grid", code: int = 0) -> str:
    """Run a sweep script in this process, check its exit code, and return its output on both streams."""
    said, before = io.StringIO(), dict(os.environ)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            assert load_script(script).main([str(flag) for flag in flags]) == code, said.getvalue()
    finally:
        # The driver of a sweep sets Ray's variables for its own process.
        os.environ.clear()
        os.environ.update(before)
    return said.getvalue()


class Running:
    """A command that runs in the background, in its own process group.

    Attributes:
        said: its output so far.
        token: marks the environment of the command and its subprocesses: see `processes.ours`.
    """

    def __init__(self, out: Path, *command: object, environment: dict[str, str] | None = None):
        self.out, self.command = out, [str(word) for word in command]
        self.token = uuid.uuid4().hex
        environment = (environment or dict(os.environ)) | {"PYTHONUNBUFFERED": "1", "MDSSL_TEST": self.token}
        with open(out, "w") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    def wait_for(self, condition: str | Callable[[], object], seconds: float = 600) -> object:
        """The first match of a pattern in the output, or true value of a function; fails if the command ends before."""
        look = condition if callable(condition) else lambda: re.search(condition, self.said)
        wait_for(lambda: look() or self.process.poll() is not None, seconds, lambda: self.said)
        # Checked again, because the command may have ended right after the condition was met.
        found = look()
        assert found, self.said
        return found

    def ends(self, code: int, seconds: float = 600) -> None:
        assert self.process.wait(seconds) == code, self.said

    def processes(self, pattern: str) -> list[int]:
        """Ids of its processes whose command lines start with ``pattern``."""
        return [pid for pid, line in ours(self.token).items() if line.startswith(pattern)]

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def trained(output: str) -> set[str]:
    """Trials that a sweep has trained itself, by the steps in its output."""
    return set(re.findall(r"([0-9a-f]{12}) [^\n]*: step \d+/", output))


def encoders(storage: Path) -> dict[str, int]:
    """Modification times of the encoders, by trial."""
    return {file.parent.name: file.stat().st_mtime_ns for file in storage.glob("trials/*/encoder.safetensors")}


def saved_steps(storage: Path) -> list[int]:
    """Steps of all checkpoints in ``storage``."""
    return [int(file.name[5:13]) for file in storage.glob("trials/*/checkpoints/step-*")]


def assert_nothing_is_left_over(storage: Path) -> None:
    assert not list(storage.glob("trials/*/claim*"))
    assert not [path for path in storage.rglob(".*") if path.name != ".ray"]
    assert not list(storage.glob(".ray/*"))


def stop_a_sweep(folder: Path, data: str, executor: str = "inline", group: bool = True) -> SimpleNamespace:
    """Start a sweep with its own Ray, and inspect its processes while it trains. Send SIGTERM to the process of the
    trial. When the trial has resumed, send SIGTERM to the sweep.

    Args:
        group: whether the signal goes to its process group, as ``timeout`` sends it, or only to the sweep's process.

    Returns:
        The ``command``, its exit ``code``, its output ``said``, the ``seconds`` until it ended, its ``storage`` and
        ``home``; the ``ports`` at which its processes listened, and Ray's ``sessions``, while it trained; the sessions
        ``left`` at the end, and the ``processes`` left. From before the second signal: the ``step`` that the trial
        saved after the first signal, and the output ``said_before``.
    """
    command = [sys.executable, SCRIPT, "--domains", "tiny-a", "--batch-per-domain", 8, "--precision", "fp32"]
    command += ["--lambda1", 1, "--lambda2", 0, "--iterations", 20000, "--report-every", 2, "--max-concurrent", 1]
    command += ["--checkpoint-seconds", 10000, "--executor", executor, "--storage", folder / "results", "--data", data]
    with tempfile.TemporaryDirectory(prefix="mdssl-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        environment = os.environ | {"HOME": str(folder), "RAY_TMPDIR": temporary}
        # Other users of this machine may have set these variables for their Rays.
        for name in (*AUTHENTICATION, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            environment.pop(name, None)
        sweep = Running(folder / "said.txt", *command, environment=environment)
        try:
            sweep.wait_for(r"simclr.*: step ")
            ports, sessions = listening(descendants(sweep.process.pid)), ray_sessions(temporary)
            step = _sigterm_to_the_trial(sweep, folder / "results")
            said_before = sweep.said
            (os.killpg if group else os.kill)(sweep.process.pid, signal.SIGTERM)
            signalled = time.monotonic()
            code = sweep.process.wait(100)
            seconds = time.monotonic() - signalled
        finally:
            sweep.end()
        return SimpleNamespace(
            command=sweep.command,
            code=code,
            said=sweep.said,
            seconds=seconds,
            storage=folder / "results",
            home=folder,
            ports=ports,
            sessions=sessions,
            left=ray_sessions(temporary),
            processes=_those_that_stay(sweep.token),
            step=step,
            said_before=said_before,
        )


def _sigterm_to_the_trial(sweep: Running, storage: Path) -> int:
    """Send SIGTERM to the trial's process, wait until another process resumes the trial, and return the saved step."""
    (victim,) = sweep.processes("ray::ImplicitFunc")
    os.kill(victim, signal.SIGTERM)
    sweep.wait_for(lambda: saved_steps(storage) and victim not in ours(sweep.token))
    (step,) = saved_steps(storage)
    sweep.wait_for(lambda: any(int(other) > step for other in re.findall(r": step (\d+)/", sweep.said)))
    return step


def ray_sessions(temporary: str) -> list[Path]:
    return list(Path(temporary).glob("mdssl-*/r/session_2*"))


def _those_that_stay(token: str, seconds: float = 60) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while (left := ours(token)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
