"""A thin ResNet-18, with a tenth of the operations and a twentieth of the weights, for tests that use an encoder.

Training takes a sixth of the time, and a checkpoint has 5 MB instead of 90.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType

from torch import nn, optim

VARIABLE = "MDSSL_THIN_ENCODERS"
"""Processes with this environment variable build thin encoders."""
_full: Callable[..., nn.Module]


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + self.downsample(x))


class _Thin(nn.Module):
    """One bottleneck in each of the four stages, and 512 features as in ResNet-18. Layers have torchvision's names, but
    torchvision is not imported, because its import takes longer than most tests that start a process."""

    def __init__(self, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(_Bottleneck(64, 4, 1, norm))
        self.layer2 = nn.Sequential(_Bottleneck(16, 8, 2, norm))
        self.layer3 = nn.Sequential(_Bottleneck(32, 16, 2, norm))
        self.layer4 = nn.Sequential(_Bottleneck(64, 128, 2, norm))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _thin(arch: str, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    if arch != "resnet18":
        return _full(arch, norm_layer)
    # With one channel per group, GroupNorm would set 1x1 maps to zero.
    return _Thin(norm_layer if norm_layer is nn.BatchNorm2d else lambda channels: nn.GroupNorm(2, channels))


def install(model: ModuleType) -> None:
    """Make ``mdssl.pretrain.model`` build the thin encoder for ``arch="resnet18"``. Other encoders are unchanged."""
    global _full
    if model.resnet is not _thin:
        _full, model.resnet = model.resnet, _thin
    # Optimizers import torch._dynamo, which takes as long as torch, only to mark these methods as not compiled.
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        method = getattr(optim.Optimizer, name).__wrapped__
        method.__dynamo_disable = method


@contextlib.contextmanager
def full() -> Iterator[None]:
    """Within the context, this process and its subprocesses build torchvision's ResNets."""
    import pytest

    from mdssl.pretrain import model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE)
        patch.setattr(model, "resnet", _full)
        yield
