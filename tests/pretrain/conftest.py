"""Fixtures of tests of training."""

import pytest
import torch
from factories import LikeCuda
from networks import network

from mdssl.pretrain import loop


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that the training loop takes for a GPU with a peak memory of 3 GiB."""
    monkeypatch.setattr(loop, "pick_device", lambda device: LikeCuda("cpu"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA X")


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return network()


@pytest.fixture(scope="module")
def small_stem() -> torch.nn.Module:
    return network(stem="cifar")
