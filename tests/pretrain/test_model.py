"""Encoder and projection head: the shapes of table 6, initial weights, and faster layers with the same results."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.pretrain.model import SmallMapConv2d, build_model

pytestmark = pytest.mark.usefixtures("full_encoders")


def config(**changes):
    return TrialConfig(**{"arch": "resnet18", "domains": ("a",)} | changes)


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_widths_are_those_of_table_6(arch, width):
    model = build_model(config(arch=arch)).eval()
    x = torch.randn(2, 3, 32, 32)
    assert model.encoder(x).shape == (2, width)
    assert model(x).shape == (2, 128)
    assert model.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert [layer.weight.shape for layer in (model.projection[0], model.projection[2])] == [
        (width, width),
        (128, width),
    ]


@pytest.mark.parametrize(
    ("arch", "norm", "fast_layers"),
    [
        ("resnet18", "batch", 16),
        ("resnet18", "group", 16),
        ("resnext50_32x4d", "batch", 0),
        ("wide_resnet50_2", "batch", 16),
    ],
)
def test_encoder_is_torchvisions_resnet(arch, norm, fast_layers):
    """torchvision's network computes our features when it has our weights."""
    ours = build_model(config(arch=arch, norm=norm)).eval().double()
    # All 3×3 convolutions are fast on small maps, except those in groups.
    assert sum(isinstance(module, SmallMapConv2d) for module in ours.modules()) == fast_layers
    norm_layer = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, 32)
    theirs = getattr(torchvision.models, arch)(norm_layer=norm_layer).double()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.encoder.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    # In float64 only the order of sums makes a difference.
    torch.testing.assert_close(ours.encoder(x), theirs.eval()(x), rtol=1e-9, atol=1e-9)


def test_cifar_stem_keeps_the_resolution():
    encoder = build_model(config(stem="cifar")).encoder
    x = torch.randn(1, 3, 32, 32)
    assert encoder.maxpool(encoder.conv1(x)).shape == (1, 64, 32, 32)
    # He et al. 2015, eq. 14, as in torchvision: of the 64 output channels times 3×3 pixels.
    assert encoder.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_map_convolution_equals_conv2d(monkeypatch, stride, size):
    conv = nn.Conv2d(5, 7, 3, stride=stride, padding=1, bias=False).double()
    fast = SmallMapConv2d.like(conv)
    x = torch.randn(4, 5, size, size, dtype=torch.float64, requires_grad=True)
    slow = conv(x)
    if size < 3:
        monkeypatch.setattr(nn.Conv2d, "forward", None)  # not used for small maps
    results = [(y, *torch.autograd.grad(y.square().sum(), (x, conv.weight))) for y in (slow, fast(x))]
    torch.testing.assert_close(*results)


def test_seed_sets_initial_weights_without_changing_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (build_model(config(seed=seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    # They are those of torchvision's network, and then of the head, drawn by PyTorch's generator with this seed.
    torch.manual_seed(0)
    theirs, head = torchvision.models.resnet18(), [nn.Linear(512, 512), nn.Linear(512, 128)]
    assert torch.equal(first["encoder.layer4.1.conv2.weight"], theirs.layer4[1].conv2.weight)
    assert torch.equal(first["projection.2.bias"], head[1].bias)
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])


def test_parts_give_each_group_its_own_batch_norm_statistics():
    # In float64, because batch norm over few images amplifies rounding errors.
    model = build_model(config()).train().double()
    x = torch.cat([torch.randn(6, 3, 32, 32), 5 + torch.randn(4, 3, 32, 32)]).double()
    apart = model(x, [6, 4])
    torch.testing.assert_close(apart, torch.cat([model(x[:6]), model(x[6:])]), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(apart, model(x), atol=1e-2)
    assert model.eager_passes == 2 + 2 + 1
