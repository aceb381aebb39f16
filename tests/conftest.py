"""What tests of all rooms share: tiny prepared domains, and a bucket."""

import os
import secrets
import shutil
from pathlib import Path

import process_use
import pytest
import s3_server
import sweep_runs
import torch
from factories import prepare_tiny
from threadpoolctl import threadpool_limits

from mdssl.storage import filesystems

# Processes that share the cores with all their threads each wait for one another: libraries that are loaded later, and
# all processes that tests start, then PyTorch, then BLAS as NumPy has loaded it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
threadpool_limits(1)
# Thousands of files that nobody needs after a power cut. Tests of a disk that is full put their own in its place.
os.fsync = lambda descriptor: None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start processes their marker, and say which tests stay together in one of several processes.

    Those with Ray share a cluster; the others of a file share what its fixtures made. What takes longest comes first:
    left for the end, it would have one process wait for the other.
    """
    for item in items:
        with_ray = item.get_closest_marker("ray") is not None
        if with_ray or process_use.starts_processes(item):
            item.add_marker("process")
        item.add_marker(pytest.mark.xdist_group("ray" if with_ray else item.location[0]))
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ddp")}
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.path not in long))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> str:
    """See `prepare_tiny`."""
    return prepare_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def s3_environment() -> dict[str, str]:
    """A server that speaks S3: the environment variables of those who are to use it."""
    # What 5.2.1 answers, pyarrow takes for an error.
    pytest.importorskip("moto", minversion="5.2.5")
    with s3_server.running() as environment:
        yield environment


@pytest.fixture
def bucket(s3_environment, monkeypatch) -> str:
    """The URI of a new bucket, which this process and all that it starts can reach."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket(s3_environment)


@pytest.fixture
def gate(s3_environment, bucket, monkeypatch):
    """What stands between the bucket and this process with all that it starts."""
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
    """Where the processes of the cluster keep their copies of datasets that are in a bucket."""
    return tmp_path_factory.mktemp("cluster") / "cache"


@pytest.fixture(scope="session")
def cluster(s3_environment, data_cache) -> str:
    """The address of a Ray with two CPUs and the keys to the buckets, which sweeps join with --address.

    It takes many seconds to start: only tests of how a sweep starts, stops or dies with a Ray of its own have their
    own. What a test starts there ends with the driver that it runs.
    """
    with pytest.MonkeyPatch.context() as patch:
        # As docs/cluster.md has it: who joins has the token in its environment.
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # Nobody takes this machine away; to be told so takes a process more for each trial.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        with sweep_runs.running_ray(2, MDSSL_DATA_CACHE=str(data_cache), **s3_environment) as address:
            yield address


@pytest.fixture(scope="session")
def stopped_sweep(tiny_data, tmp_path_factory):
    """A sweep with a Ray of its own that SIGTERM to its process group has ended: see `stop_a_sweep`."""
    return sweep_runs.stop_a_sweep(tmp_path_factory.mktemp("stopped"), tiny_data)


@pytest.fixture(scope="session")
def sweep_results(tmp_path_factory) -> Path:
    """A storage with the rows and curves of a real sweep: see sweep_results/README.md. To be read, not written."""
    copy = tmp_path_factory.mktemp("sweep") / "results"
    shutil.copytree(Path(__file__).parent / "sweep_results", copy, ignore=shutil.ignore_patterns("README.md"))
    return copy
