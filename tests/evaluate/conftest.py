"""Fixtures for tests of scores: features of labeled images, a small model and a small dataset."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from mdssl.evaluate import features


@pytest.fixture(scope="session")
def digits() -> tuple[torch.Tensor, ...]:
    """train_x (1200, 64), train_y, test_x (597, 64), test_y: pixels as features, some of them constant."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order]).long()
    return x[:1200], y[:1200], x[1200:], y[1200:]


class TinyModel(nn.Module):
    """A model with batch normalization and dropout, whose training and evaluation modes differ."""

    input_size = None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.projection = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))


@pytest.fixture
def tiny_model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel()


@pytest.fixture
def make_dataset():
    """(train labels, test labels, number of classes) -> a dataset whose images are tinted by their true class.

    The dataset has the given labels; ``test_tint`` gives the true classes of test images that have other labels.
    """

    def make(train_labels, test_labels, num_classes, *, test_tint=None):
        rng = np.random.default_rng(0)
        splits = {}
        for name, labels, tint in (
            ("train", train_labels, train_labels),
            ("test", test_labels, test_labels if test_tint is None else test_tint),
        ):
            labels, tint = np.asarray(labels, dtype=np.int64), np.asarray(tint, dtype=np.int64)
            colours = np.random.default_rng(1).integers(40, 215, (num_classes, 1, 1, 3))[tint]
            images = (colours + rng.normal(0, 25, (len(tint), 8, 8, 3))).clip(0, 255).astype(np.uint8)
            images.flags.writeable = labels.flags.writeable = False
            splits[name] = SimpleNamespace(images=images, labels=labels, fingerprint="")
        classes = tuple(f"class-{index}" for index in range(num_classes))
        return SimpleNamespace(name="tinted", classes=classes, split=splits.__getitem__)

    return make


@pytest.fixture
def steep(digits):
    """Digits transformed to resemble ResNet features: non-negative, correlated, some 1,000 times larger than others."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 96, generator=generator) + 0.5
    sizes = torch.logspace(-1, 2, 96)
    return tuple(part if part.ndim == 1 else (part @ mix / 64).relu() * sizes for part in digits)


@pytest.fixture
def passes(monkeypatch) -> set:
    """Device and input size of each pass of an encoder."""
    seen, to_views = set(), features._to_views
    monkeypatch.setattr(features, "_to_views", lambda images, *how: seen.add(how) or to_views(images, *how))
    return seen
