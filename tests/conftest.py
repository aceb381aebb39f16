"""What tests of all rooms share: tiny prepared domains, and a bucket."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import s3_server
import torch
from tiny_domains import prepare_tiny

from mdssl.storage import filesystems

# Two trainings that share the cores with all their threads each are slower than with one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first: the longest, left for the end, would have one process wait for the other."""
    first = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> str:
    """See `prepare_tiny`."""
    return prepare_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def papers_data(tmp_path_factory):
    """A data folder with tiny datasets called cifar10 and svhn, and none of the paper's others."""
    from mdssl.data.prepare import prepare

    folder = tmp_path_factory.mktemp("paper")
    rng = np.random.default_rng(0)
    for name in ("cifar10", "svhn"):
        images, labels = rng.integers(256, size=(20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2
        source = folder / f"{name}.npz"
        np.savez(source, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        prepare(name, data=folder / "data", source=source, image_size=8, workers=1, progress=False)
    return folder / "data"


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
def storage(tmp_path, monkeypatch) -> str:
    # Hundreds of files that nobody needs after a power cut: on a busy disk waiting for it takes most of the time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return str(tmp_path / "results")


@pytest.fixture(scope="session")
def sweep_results(tmp_path_factory) -> Path:
    """A storage with the rows and curves of a real sweep: see sweep_results/README.md. To be read, not written."""
    copy = tmp_path_factory.mktemp("sweep") / "results"
    shutil.copytree(Path(__file__).parent / "sweep_results", copy, ignore=shutil.ignore_patterns("README.md"))
    return copy
