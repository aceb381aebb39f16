"""Fixtures of tests of training."""

import pytest
import torch
from factories import LikeCuda
from networks import network

from mdssl.pretrain import loop


@pytest.fixture
def gpu(monkeypatch):
    """A CPU that the training loop takes for a GPU with a peak memory of 3 GiB, after 9 GiB of an earlier training."""
    peaks = [9, 3]
    monkeypatch.setattr(loop, "pick_device", lambda device: LikeCuda("cpu"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.__delitem__(slice(-1)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peaks[0] * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA X")


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    return network()


@pytest.fixture(scope="module")
def small_stem() -> torch.nn.Module:
    return network(stem="cifar")
