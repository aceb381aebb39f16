import numpy as np
import pytest
import sweep_runs
from factories import prepare_arrays


@pytest.fixture(scope="session")
def papers_data(tmp_path_factory):
    """A data folder with tiny datasets called cifar10 and svhn, and none of the paper's others."""
    folder = tmp_path_factory.mktemp("paper")
    rng = np.random.default_rng(0)
    for name in ("cifar10", "svhn"):
        images, labels = rng.integers(256, size=(20, 8, 8, 3), dtype=np.uint8), np.arange(20) % 2
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        prepare_arrays(name, folder / "data", 8, **arrays)
    return folder / "data"


@pytest.fixture
def another_ray():
    """A Ray that idles on this machine."""
    with sweep_runs.running_ray(1, dashboard=False):
        yield
