"""Encoder f and projection head g (table 6): a network without its classifier, and a two-layer MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from mdssl.config.encoders import is_timm
from mdssl.config.trial import TrialConfig
from mdssl.pretrain.timm_encoder import timm_encoder

if TYPE_CHECKING:
    from torchvision.models import ResNet


class Model(nn.Module):
    """``model(views)`` gives z = g(f(x)); ``model.encoder`` alone gives the features that a probe scores.

    Attributes:
        encoder: (B, 3, S, S) normalized views to (B, width) features; width 512 for ResNet-18, 2048 for ResNet-50. With
            the names of torchvision or timm.
        projection: (B, width) features to (B, projection_dim) representations, not yet l2-normalized.
        width: number of features.
        input_size: pixels that images are resized to before they are encoded; None for any.
        eager_passes: number of passes without compiled code.
    """

    def __init__(self, config: TrialConfig):
        super().__init__()
        self.encoder, self.width = timm_encoder(config) if is_timm(config.arch) else _resnet_encoder(config)
        width, self.input_size = self.width, config.input_size
        self.eager_passes = 0
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.projection_dim))
        self._is_frozen = False

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is in training, with its batch-norm statistics."""
        self._is_frozen = True
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        if self._is_frozen:
            self.encoder.eval()
        return self

    def forward(self, views: torch.Tensor, parts: list[int] | None = None) -> torch.Tensor:
        """(B, 3, S, S) to (B, projection_dim). With ``parts``, rows are encoded in consecutive groups of these sizes,
        each with its own batch-norm statistics."""
        groups = [views] if parts is None else views.split(parts)
        return torch.cat([self._encode(group) for group in groups])

    def _encode(self, views: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            self.eager_passes += 1
        return self.projection(self.encoder(views))

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the pass of one group, with the arguments of `torch.compile`. For any number and sizes of groups,
        PyTorch compiles it once for the first size, and once or twice for all others."""
        self._encode = torch.compile(self._encode, *args, **options)  # type: ignore[method-assign]


def build_model(config: TrialConfig) -> Model:
    """Build a model on the CPU, for every device; its initial weights depend only on ``config.seed`` and its shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Model(config).to(memory_format=torch.channels_last)


def _resnet_encoder(config: TrialConfig) -> tuple[nn.Module, int]:
    norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d if config.norm == "batch" else _group_norm
    encoder = resnet(config.arch, norm_layer)
    width = encoder.fc.in_features
    encoder.fc = nn.Identity()
    if config.stem != "imagenet":
        # solo-learn's encoders for CIFAR pad by 2; their weights give other features without it.
        padding = {"cifar": 1, "cifar-pad2": 2}[config.stem]
        encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=padding, bias=False)
        nn.init.kaiming_normal_(encoder.conv1.weight, mode="fan_out", nonlinearity="relu")
        encoder.maxpool = nn.Identity()
    _speed_up_small_maps(encoder)
    return encoder, width


def resnet(arch: str, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> ResNet:
    """Torchvision's network with random weights."""
    # Imported late: torchvision imports torch._dynamo, which doubles the time and memory of a process without models.
    import torchvision

    network: ResNet = getattr(torchvision.models, arch)(weights=None, norm_layer=norm_layer)
    return network


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1, fast on a CPU for maps of 2x2 or 1x1, which the paper's stem makes of 32x32.

    Each output pixel sees the whole map through a part of the kernel, so it is one matrix product. PyTorch's CPU
    kernels multiply the padding as well, and take half of a ResNet-18's training step for these few layers.
    """

    @classmethod
    def like(cls, conv: nn.Conv2d) -> SmallMapConv2d:
        """Copy ``conv``, which has one group, no dilation and no bias, with the same weights."""
        down, right = conv.stride
        new = cls(conv.in_channels, conv.out_channels, 3, (down, right), padding=1, bias=False, device="meta")
        new.weight = conv.weight
        return new

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        if x.device.type != "cpu" or max(height, width) > 2:
            return super().forward(x)
        rows = [slice(1 - top, 1 - top + height) for top in range(0, height, self.stride[0])]
        columns = [slice(1 - left, 1 - left + width) for left in range(0, width, self.stride[1])]
        pixels = [F.linear(x.flatten(1), self.weight[:, :, r, c].flatten(1)) for r in rows for c in columns]
        return torch.stack(pixels, -1).unflatten(-1, (len(rows), len(columns)))


def _speed_up_small_maps(encoder: nn.Module) -> None:
    for block in encoder.modules():
        for name, child in block.named_children():
            if type(child) is not nn.Conv2d or (child.kernel_size, child.padding) != ((3, 3), (1, 1)):
                continue
            # ResNeXt has convolutions in groups, which stay as they are.
            if child.groups == 1 and child.dilation == (1, 1) and child.bias is None:
                setattr(block, name, SmallMapConv2d.like(child))
