import subprocess
import sys

import numpy as np
import pytest

ANOTHER = """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
print("runs", flush=True)
sys.stdin.read()
"""


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


@pytest.fixture
def another_ray():
    """A Ray that idles on this machine."""
    command = [sys.executable, "-c", ANOTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert any("runs" in line for line in process.stdout)
        yield
        process.stdin.close()
