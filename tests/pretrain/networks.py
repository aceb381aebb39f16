"""Networks of other libraries, layouts of their files, and a comparison of an encoder with the original network."""

import copy
from types import SimpleNamespace

import torch
import torchvision
from torch import nn

from mdssl.pretrain.model import Model


def network(arch="resnet18", *, stem="imagenet", padding=1) -> nn.Module:
    """torchvision's network with random batch-norm statistics and scales, so that no batch norm is an identity."""
    torch.manual_seed(0)
    resnet = getattr(torchvision.models, arch)()
    if stem == "cifar":
        resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=padding, bias=False)
        resnet.maxpool = nn.Identity()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            for value in (module.running_var, module.weight):
                nn.init.uniform_(value, 0.5, 1.5)
    return resnet.eval()


def under(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def head(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": value for name, value in nn.Linear(512, 8).state_dict().items()}


def lightning(state: dict[str, torch.Tensor], **settings) -> dict:
    """The parts of a Lightning checkpoint, including tensors that belong to no network."""
    return {
        "state_dict": state,
        "pytorch-lightning_version": "2.1.0",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
        "hyper_parameters": settings,
    }


def without_head(resnet: nn.Module) -> nn.Module:
    return nn.Sequential(*list(resnet.children())[:-1])


def assert_computes(pretrained, original: nn.Module, size: int = 64) -> None:
    """Our encoder with these weights computes the input of the original network's classifier."""
    network = {"arch": pretrained.arch, "stem": pretrained.stem, "norm": "batch", "input_size": None}
    config = SimpleNamespace(**network, projection_dim=8)
    with torch.device("meta"):  # without initial weights
        encoder = Model(config).encoder.eval()
    encoder.load_state_dict(pretrained.encoder, assign=True)
    # In float64 only the order of sums makes a difference.
    encoder, original, seen = encoder.double(), copy.deepcopy(original).double(), []
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad(), original.fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        original(x)
        features = encoder(x)
    torch.testing.assert_close(features, seen[0], rtol=1e-9, atol=1e-9 * float(seen[0].max()))


LAYOUTS = {
    "torchvision or timm": lambda net: net.state_dict(),
    "torchvision or timm, under 'module.'": lambda net: {"epoch": 3, "state_dict": under("module.", net)},
    "solo-learn, under 'backbone.'": lambda net: lightning(
        under("backbone.", net) | head("projector.0") | head("classifier")
    ),
    "solo-learn, under 'encoder.'": lambda net: lightning(
        under("encoder.", net) | under("momentum_encoder.", network("resnet18")) | head("classifier")
    ),
    "a numbered nn.Sequential": lambda net: lightning(
        under("backbone.", without_head(net)) | head("projection_head.layers.0")
    ),
    "Lightning Bolts": lambda net: lightning(under("encoder.", net) | head("projection.model.0"), maxpool1=True),
    "Lightning Bolts, under 'encoder.', in torch.save": lambda net: {
        "state_dict": under("encoder.", net) | head("projection.model.0")
    },
    "MoCo, under 'module.encoder_q.'": lambda net: {
        "arch": "resnet18",
        "state_dict": under("module.encoder_q.", net)
        | {name: value + 1 for name, value in under("module.encoder_k.", net).items()}
        | {"module.queue": torch.zeros(8, 4)},
    },
    "torchvision's names, under 'student.module.backbone.'": lambda net: {
        "student": under("module.backbone.", net),
        "teacher": {name: value + 1 for name, value in under("backbone.", net).items()},
    },
}
