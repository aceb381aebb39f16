"""The built-in domains: reproducible, different from each other, and neither trivial nor impossible to classify."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from mdssl.data.builtin import BUILTIN, builtin_source, drawings
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import ensure_builtin


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    ensure_builtin(data, BUILTIN)
    return {name: open_dataset(data, name) for name in BUILTIN}


def test_builtin_domains_have_ten_balanced_classes_and_are_called_synthetic(domains):
    for dataset in domains.values():
        assert dataset.builtin
        assert "synthetic built-in domain" in dataset.description
        assert dataset.counts == {"train": 2000, "test": 1000}
        assert dataset.image_size == 32
        for split, each in (("train", 200), ("test", 100)):
            assert np.bincount(dataset.split(split).labels).tolist() == [each] * 10


def test_another_process_draws_the_same_pixels(domains, tmp_path):
    name = "builtin-textures"
    code = f"from mdssl.data.prepare import prepare; print(prepare({name!r}, data={str(tmp_path)!r}).fingerprints)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(domains[name].fingerprints)


def test_this_process_draws_the_same_pixels_again(domains):
    part = builtin_source("builtin-shapes").parts["test"]
    again = np.stack(list(part.read(np.arange(len(part.labels)))))
    assert np.array_equal(again, domains["builtin-shapes"].split("test").images)


def test_no_image_occurs_twice(domains):
    for dataset in domains.values():
        images = [image.tobytes() for split in ("train", "test") for image in dataset.split(split).images]
        assert len(set(images)) == 3000


def test_train_and_test_digits_use_different_scans():
    scans = {split: drawings._scans(split)[0] for split in ("train", "test")}
    train, test = ({scan.tobytes() for scan in scans[split]} for split in ("train", "test"))
    assert len(scans["train"]) + len(scans["test"]) == 1797
    # The original data contains duplicates.
    assert len(train & test) <= 1


def test_the_domains_look_different(domains):
    """A nearest-mean classifier on color statistics separates any two domains far above chance."""

    def statistics(split):
        images = split.images.astype(float) / 255
        edges = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
        tint = images.std(axis=3).mean(axis=(1, 2))
        return np.stack([images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3)), edges, tint], axis=1)

    train = {name: statistics(dataset.split("train")) for name, dataset in domains.items()}
    test = {name: statistics(dataset.split("test")) for name, dataset in domains.items()}
    for first, second in combinations(domains, 2):
        spread = np.concatenate([train[first], train[second]]).std(axis=0)
        near = [np.linalg.norm((test[first] - train[name].mean(axis=0)) / spread, axis=1) for name in (first, second)]
        assert (near[0] < near[1]).mean() > 0.8, (first, second)


@pytest.mark.parametrize("name", BUILTIN)
def test_linear_probe_on_8x8_pixels_is_above_chance_and_below_90_percent(domains, name):
    """Ridge regression on 8x8 averages is fast and scores well below the probes in the docstring of the package."""

    def features(split):
        small = split.images.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(split.labels), -1) / 255
        return np.hstack([small, small**2, np.ones((len(small), 1))])

    train, test = domains[name].split("train"), domains[name].split("test")
    x = features(train)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.eye(10)[train.labels])
    correct = (features(test) @ weights).argmax(axis=1) == test.labels
    assert 0.15 < correct.mean() < 0.9
