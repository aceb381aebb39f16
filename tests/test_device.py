"""Devices: which one a process takes, what it computes float32 in, and numbers on their way from it."""

import pytest
import torch

from mdssl.device import Fetched, pick_device


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, of which this process is given the second by torchrun; gives those that were made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    # PyTorch's default for convolutions, and what a user may have asked for in matrix products.
    for backend in backends:
        backend.allow_tf32 = True
    yield current
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.parametrize(
    ("asked", "local_rank", "expected"),
    [("cuda", 1, 1), ("cuda", 0, 0), ("auto", 1, 1), ("auto", 3, 1), ("cuda:0", 1, 0), ("cuda:1", 0, 1)],
)
def test_a_process_takes_its_own_gpu_and_makes_it_the_current_one(gpus, monkeypatch, asked, local_rank, expected):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert pick_device(asked) == f"cuda:{expected}"
    assert gpus == [expected]


def test_without_torchrun_cuda_is_the_first_gpu(gpus, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK")
    assert pick_device("cuda") == pick_device("auto") == "cuda:0"


def test_float32_is_float32_on_a_gpu(gpus):
    pick_device("cuda:1")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_cpu_is_left_as_it_is(gpus, monkeypatch):
    assert pick_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    assert gpus == []
    assert torch.backends.cudnn.allow_tf32


def test_a_device_that_is_not_there_is_named(gpus):
    with pytest.raises(ValueError, match="unknown device 'cuda:2'; allowed: auto, cpu, cuda, cuda:0, cuda:1"):
        pick_device("cuda:2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_numbers_arrive_as_they_were_when_they_were_sent():
    x = torch.arange(4.0, device="cuda").view(2, 2)
    first = Fetched(x)
    x += 1
    second = Fetched(x)
    assert (first.tolist(), second.tolist()) == ([[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]])
    assert 0 <= second.seconds_since(first) < 1
