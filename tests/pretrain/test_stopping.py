"""Requests to stop outside of training steps: while a run waits for a claim, clusters images or retries a write."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pandas as pd
import pytest
import s3_server
import safetensors.torch
import torch
from factories import tiny_trial
from loop_runs import losses
from processes import descendants, wait_for

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.errors import InputError
from mdssl.pretrain import pseudo_domains, standalone, stopping
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import NonFiniteLossError
from mdssl.pretrain.stopping import StoppedError
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import stop_request

CLUSTERED = tiny_trial(method="mdssl-robust", warmup_iterations=3, recluster_every=2, num_clusters=2)
SETTINGS = RunSettings(report_every=2, checkpoint_seconds=1000, track=())


def test_request_to_stop_during_clustering_saves_a_checkpoint_at_once(tiny_data, tmp_path, monkeypatch, gpu):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    arguments = {"data": tiny_data, "settings": SETTINGS, "device": "cpu"}
    train(CLUSTERED, trial_dir=straight, **arguments)
    clusters, ended, kmeans = threading.Event(), threading.Event(), pseudo_domains.kmeans

    def hang(*arguments, **named):
        clusters.set()
        ended.wait(60)
        return kmeans(*arguments, **named)

    monkeypatch.setattr(stopping, "_ASK_SECONDS", 0.05)
    monkeypatch.setattr(pseudo_domains, "kmeans", hang)
    with pytest.raises(StoppedError, match="stopped at step 3 of 6"):
        train(CLUSTERED, trial_dir=stopped, **arguments, stop_requested=clusters.is_set)
    ended.set()
    assert os.listdir(stopped / "checkpoints") == ["step-00000003.safetensors"]
    monkeypatch.setattr(pseudo_domains, "kmeans", kmeans)
    train(CLUSTERED, trial_dir=stopped, **arguments)
    first, second = (safetensors.torch.load_file(each / "encoder.safetensors") for each in (straight, stopped))
    assert all(torch.equal(first[name], second[name]) for name in second)
    # The report of step 2, which a GPU makes later, and the losses of step 3 are in the checkpoint.
    pd.testing.assert_frame_equal(losses(stopped), losses(straight), check_exact=True)


def test_several_threads_can_check_for_sigterm_at_once():
    with stopping.sigterm_received() as terminated, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: any(terminated() for _ in range(5_000)), range(4))
        assert not any(answers)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(terminated, 10)


@pytest.mark.parametrize(
    ("error", "asked", "ended"),
    [
        (StoppedError("stopped"), False, SystemExit(128 + signal.SIGTERM)),
        (StoppedError("stopped"), True, SystemExit(1)),
        (NonFiniteLossError(3, "the loss is nan"), False, InputError("failed: the loss is nan")),
    ],
)
def test_end_of_mdssl_train_tells_its_reason(tiny_data, tmp_path, monkeypatch, error, asked, ended):
    limits = []

    def stop(config, *, trial_dir, **_):
        if asked:
            stop_request(trial_dir).write_bytes(b"{}")
        raise error

    monkeypatch.setattr(standalone, "train", stop)
    monkeypatch.setattr(standalone, "watchdog", lambda seconds: nullcontext(limits.append(seconds)))
    own = {"data": tiny_data, "storage": str(tmp_path), "device": "cpu"}
    with pytest.raises(type(ended), match=f"{ended}$"):
        standalone.train_standalone(tiny_trial(), RunSettings(hang_minutes=2, track=()), **own)
    assert limits == [120]
    with pytest.raises(InputError, match="use at most 64"):
        standalone.train_standalone(tiny_trial(batch_per_domain=65), RunSettings(), **own)
    assert len(os.listdir(tmp_path / "trials")) == 1


ONE = [sys.executable, "-m", "mdssl"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SCRIPT = """
import datetime, sys, time
import torch.distributed.distributed_c10d as c10d
c10d.default_pg_timeout = datetime.timedelta(seconds=4)  # after which who waits in a collective is ended
from mdssl.pretrain import pseudo_domains
def hang(*arguments, **named):
    print("clusters", flush=True)
    time.sleep(1000)
pseudo_domains.kmeans = hang
from mdssl.cli.main import main
sys.exit(main())
"""


def training(config, data, storage):
    """The arguments of ``mdssl train`` for ``config``."""
    words = ["train", "--data", data, "--storage", str(storage), "--device", "cpu", "--arch", "resnet18"]
    words += ["--domains", *config.domains, "--batch-per-domain", "8", "--precision", "fp32", "--norm", "group"]
    words += ["--method", config.method, "--iterations", "6", "--report-every", "2"]
    if config.method != "mdssl":
        words += ["--warmup-iterations", "3", "--recluster-every", "2", "--num-clusters", "2"]
    return words


@pytest.fixture
def start(tiny_data, tmp_path):
    """A function that starts ``mdssl train`` and returns the process and a reader of its output."""
    script, running = tmp_path / "script.py", []
    script.write_text(SCRIPT)

    def start(launcher, config, *more, storage=tmp_path):
        command = [*launcher, *([str(script)] if launcher == TORCHRUN else [])]
        command += [*training(config, tiny_data, storage), *more]
        said = tmp_path / "said.txt"
        # SIGINT is ignored in tests that run in the background, and child processes would inherit this.
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(command, stdout=said.open("w"), stderr=subprocess.STDOUT, **heed)
        running.append(process)
        return process, said.read_text

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def claim(tiny_data, tmp_path):
    """The claim of the trial that `start` begins, held by this process. A first run, whose files are deleted, gives the
    trial ID."""
    assert main(training(tiny_trial(), tiny_data, tmp_path)) == 0
    (trial_dir,) = (tmp_path / "trials").iterdir()
    shutil.rmtree(trial_dir)
    claim = Claim(Location.of(trial_dir), "another")
    claim.wait()
    yield claim
    claim.release()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_signal_ends_a_run_that_waits_for_a_claim_with_a_single_message(start, claim, number):
    process, said = start(ONE, tiny_trial())
    wait_for(lambda: "waiting for" in said(), why=said)
    process.send_signal(number)
    signalled = time.monotonic()
    assert process.wait(30) == 128 + number
    assert time.monotonic() - signalled < 20
    word = "terminated" if number == signal.SIGTERM else "interrupted"
    assert said().splitlines()[-1] == f"{word}; the same command resumes from what was saved."
    assert "Traceback" not in said()
    claim.check()


FULL_DISK = """
import sys
from mdssl.storage import location
write = location._write_synced
def write_unless_full(path, data):
    if "step-00000006" in path.name:
        raise OSError(28, "No space left on device")
    write(path, data)
location._write_synced = write_unless_full
from mdssl.cli.main import main
sys.exit(main())
"""


def assert_stops_with_one_line(process, said, uri):
    process.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    assert process.wait(60) == 128 + signal.SIGTERM, said()
    assert time.monotonic() - signalled < 20 * max(os.getloadavg()[0] / os.cpu_count(), 1)
    (line,) = [line for line in said().splitlines() if "resumes it" in line]
    assert f"stopped; nothing was saved since the last checkpoint, because {uri}" in line
    assert line.endswith("; the same command resumes it")
    assert "Traceback" not in said()


@pytest.mark.slow
def test_sigterm_while_the_disk_is_full_keeps_the_previous_checkpoint(start, tmp_path):
    """The disk is full for the last checkpoint, whose writing is retried."""
    process, said = start([sys.executable, "-c", FULL_DISK], tiny_trial(), "--checkpoint-seconds", "0")
    wait_for(lambda: "retrying for up to" in said(), why=said)
    assert_stops_with_one_line(process, said, tmp_path)
    (trial,) = (tmp_path / "trials").iterdir()
    assert sorted(os.listdir(trial / "checkpoints")) == ["step-00000002.safetensors", "step-00000004.safetensors"]
    assert not list(trial.glob("claim*"))


@pytest.mark.long
def test_sigterm_while_a_bucket_is_unavailable_keeps_the_previous_checkpoint(start, gate, bucket):
    away = threading.Event()

    def refuses(method, path):
        if method == "PUT" and "step-00000006" in path:
            away.set()
        return away.is_set()

    gate.refuses = refuses
    process, said = start(ONE, tiny_trial(), "--checkpoint-seconds", "0", storage=bucket)
    wait_for(lambda: "retrying for up to" in said(), why=said)
    assert_stops_with_one_line(process, said, bucket)
    gate.refuses = s3_server.nothing
    process, said = start(ONE, tiny_trial(), storage=bucket)
    assert process.wait(200) == 0, said()
    (trial,) = (Location.of(bucket) / "trials").names()
    assert json.loads((Location.of(bucket) / "trials" / trial / "run.json").read_bytes())["from_step"] == 4


@pytest.mark.ddp
@pytest.mark.long
def test_workers_wait_for_a_claim_longer_than_the_process_group_timeout(start, claim):
    process, said = start(TORCHRUN, tiny_trial())
    wait_for(lambda: "waiting for" in said(), why=said)
    time.sleep(10)  # longer than the time-out of the process group
    assert process.poll() is None, said()
    claim.release()
    assert process.wait(100) == 0, said()
    assert "6 steps" in said()


@pytest.mark.ddp
@pytest.mark.long
@pytest.mark.parametrize("victim", ["torchrun", "the first worker"])
def test_sigterm_while_the_first_worker_waits_for_a_claim_ends_all_workers(start, claim, victim):
    process, said = start(TORCHRUN, tiny_trial())
    wait_for(lambda: "waiting for" in said(), why=said)
    everybody = descendants(process.pid)
    os.kill(process.pid if victim == "torchrun" else min(everybody - {process.pid}), signal.SIGTERM)
    signalled = time.monotonic()
    assert process.wait(40) != 0
    wait_for(lambda: not [pid for pid in everybody if os.path.exists(f"/proc/{pid}")], 20)
    assert time.monotonic() - signalled < 20
    assert said().count("terminated; the same command resumes from what was saved.") == 1, said()


@pytest.mark.ddp
@pytest.mark.long
def test_sigterm_during_clustering_saves_a_checkpoint_and_ends_all_workers(start, tmp_path):
    process, said = start(TORCHRUN, CLUSTERED)
    wait_for(lambda: "clusters" in said(), why=said)
    time.sleep(6)  # the other worker waits longer than the time-out of the process group
    os.kill(process.pid, signal.SIGTERM)
    signalled = time.monotonic()
    assert process.wait(40) != 0
    assert time.monotonic() - signalled < 20
    assert "stopped at step 3 of 6; the same command resumes it" in said(), said()
    (trial,) = (tmp_path / "trials").iterdir()
    assert os.listdir(trial / "checkpoints") == ["step-00000003.safetensors"]
    assert not list(trial.glob("claim*"))
