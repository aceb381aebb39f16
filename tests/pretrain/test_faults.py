"""Faults during training: a full disk, lack of memory, a worker that hangs, signals, and clocks that jump."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import safetensors.torch
import torch
from factories import tiny_trial
from processes import descendants

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.pretrain import watchdog
from mdssl.pretrain.loop import train
from mdssl.pretrain.stopping import sigterm_received
from mdssl.storage import retry as retries
from mdssl.storage.retry import StorageLostError, retrying

EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)
AT_THE_END = RunSettings(report_every=1, checkpoint_seconds=1000)
"""Runs with these settings write one checkpoint, at their end."""
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full while ``disk.full`` is above zero; each failed write decrements ``disk.full``."""

    class Disk:
        full = 0

    fsync = os.fsync

    def sync(descriptor):
        if Disk.full:
            Disk.full -= 1
            raise FULL
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)
    return Disk


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    train(tiny_trial(), data=tiny_data, trial_dir=folder, settings=AT_THE_END, device="cpu")
    return folder


def assert_same(folder, straight):
    first, second = (safetensors.torch.load_file(each / "encoder.safetensors") for each in (folder, straight))
    assert all(torch.equal(first[name], second[name]) for name in second)
    frames = [pd.read_parquet(each / "metrics.parquet").drop(columns="views_per_second") for each in (folder, straight)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def checkpoints(folder):
    return sorted(int(re.findall(r"\d+", name)[0]) for name in os.listdir(folder / "checkpoints"))


def test_training_continues_when_a_full_disk_refuses_a_checkpoint(tiny_data, tmp_path, straight, disk, caplog):
    seen, failed = [], []

    def report(progress):
        # The disk is full for the checkpoints of steps 3 and 4.
        failed.extend([10**6 - disk.full] if disk.full else [])
        disk.full = {3: 10**6, 4: 10**6}.get(progress.step, 0)
        seen.append(checkpoints(tmp_path) if progress.step > 1 else [])

    with retrying(60):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=EVERY_STEP, device="cpu", report=report)
    assert seen == [[], [1], [1, 2], [1, 2], [1, 2], [2, 5]], "earlier checkpoints are kept"
    assert caplog.text.count("the checkpoint of step") == 2
    assert failed == [1, 1], "training goes on without another attempt"
    assert_same(tmp_path, straight)
    assert not list(tmp_path.rglob(".*"))


def test_end_of_training_waits_until_the_disk_has_space(tiny_data, tmp_path, straight, disk):
    def report(progress):
        disk.full = 5 if progress.step == 6 else 0

    with retrying(60):
        train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, device="cpu", report=report)
    assert disk.full == 0
    assert_same(tmp_path, straight)


def test_permanently_full_disk_loses_only_steps_after_the_last_checkpoint(tiny_data, tmp_path, straight, disk):
    def report(progress):
        disk.full = 10**6 if progress.step >= 5 else 0

    arguments = {"data": tiny_data, "trial_dir": tmp_path, "settings": EVERY_STEP, "device": "cpu"}
    with retrying(0.1), pytest.raises(StorageLostError, match="resumes from the last checkpoints"):
        train(tiny_trial(), **arguments, report=report)
    assert checkpoints(tmp_path) == [3, 4]
    disk.full, again = 0, []
    train(tiny_trial(), **arguments, report=lambda progress: again.append(progress.step))
    assert again == [5, 6]
    assert_same(tmp_path, straight)


def test_stop_raises_an_error_if_its_checkpoint_cannot_be_saved(tiny_data, tmp_path, disk):
    def report(progress):
        disk.full = 10**6

    arguments = {"data": tiny_data, "trial_dir": tmp_path, "settings": AT_THE_END, "device": "cpu"}
    with retrying(0.1), pytest.raises(StorageLostError):
        train(tiny_trial(), **arguments, report=report, stop_requested=partial(next, iter([False, True])))


@pytest.mark.parametrize("error", [MemoryError("no memory"), torch.OutOfMemoryError("CUDA out of memory")])
def test_trial_that_ran_out_of_memory_resumes_from_its_checkpoint(tiny_data, tmp_path, straight, error, monkeypatch):
    def report(progress):
        if progress.step == 4:
            raise error

    arguments = {"data": tiny_data, "trial_dir": tmp_path, "device": "cpu"}
    with pytest.raises(type(error)):
        train(tiny_trial(), **arguments, settings=EVERY_STEP, report=report)
    train(tiny_trial(), **arguments, settings=AT_THE_END)
    assert_same(tmp_path, straight)


def test_training_is_not_affected_by_jumps_of_the_wall_clock(tiny_data, tmp_path, straight, monkeypatch):
    jumps = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: jumps.uniform(0, 4e9))
    left = []

    def report(progress):
        left.append(os.path.exists(tmp_path / "checkpoints"))
        assert 0 < progress.views_per_second < 1e6

    ended = train(tiny_trial(), data=tiny_data, trial_dir=tmp_path, settings=AT_THE_END, device="cpu", report=report)
    assert not any(left), "a monotonic clock decides when a checkpoint is due"
    assert 0 < ended["train_seconds"] < 1000
    assert_same(tmp_path, straight)


WATCHED = """
import sys, time
from mdssl.pretrain.watchdog import watchdog
time.time = iter(range(0, 10**9, 10**6)).__next__  # jumps by days
with watchdog(float(sys.argv[1])) as beat:
    for _ in range(int(sys.argv[3])):
        time.sleep(0.1)
        beat()
    print("beaten", flush=True)
    def a_call_that_never_returns():
        time.sleep(float(sys.argv[2]))
    a_call_that_never_returns()
print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("limit", "pause", "beats", "code", "said"),
    [
        (1.5, 100, 20, -signal.SIGKILL, "beaten\n"),
        (0, 0.1, 1, 0, "beaten\nafter\n"),
        (50, 0.1, 1, 0, "beaten\nafter\n"),
    ],
)
def test_hanging_worker_is_killed_with_a_traceback(limit, pause, beats, code, said):
    command = [sys.executable, "-c", WATCHED, str(limit), str(pause), str(beats)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=25)
    assert (result.returncode, result.stdout) == (code, said)
    if code:
        assert "no report for 0.025 min: this worker hangs" in result.stderr
        assert "a_call_that_never_returns" in result.stderr


def test_time_since_the_last_report_decides_and_not_that_since_the_start(monkeypatch, caplog):
    clock, killed = SimpleNamespace(now=0.0), threading.Event()
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(watchdog, "os", SimpleNamespace(getpid=os.getpid, kill=lambda *what: killed.set()))
    with watchdog.watchdog(0.25) as beat:
        for _ in range(3):
            clock.now += 0.25
            assert not killed.wait(0.05)
            beat()
        assert not caplog.text
        clock.now += 0.375
        assert killed.wait(60)
    assert "no report for 0.00417 min: this worker hangs" in caplog.text
    assert "test_time_since_the_last_report" in caplog.text and caplog.text.count("hread 0x") > 1, "all threads"


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", ["mdssl train", *(pytest.param(each, marks=pytest.mark.long) for each in ("torchrun", "its worker"))]
)
def test_sigterm_saves_a_checkpoint_and_the_same_command_resumes(tiny_data, tmp_path, capsys, victim):
    command = [sys.executable, "-m", "mdssl"]
    if victim != "mdssl train":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "mdssl"]
    command += ["train", "--domains", "tiny-a", "tiny-b", "--data", tiny_data, "--storage", str(tmp_path)]
    command += ["--iterations", "80", "--batch-per-domain", "8", "--report-every", "2", "--precision", "fp32"]
    command += ["--checkpoint-seconds", "1000", "--norm", "group", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said, signalled = "", None
    for line in process.stdout:
        said += line
        if line.startswith("step 6/"):
            # Of the two workers of torchrun, the victim is the one that writes nothing.
            pid = max(descendants(process.pid)) if victim == "its worker" else process.pid
            os.kill(pid, signal.SIGTERM)
            signalled = time.monotonic()
    code = process.wait(60)
    process.stdout.close()
    assert time.monotonic() - signalled < 20
    (trial,) = (tmp_path / "trials").iterdir()
    (step,) = checkpoints(trial)
    assert 6 <= step < 80, said
    assert f"stopped at step {step} of 80; the same command resumes it" in said
    assert code == 128 + signal.SIGTERM if victim == "mdssl train" else code != 0
    assert not [name for name in os.listdir(trial) if name.startswith("claim")], "no claim is left"
    if victim == "mdssl train":
        assert main(command[3:]) == 0
        said = capsys.readouterr().out
    else:
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert re.search(r"^step (\d+)/", said, re.MULTILINE)[1] == str(step + 2 - step % 2)
    assert list(pd.read_parquet(trial / "metrics.parquet")["step"]) == list(range(2, 81, 2))


def test_sigterm_is_visible_in_any_thread_and_its_handler_is_restored():
    before, files = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
    with sigterm_received() as received, ThreadPoolExecutor() as pool:
        assert not pool.submit(received).result()
        for _ in range(1000):  # more signals than a pipe can hold
            os.kill(os.getpid(), signal.SIGTERM)
        assert pool.submit(received).result() and received()
    ended = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGTERM, "SIGTERM ends a process again"
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(os.listdir("/proc/self/fd")) == files, "both ends of the pipe are closed"


AFTERWARDS = """
import os, signal
from mdssl.pretrain.stopping import sigterm_received
with sigterm_received():
    os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)
"""
