import numpy as np
import pytest


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
