"""SIGTERM and Ctrl-C to a sweep before its trials train. test_sweep_faults.py tests signals during training."""

import errno
import os
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import ours, wait_for
from rich.console import Console

from mdssl.errors import InputError, StoppedError
from mdssl.leaderboard.board import read_rows
from mdssl.storage import retry
from mdssl.storage.location import Location
from mdssl.sweep.stopping import Stop

ONE_TRIAL = """
import sys
from mdssl.cli.parse import command, parse
from mdssl.cli.sweeps.lambda_grid import LambdaGrid

@command
def main(argv):
    settings = parse(LambdaGrid, prog="one_trial.py", description="", argv=argv)
    from mdssl.sweep.launch import run_sweep
    return run_sweep("one_trial", settings, [{"method": "simclr"}])

sys.exit(main())
"""


@pytest.fixture
def sweep(tiny_data, tmp_path):
    """A sweep of one trial that would train for hours. It saves checkpoints only on a signal."""

    class Running:
        def __init__(self):
            self.token, self.file = uuid.uuid4().hex, tmp_path / "said.txt"
            (tmp_path / "one_trial.py").write_text(ONE_TRIAL)

        def start(self, *more):
            command = [sys.executable, tmp_path / "one_trial.py", "--domains", "tiny-a", "--precision", "fp32"]
            command += ["--batch-per-domain", "8", "--data", tiny_data, "--storage", tmp_path / "results"]
            command += ["--iterations", "20000", "--report-every", "1"]
            command += ["--checkpoint-seconds", "10000", "--max-concurrent", "1", *more]
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=self.file.open("w"),
                stderr=subprocess.STDOUT,
                env=os.environ | {"MDSSL_TEST": self.token},
                start_new_session=True,
                # SIGINT is ignored if the tests run in the background, and the sweep would inherit this.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

        def said(self):
            return self.file.read_text()

        def wait(self, condition):
            wait_for(lambda: condition() or self.process.poll() is not None, why=self.said)
            assert self.process.poll() is None, self.said()

    running = Running()
    yield running
    if running.process.poll() is None:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        (signal.SIGTERM, 2.0),
        *(pytest.param(signal.SIGTERM, late, marks=pytest.mark.long) for late in (0.0, 1.0, 4.0, 8.0)),
        *(pytest.param(signal.SIGINT, late, marks=pytest.mark.long) for late in (0.0, 2.0)),
    ],
)
def test_a_signal_before_training_ends_the_sweep_with_one_line(sweep, number, seconds):
    sweep.start()
    sweep.wait(lambda: "1 trials on" in sweep.said())
    time.sleep(seconds)
    sweep.process.send_signal(number)
    signalled = time.monotonic()
    assert sweep.process.wait(60) == 128 + number, sweep.said()
    assert time.monotonic() - signalled < 20 * max(os.getloadavg()[0] / os.cpu_count(), 1)
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    assert sweep.said().splitlines()[-1] == f"{word}; the same command resumes from what was saved."
    assert "Traceback" not in sweep.said()
    wait_for(lambda: not ours(sweep.token), 60, why=lambda: ours(sweep.token))


@pytest.mark.ray
@pytest.mark.slow
def test_after_sigterm_during_evaluation_the_same_command_scores_the_trial(sweep, tmp_path):
    sweep.start("--executor", "inline", "--iterations", "2", "--probe", "sgd", "--probe-epochs", "10000000")
    sweep.wait(lambda: ": evaluating" in sweep.said())
    time.sleep(2)
    sweep.process.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    assert sweep.process.wait(60) == 128 + signal.SIGTERM, sweep.said()
    assert time.monotonic() - signalled < 20 * max(os.getloadavg()[0] / os.cpu_count(), 1)
    assert sweep.said().splitlines()[-1] == "terminated; the same command resumes from what was saved."
    assert "Traceback" not in sweep.said()
    wait_for(lambda: not ours(sweep.token), 60, why=lambda: ours(sweep.token))
    results = tmp_path / "results"
    (encoder,) = results.glob("trials/*/encoder.safetensors")
    assert not list(results.glob("leaderboard/*")) and not list(results.rglob("*.tmp"))
    trained = encoder.stat().st_mtime_ns
    sweep.start("--executor", "inline", "--iterations", "2", "--probe", "sgd", "--probe-epochs", "2")
    assert sweep.process.wait(400) == 0, sweep.said()
    assert encoder.stat().st_mtime_ns == trained
    rows = read_rows(Location.of(results), encoder.parent.name)
    assert [row["status"] for row in rows] == ["finished"]


def test_a_sweep_outside_the_main_thread_is_refused():
    def run():
        with Stop(Console()).on_signals():
            pytest.fail("it was started")

    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="started in a thread.* main thread"):
        pool.submit(run).result()


def test_the_first_signal_ends_retries_and_the_second_ends_tune(monkeypatch):
    monkeypatch.setattr(retry, "_SECONDS_AFTER_STOP", 0.0)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1.0)
    before, ended = signal.getsignal(signal.SIGTERM), []

    def unreachable():
        raise OSError(errno.ENETDOWN, "no network")

    stop = Stop(Console())
    with stop.on_signals():
        signal.signal(signal.SIGUSR1, lambda *_: ended.append("Tune"))
        with stop.while_tune_runs():
            signal.raise_signal(signal.SIGTERM)
            assert (stop.is_asked, ended) == (True, [])
            with pytest.raises(StoppedError, match="no network"):
                retry.retry("file", unreachable, is_local=True)
            signal.raise_signal(signal.SIGINT)
            assert ended == ["Tune"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before, "the previous signal handler is restored"


HANGS = """
import time
from mdssl.sweep import stopping
stopping._LOOK_SECONDS, stopping._GRACE_SECONDS = 0.1, 0.3
stopping._key = lambda kind, token: token.encode()
stopping.internal_kv._internal_kv_put = lambda key, value: print("asks the workers of", key.decode(), flush=True)
with stopping.passing_on(lambda: True, "its trial"):
    time.sleep(60)
"""


def test_a_trial_process_that_cannot_stop_after_sigterm_kills_itself():
    """This happens while Ray Train waits for a free CPU. Tune restarts the process."""
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "asks the workers of its trial\n")
