"""Encoders of timm, trained like a ResNet and compared with the networks of timm, which tests install."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.transforms.v2.functional as TF
from factories import Killed, kill_at, prepare_arrays, stripes, tiny_trial
from torch import nn
from torch.nn import functional as F

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.evaluate.features import extract_features
from mdssl.leaderboard.board import read
from mdssl.pretrain.augment import normalize
from mdssl.pretrain.encoder import load_encoder
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.pretrained import complete
from mdssl.pretrain.step import backward_at_once, statistics_untouched
from mdssl.pretrain.timm_encoder import timm_input
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location

timm = pytest.importorskip("timm")
FAMILIES = {
    "timm/test_vit": {"img_size": 32, "patch_size": 4},
    "timm/test_convnext": {},
    "timm/test_efficientnet": {},
    "timm/test_resnet": {},
    "timm/test_maxvit": {"img_size": 32},
}
"""Arguments of timm for images of 32 pixels, by name of the network. The first two networks have layer norm, the third
batch norm with activation, the fourth plain batch norm, and the fifth layer norm and batch norm. All but the third
expect images normalized with mean 0.5 and standard deviation 0.5."""
VIT = {"arch": "timm/test_vit", "optimizer": "adamw", "learning_rate": 1e-3}


def completed(arch: str, size: int = 32, **changes) -> TrialConfig:
    return tiny_trial(arch=arch, **timm_input(arch, size, None), **changes)


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("arch", FAMILIES)
def test_features_equal_those_of_timms_network_with_its_normalization(arch):
    model = build_model(completed(arch)).eval()
    theirs = timm.create_model(arch.removeprefix("timm/"), num_classes=0, **FAMILIES[arch]).eval()
    theirs.load_state_dict(model.encoder.state_dict())
    published = timm.data.resolve_model_data_config(theirs)
    x = torch.from_numpy(images(3, 32)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = theirs(TF.normalize(x, published["mean"], published["std"]))
    found = extract_features(model, images(3, 32))["encoder"]
    assert found.shape == (3, model.width)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", [*FAMILIES, "timm/swin_tiny_patch4_window7_224"])
def test_forward_pass_in_training_mode_is_deterministic(arch, monkeypatch):
    """timm's Swin has stochastic depth by default; other networks get dropout here."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, drop_rate=0.5))
    model = build_model(completed(arch)).train()
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad(), statistics_untouched(model):
        assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("arch", FAMILIES)
def test_initial_weights_depend_on_the_seed_alone(arch):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (build_model(completed(arch, seed=seed)).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first if name.startswith("encoder."))


@pytest.mark.parametrize(
    ("size", "patch"),
    [(16, 2), (32, 4), (64, 8), (96, 12), (224, 16), (100, 10), (200, 10), (12, 1), (99, 11)],
)
def test_small_images_have_at_least_8_patches_per_side(size, patch):
    found = timm_input("timm/test_vit", size, None)
    assert (found["input_size"], found["patch_size"]) == (size, patch)
    assert found["normalization"] == "0.5 0.5 0.5 0.5 0.5 0.5"
    assert size % patch == 0 and size // patch >= 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "resnet19"}, "unknown arch 'resnet19'.*Did you mean 'resnet18'.*Allowed: resnet18.*Or timm/NAME"),
        ({"arch": "timm/convnext_tinny"}, "Did you mean timm/convnext_tiny.*list_models"),
        ({"arch": "timm/vit"}, r"Did you mean timm/\S+ or timm/\S+ or timm/\S+\? All names"),
        ({"arch": "timm/test_vit.in22k"}, "has no weights 'in22k' in timm; allowed: r160_in1k"),
        ({"arch": "timm/"}, "it must be timm/NAME"),
        ({"arch": "timm/test_vit", "stem": "cifar"}, "stem is 'cifar', but arch 'timm/test_vit'.*Use --stem imagenet"),
        ({"arch": "timm/test_vit", "norm": "group"}, "norm is 'group'.*Use --norm batch"),
        (
            {"arch": "timm/test_vit", "patch_size": 3},
            r"is 3, but images have 16 pixels; allowed: 1, 2, 4, 8, 16\.",
        ),
        ({"arch": "timm/test_convnext", "patch_size": 4}, "has no such setting; leave it out"),
        ({"arch": "resnet18", "patch_size": 4}, "patch_size is 4, but arch 'resnet18' has no patches"),
        ({"arch": "resnet18", "input_size": 32}, "a ResNet is trained on images as they are prepared"),
        ({"arch": "timm/efficientformer_l1"}, "cannot encode images of 16 x 16 pixels.*Prepare larger ones"),
        ({"arch": "timm/test_vit", "input_size": 32}, "input_size is 32, but with these images.*it is 16"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(map(str, value.values())),
)
def test_invalid_settings_are_refused_before_anything_is_written(settings, message, tiny_data, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        train(tiny_trial(**settings), data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_message_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_input.cache_clear()
    with pytest.raises(ValueError, match=r"package timm, which is not installed.*pip install 'mdssl\[timm\]'"):
        timm_input("timm/test_vit2", 16, None)


def test_untrained_encoder_requires_the_size_of_its_images():
    untrained = TrialConfig(method="random", arch="timm/test_vit")
    for make in (build_model, lambda config: complete(config, None)):
        with pytest.raises(ValueError, match="--input-size 32"):
            make(untrained)
    assert complete(replace(untrained, input_size=32), None).patch_size == 4


def test_trial_id_depends_on_the_settings_of_its_kind_of_encoder():
    vit = completed("timm/test_vit")
    assert replace(vit, patch_size=8).trial_id != vit.trial_id
    assert replace(vit, normalization="").trial_id != vit.trial_id
    assert TrialConfig.from_dict(json.loads(json.dumps(vit.to_dict()))) == vit
    # IDs of trials with ResNets are those from before there were encoders of timm.
    assert TrialConfig(domains=("a", "b")).trial_id == "7f49ecddd841"
    assert TrialConfig(method="random").trial_id == "859bcfa2da9d"


@pytest.mark.parametrize("arch", ["timm/test_vit", "timm/test_efficientnet"])
def test_a_killed_run_resumes_bit_for_bit(arch, tiny_data, tmp_path):
    trial = tiny_trial(**VIT | {"arch": arch})
    settings = RunSettings(report_every=1, checkpoint_seconds=0)
    options = {"data": tiny_data, "settings": settings, "device": "cpu"}
    train(trial, trial_dir=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(trial, trial_dir=tmp_path / "killed", report=kill_at(4), **options)
    train(trial, trial_dir=tmp_path / "killed", **options)
    whole, killed = (
        safetensors.torch.load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], value) for name, value in killed.items())
    initial = build_model(completed(**VIT | {"arch": arch, "size": 16})).state_dict()
    assert not torch.equal(whole["projection.0.weight"], initial["projection.0.weight"]), "the model was trained"


def test_encoder_computes_the_same_features_in_another_process(tiny_data, tmp_path):
    train(tiny_trial(**VIT), data=tiny_data, trial_dir=tmp_path / "trial", device="cpu")
    pixels = torch.from_numpy(images(3, 16)).permute(0, 3, 1, 2)
    torch.save(pixels, tmp_path / "pixels.pt")
    code = f"""
import torch
from mdssl import load_encoder
encoder = load_encoder({str(tmp_path / "trial")!r}, device="cpu")
with torch.no_grad():
    torch.save((encoder.width, encoder(torch.load({str(tmp_path / "pixels.pt")!r}))), {str(tmp_path / "out.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    width, found = torch.load(tmp_path / "out.pt")
    encoder = load_encoder(tmp_path / "trial", device="cpu")
    with torch.no_grad():
        assert torch.equal(found, encoder(pixels))
        # Images of another size are resized to the size of the training images.
        larger = torch.from_numpy(images(3, 24)).permute(0, 3, 1, 2).float() / 255
        resized = F.interpolate(larger, size=(16, 16), mode="bilinear", antialias=True)
        assert torch.equal(encoder(larger), encoder(resized))
    assert width == found.shape[1] == 64


def test_images_of_other_sizes_are_resized_to_the_size_of_the_training_images(tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    rng = np.random.default_rng(0)
    (train_images, train_labels), (test_images, test_labels) = (stripes(rng, count, 4, 24, 0) for count in (80, 24))
    arrays = {"train_images": train_images, "train_labels": train_labels}
    prepare_arrays("larger", data, 24, **arrays, test_images=test_images, test_labels=test_labels)
    storage, common = tmp_path / "results", ["--storage", str(tmp_path / "results"), "--data", str(data)]
    # Not test_vit, which accepts images of any size.
    command = ["train", "--domains", "tiny-a", "tiny-b", "--arch", "timm/vit_tiny_patch16_224", "--iterations", "2"]
    command += [
        "--track",
        "none",
        "--batch-per-domain",
        "8",
        "--score-every",
        "1",
        "--evaluate",
        "larger",
        "--device",
        "cpu",
    ]
    assert main([*command, *common]) == 0
    (trial_id,) = (file.name for file in (storage / "trials").iterdir())
    assert main(["probe", trial_id, "--evaluate", "larger", "--device", "cpu", *common]) == 0
    config, model = load_model(Location.of(storage) / "trials" / trial_id)
    assert config.input_size == 16
    resized = F.interpolate(
        torch.from_numpy(test_images).permute(0, 3, 1, 2).float() / 255, (16, 16), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = model.encoder(normalize(resized))
    torch.testing.assert_close(extract_features(model, test_images, input_size=16)["encoder"], expected)
    (scored,) = read(storage, trial_id=trial_id).to_dict("records")
    assert scored["eval_dataset"] == "larger" and scored["val_top1"] > 0


def test_statistics_untouched_includes_the_batch_norm_of_timm():
    model = build_model(completed("timm/test_efficientnet")).train()
    norm = next(module for module in model.modules() if type(module).__name__ == "BatchNormAct2d")
    with statistics_untouched(model):
        model(torch.randn(4, 3, 32, 32))
    assert norm.num_batches_tracked == 0 and (norm.running_mean == 0).all()


def test_transformer_is_compiled_without_a_graph_break():
    torch._dynamo.reset()
    trial = completed("timm/test_vit")
    model = build_model(trial)
    views = torch.randn(32, 3, 32, 32)
    expected = model(views)
    model.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(views), expected, rtol=1e-5, atol=1e-5)
    backward_at_once(trial, model, views, [[8, 8]])
    assert model.eager_passes == 1


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_each_family_trains_with_joint_and_with_per_domain_batching(arch, precision):
    for batching in ("joint", "per-domain"):
        trial = completed(arch, batching=batching, precision=precision)
        model = build_model(trial)
        views = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        loss = backward_at_once(trial, model, views, [[4, 4]])
        assert torch.isfinite(loss.total)
        # DistributedDataParallel waits for the gradient of each parameter.
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_tokens_and_position_embeddings_have_no_weight_decay():
    model = build_model(completed("timm/test_vit"))
    groups = build_optimizer(completed("timm/test_vit", weight_decay=0.1), model).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert not names & {"encoder.pos_embed", "encoder.cls_token", "encoder.reg_token"}
    assert "encoder.blocks.0.attn.qkv.weight" in names and "projection.0.weight" in names
