"""A ResNet-18 with a tenth of the work and a twentieth of the weights, for tests of what is done with an encoder.

Training takes a sixth of the time with it, and a checkpoint has 5 MB instead of 90.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import pytest
from torch import nn

VARIABLE = "MDSSL_THIN_ENCODERS"
"""Processes in whose environment it is build them."""
_full: Callable[..., nn.Module]


def _thin(arch: str, norm_layer: type = nn.BatchNorm2d) -> nn.Module:
    """For ``arch="resnet18"`` one narrow block in each of the four stages; 512 features, as ResNet-18 has."""
    if arch != "resnet18":
        return _full(arch, norm_layer)
    from torchvision.models.resnet import Bottleneck, ResNet

    class Thin(ResNet):
        def _make_layer(self, block, planes, *more, **named):
            return super()._make_layer(block, planes // (4 if planes == 512 else 16), *more, **named)

    if norm_layer is not nn.BatchNorm2d:
        norm_layer = partial(nn.GroupNorm, 2)  # of a group with one channel a map of 1x1 leaves nothing
    encoder = Thin(Bottleneck, [1, 1, 1, 1], norm_layer=norm_layer)
    encoder.fc = nn.Linear(512, 1000)
    return encoder


def install(model: ModuleType) -> None:
    """Have ``mdssl.pretrain.model`` build it for ``arch="resnet18"``. Elsewhere torchvision's own remains."""
    global _full
    _full, model.resnet = model.resnet, _thin


@contextlib.contextmanager
def full() -> Iterator[None]:
    """Within the context, ResNets as torchvision has them, in this process and in those that it starts."""
    from mdssl.pretrain import model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE)
        patch.setattr(model, "resnet", _full)
        yield
