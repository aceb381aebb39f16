"""Fixtures of tests of training."""

import pytest
import safetensors.torch
import torch
import torchvision
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


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A file of test_vit's weights for 32 pixels under timm's names, with the classifier; and the network."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(7)
    network = timm.create_model("test_vit", img_size=32, patch_size=4, num_classes=10).eval()
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    return file, network


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file
