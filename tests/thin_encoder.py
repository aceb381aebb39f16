"""A ResNet-18 with a tenth of the work and a twentieth of the weights, for tests of what is done with an encoder.

Training takes a sixth of the time with it, and a checkpoint has 5 MB instead of 90.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

VARIABLE = "MDSSL_THIN_ENCODERS"
"""Processes in whose environment it is build them."""


class _Thin(ResNet):
    """One narrow block in each of the four stages; 512 features, as ResNet-18 has."""

    def _make_layer(self, block, planes, *more, **named):
        return super()._make_layer(block, planes // (4 if planes == 512 else 16), *more, **named)


def _resnet18(weights: None, norm_layer: type) -> ResNet:
    if norm_layer is not nn.BatchNorm2d:
        norm_layer = partial(nn.GroupNorm, 2)  # of a group with one channel a map of 1x1 leaves nothing
    encoder = _Thin(Bottleneck, [1, 1, 1, 1], norm_layer=norm_layer)
    encoder.fc = nn.Linear(512, 1000)
    return encoder


def install(model: ModuleType) -> None:
    """Have ``mdssl.pretrain.model`` build it for ``arch="resnet18"``. Elsewhere torchvision's own remains."""
    models = SimpleNamespace(resnet18=_resnet18, resnet50=torchvision.models.resnet50)
    model.torchvision = SimpleNamespace(models=models)


@contextlib.contextmanager
def full() -> Iterator[None]:
    """Within the context, ResNets as torchvision has them, in this process and in those that it starts."""
    from mdssl.pretrain import model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(VARIABLE)
        patch.setattr(model, "torchvision", torchvision)
        yield
