"""Encoders of other libraries: for each layout, our encoder must compute the features of the original network."""

import re

import pytest
import safetensors.torch
import torch
import torchvision
from networks import LAYOUTS, assert_computes, head, lightning, network, under, without_head
from torch import nn

from mdssl.config.encoders import RESNETS
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.pretrain import resnet_layouts
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.model import build_model
from mdssl.pretrain.pretrained import Network, load_pretrained, load_start, pretrained_config
from mdssl.pretrain.trial_files import write_finished
from mdssl.pretrain.weights_file import read_weights
from mdssl.storage.location import Location

pytestmark = pytest.mark.usefixtures("full_encoders")


@pytest.mark.parametrize("source", LAYOUTS)
def test_loaded_encoder_computes_the_features_of_the_original_network(resnet, tmp_path, source):
    torch.save(LAYOUTS[source](resnet), tmp_path / "weights.pth")
    found = load_pretrained(tmp_path / "weights.pth")
    assert (found.arch, found.stem) == ("resnet18", "imagenet")
    assert found.source.startswith(source)
    assert_computes(found, resnet)


def test_resnet50_is_recognized(tmp_path):
    resnet = network("resnet50")
    torch.save(resnet.state_dict(), tmp_path / "resnet50.pth")
    found = load_pretrained(tmp_path / "resnet50.pth")
    assert (found.arch, found.stem) == ("resnet50", "imagenet")
    assert_computes(found, resnet)


@pytest.mark.parametrize("layout", ["named", "numbered", "numbered without a pool", "shortcuts"])
def test_cifar_stem_is_recognized(small_stem, tmp_path, layout):
    children = [child for child in list(small_stem.children())[:-1] if not isinstance(child, nn.Identity)]
    state = {
        "named": small_stem.state_dict(),
        "numbered": without_head(small_stem).state_dict(),
        "numbered without a pool": nn.Sequential(*children).state_dict(),
        "shortcuts": {k.replace("downsample", "shortcut"): v for k, v in under("encoder.module.", small_stem).items()},
    }[layout]
    torch.save(state, tmp_path / "weights.pt")
    found = load_pretrained(tmp_path / "weights.pt")
    assert found.stem == "cifar"
    assert_computes(found, small_stem, size=32)


def test_a_numbered_activation_with_weights_is_refused(resnet, tmp_path):
    torch.save(without_head(resnet).state_dict() | {"2.weight": torch.ones(1)}, tmp_path / "prelu.pth")
    with pytest.raises(ValueError, match=r"2\.weight"):
        load_pretrained(tmp_path / "prelu.pth")


def test_solo_learns_cifar_stem_keeps_its_padding_of_two(tmp_path):
    padded = network(stem="cifar", padding=2)
    torch.save(lightning(under("backbone.", padded) | head("projector.0") | head("classifier")), tmp_path / "byol.ckpt")
    found = load_pretrained(tmp_path / "byol.ckpt")
    assert found.stem == "cifar-pad2"
    assert_computes(found, padded, size=32)
    with pytest.raises(AssertionError):
        assert_computes(found._replace(stem="cifar"), padded, size=32)
    assert pretrained_config(tmp_path / "byol.ckpt", arch="resnet18")[0].stem == "cifar-pad2"
    with pytest.raises(ValueError, match="Training cannot start from it"):
        load_start(str(tmp_path / "byol.ckpt"), Network("resnet18", "cifar"))


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_own_encoder_file_is_loaded_unchanged(tmp_path, stem):
    config = TrialConfig(method="random", arch="resnet18", stem=stem, projection_dim=8)
    model = build_model(config)
    write_finished(Location.of(tmp_path), config, model, LoopState(), device="cpu", workers=1)
    found = load_pretrained(tmp_path / "encoder.safetensors")
    assert (found.arch, found.stem, found.source) == ("resnet18", stem, "mdssl's encoder.safetensors")
    assert all(torch.equal(value, found.encoder[name]) for name, value in model.encoder.state_dict().items())
    assert found.unmatched[0].startswith("projection.") and len(found.unmatched) == 4


def test_fingerprint_of_weights_does_not_depend_on_the_file_format(resnet, tmp_path):
    torch.save(LAYOUTS["solo-learn, under 'backbone.'"](resnet), tmp_path / "a.ckpt")
    numbered = without_head(resnet).state_dict().items()
    by_channel = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in numbered}
    torch.save(by_channel, tmp_path / "b.pt")
    safetensors.torch.save_file(under("backbone.", resnet), tmp_path / "c.bin")
    torch.save(resnet.state_dict(), tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    found = [load_pretrained(tmp_path / name).fingerprint for name in ("a.ckpt", "b.pt", "c.bin", "d.pth")]
    assert len(set(found)) == 1
    assert re.fullmatch("[0-9a-f]{16}", found[0])
    torch.save(resnet.state_dict() | {"bn1.bias": torch.full((64,), 1e-7)}, tmp_path / "other.pth")
    assert load_pretrained(tmp_path / "other.pth").fingerprint != found[0]
    # Names and shapes are part of it.
    same_bytes = [{"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"b": torch.zeros(2, 3)}]
    assert len(set(map(resnet_layouts.fingerprint_of, same_bytes))) == 3


def test_unused_tensors_are_listed(resnet, tmp_path):
    torch.save(LAYOUTS["MoCo, under 'module.encoder_q.'"](resnet), tmp_path / "moco.pth")
    unmatched = load_pretrained(tmp_path / "moco.pth").unmatched
    assert list(unmatched) == sorted(unmatched)
    assert {"module.encoder_q.fc.weight", "module.queue", "module.encoder_k.conv1.weight"} <= set(unmatched)
    assert not any(name.startswith(("module.encoder_q.layer", "module.encoder_q.conv1")) for name in unmatched)


def test_batch_counters_may_be_absent(resnet, tmp_path):
    old = {name: value for name, value in resnet.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    found = load_pretrained(tmp_path / "old.pth")
    assert found.encoder["bn1.num_batches_tracked"] == 0
    assert_computes(found, resnet)


def test_copies_of_one_network_are_accepted_and_different_networks_refused(resnet, tmp_path):
    torch.save(under("backbone.", resnet) | under("model.backbone.", resnet), tmp_path / "twice.pth")
    assert_computes(load_pretrained(tmp_path / "twice.pth"), resnet)
    shifted = {name: value + 1 for name, value in under("b.", resnet).items()}
    torch.save(under("a.", resnet) | shifted, tmp_path / "two.pth")
    with pytest.raises(InputError, match=r"two.pth cannot be loaded: it holds 2 different ResNets, under 'a.', 'b.'"):
        load_pretrained(tmp_path / "two.pth")


@pytest.mark.parametrize("arch", [name for name in RESNETS if name not in ("resnet18", "resnet50")])
def test_each_torchvision_resnet_is_recognized_by_its_shapes(arch, tmp_path):
    with torch.device("meta"):
        state = getattr(torchvision.models, arch)().state_dict()
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
    torch.save(state, tmp_path / "weights.pth")
    _, trunk, _ = resnet_layouts._choose(read_weights(Location.of(tmp_path / "weights.pth")))
    assert resnet_layouts._arch_of(trunk) == arch


def deep_stem() -> dict[str, torch.Tensor]:
    resnet = torchvision.models.resnet50()
    resnet.conv1 = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3))
    return resnet.state_dict()


def squeezed() -> dict[str, torch.Tensor]:
    return torchvision.models.resnet18().state_dict() | {"layer1.0.se.fc1.weight": torch.zeros(4, 64, 1, 1)}


def numbered_without(*left_out: str) -> dict[str, torch.Tensor]:
    """lightly's ResNetGenerator calls its ReLU in forward, so its children are conv1, bn1, layer1, …"""
    children = torchvision.models.resnet18().named_children()
    return nn.Sequential(*(child for name, child in children if name not in left_out)).state_dict()


OTHERS = {
    "looks like a ResNet of 1-1-1-1 basic blocks": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]
    ).state_dict(),
    "deep stem or a bias, such as timm's resnet50d": deep_stem,
    r"another width.*groups.*layer1.0.conv1.weight is \(96, 64, 1, 1\)": lambda: torchvision.models.resnet50(
        width_per_group=96
    ).state_dict(),
    "looks like a ResNet of 2-2-2-0 basic blocks": lambda: numbered_without("layer4"),
    "7x7 stem has no max-pool": lambda: numbered_without("maxpool"),
    "looks like a vision transformer": lambda: {"cls_token": torch.zeros(1, 1, 8), "head.weight": torch.zeros(2, 8)},
    "looks like features.0.weight, ": lambda: torchvision.models.vgg11().features.state_dict(prefix="features."),
    r"resnet18 with further layers \(layer1.0.se.fc1.weight\)": squeezed,
    "without a ReLU": lambda: numbered_without("relu", "maxpool", "avgpool", "fc"),
    "such as GroupNorm": lambda: torchvision.models.resnet18(norm_layer=lambda c: nn.GroupNorm(32, c)).state_dict(),
}


@pytest.mark.parametrize("message", OTHERS)
def test_unsupported_architecture_is_refused_with_a_description(tmp_path, message):
    with torch.device("meta"):
        state = OTHERS[message]()
    # Only names and shapes matter, so each tensor is one expanded number.
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=rf"(?s)other.pth cannot be loaded.*{message}.*Allowed: ResNets of torchvision"
    ):
        load_pretrained(tmp_path / "other.pth")


@pytest.mark.parametrize("path", ["resnetblur50-84f4748f.pth", "resnetaa50.a1h_in1k/model.pth"])
def test_anti_aliased_network_is_refused_by_its_path(resnet, tmp_path, path):
    """Tensors of timm's anti-aliased networks have the names and shapes of those of plain ResNets."""
    (tmp_path / path).parent.mkdir(exist_ok=True)
    torch.save(resnet.state_dict(), tmp_path / path)
    with pytest.raises(InputError, match=r"name contains resnet(blur|aa)50, an anti-aliased network"):
        load_pretrained(tmp_path / path)


def test_imagenet_stem_trained_without_max_pooling_is_refused(resnet, tmp_path):
    torch.save(lightning(under("encoder.", resnet), first_conv=True, maxpool1=False), tmp_path / "stl10.ckpt")
    with pytest.raises(InputError, match="imagenet stem was trained with maxpool1=False"):
        load_pretrained(tmp_path / "stl10.ckpt")


def test_quantized_weights_are_refused(resnet, tmp_path):
    torch.save(resnet.state_dict() | {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)}, tmp_path / "q.pth")
    with pytest.raises(InputError, match="conv1.weight is of torch.int8"):
        load_pretrained(tmp_path / "q.pth")


def test_message_names_at_most_five_missing_tensors(resnet, tmp_path):
    partial = {name: value for name, value in resnet.state_dict().items() if not name.startswith("layer2.0.")}
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(
        InputError, match=r"lacks layer2.0.conv1.weight, (\S+, ){3}layer2.0.bn1.running_var and 10 more"
    ):
        load_pretrained(tmp_path / "partial.pth")
    del partial["conv1.weight"]
    torch.save(partial | resnet.layer2.state_dict(prefix="layer2."), tmp_path / "stemless.pth")
    with pytest.raises(InputError, match="lacks conv1.weight. "):
        load_pretrained(tmp_path / "stemless.pth")
