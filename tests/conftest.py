"""Fixtures for all tests: tiny prepared datasets, a bucket, a cluster and results of sweeps."""

import os
import secrets
import shutil
from pathlib import Path

import numpy as np
import process_use
import pytest
import s3_server
import sweep_runs
import thin_encoder
import torch
from factories import prepare_arrays, prepare_tiny
from threadpoolctl import threadpool_limits

from mdssl.pretrain import model
from mdssl.storage import filesystems

TESTS = Path(__file__).parent
SECONDS = set((TESTS / "seconds.txt").read_text().split())
"""Files and tests that take a second or more. ``make test-fast`` skips them."""

# One thread for each process: several processes with a thread for each core would slow each other down. The three lines
# are for libraries loaded later and all subprocesses, for PyTorch, and for the BLAS that NumPy has loaded.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
threadpool_limits(1)
# A process that joins a test's Ray needs this token: see docs/cluster.md. Ray reads the mode on import.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# Test files need not survive a power failure. Tests of a full disk replace fsync by their own function.
os.fsync = lambda descriptor: None
# Most tests do not depend on the size of the encoder. The fixture `full_encoders` restores torchvision's encoders.
thin_encoder.install(model)
os.environ[thin_encoder.VARIABLE] = "1"
plugin = str(TESTS / "plugin")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [plugin, os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes or take seconds. Files that start Ray or have slow tests run first, so that the
    test processes end at about the same time."""
    for item in items:
        if process_use.starts_processes(item):
            item.add_marker("process")
        file = item.path.relative_to(TESTS).as_posix()
        if not SECONDS.isdisjoint((file, f"{file}::{item.originalname}")):
            item.add_marker("seconds")
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ddp")}
    items.sort(key=lambda item: (not process_use.starts_ray(item.path), item.path not in long))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With ``--dist loadfile`` one process runs all tests of a file. Files that start Ray are run by three processes:
    those of tests/sweep that join the cluster, all others that join it, and those that start their own Ray."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            path = config.rootpath / file
            if not process_use.starts_ray(path):
                return file
            if not process_use.joins_the_cluster(path):
                return "own Ray"
            return "cluster of tests/sweep" if path.parent.name == "sweep" else "cluster"

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> str:
    """See `prepare_tiny`."""
    return prepare_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def full_encoders():
    """See `thin_encoder.full`."""
    with thin_encoder.full():
        yield


@pytest.fixture(scope="session")
def papers_data(tmp_path_factory):
    """A data folder with tiny datasets called cifar10 and svhn, and none of the paper's others."""
    data = tmp_path_factory.mktemp("paper") / "data"
    rng = np.random.default_rng(0)
    for name in ("cifar10", "svhn"):
        images, labels = rng.integers(256, size=(20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2
        prepare_arrays(name, data, 8, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return data


@pytest.fixture(scope="session")
def s3_environment() -> dict[str, str]:
    """Environment variables for clients of a local S3 server."""
    # pyarrow takes responses of 5.2.1 for errors.
    pytest.importorskip("moto", minversion="5.2.5")
    with s3_server.running() as environment:
        yield environment


@pytest.fixture
def bucket(s3_environment, monkeypatch) -> str:
    """The URI of a new bucket that this process and its subprocesses can access."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket(s3_environment)


@pytest.fixture
def gate(s3_environment, bucket, monkeypatch):
    """A proxy with faults between the bucket and this process with its subprocesses."""
    gate = s3_server.Gate(s3_environment)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gate.environment["AWS_ENDPOINT_URL"])
    monkeypatch.setattr(filesystems, "_found", set())
    yield gate
    gate.go_away()


@pytest.fixture
def storage(tmp_path) -> str:
    return str(tmp_path / "results")


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory) -> Path:
    """The folder where processes of the cluster cache datasets from a bucket."""
    return tmp_path_factory.mktemp("cluster") / "cache"


@pytest.fixture(scope="session")
def cluster(s3_environment, data_cache) -> str:
    """The address of a Ray with two CPUs and credentials for the buckets, which sweeps join with --address.

    Ray takes many seconds to start, so only tests of the start and the end of Ray itself start another. Processes that
    a test starts on this cluster end with the driver of the test.
    """
    with pytest.MonkeyPatch.context() as patch:
        # This machine is never preempted, and the watcher is one more process for each trial.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        with sweep_runs.running_ray(2, MDSSL_DATA_CACHE=str(data_cache), **s3_environment) as address:
            yield address


@pytest.fixture(scope="session")
def stopped_sweep(tiny_data, tmp_path_factory):
    """A sweep with its own Ray, ended by SIGTERM to its process group: see `stop_a_sweep`."""
    return sweep_runs.stop_a_sweep(tmp_path_factory.mktemp("stopped"), tiny_data)


@pytest.fixture(scope="session")
def sweep_results(tmp_path_factory) -> Path:
    """A storage with the rows and curves of a real sweep: see sweep_results/README.md. Tests must not write to it."""
    copy = tmp_path_factory.mktemp("sweep") / "results"
    shutil.copytree(Path(__file__).parent / "sweep_results", copy, ignore=shutil.ignore_patterns("README.md"))
    return copy
