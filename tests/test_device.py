"""Devices: the choice of a device, the precision of float32 on it, and copies to the host."""

import pytest
import torch

from mdssl.device import Fetched, pick_device


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, the second of which torchrun assigns to this process; gives the devices that were made current."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    # PyTorch's default for convolutions, and a setting that a user may have made for matrix products.
    for backend in backends:
        backend.allow_tf32 = True
    yield current
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.parametrize(
    ("asked", "local_rank", "expected"),
    [("cuda", 1, 1), ("cuda", 0, 0), ("auto", 1, 1), ("auto", 3, 1), ("cuda:0", 1, 0), ("cuda:1", 0, 1)],
)
def test_process_takes_its_own_gpu_and_makes_it_current(gpus, monkeypatch, asked, local_rank, expected):
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert pick_device(asked) == f"cuda:{expected}"
    assert gpus == [expected]


def test_without_torchrun_cuda_is_the_first_gpu(gpus, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK")
    assert pick_device("cuda") == pick_device("auto") == "cuda:0"


def test_tf32_is_disabled_on_a_gpu(gpus):
    pick_device("cuda:1")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_cpu_changes_no_gpu_settings(gpus, monkeypatch):
    assert pick_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    assert gpus == []
    assert torch.backends.cudnn.allow_tf32


def test_unknown_device_is_refused(gpus):
    with pytest.raises(ValueError, match="unknown device 'cuda:2'.*Allowed: auto, cpu, cuda, cuda:0, cuda:1"):
        pick_device("cuda:2")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fetched_values_do_not_see_later_changes():
    x = torch.arange(4.0, device="cuda").view(2, 2)
    first = Fetched(x)
    x += 1
    second = Fetched(x)
    assert (first.tolist(), second.tolist()) == ([[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]])
    assert 0 <= second.seconds_since(first) < 1
