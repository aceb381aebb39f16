"""Training that starts from weights: loading, refusals, trial IDs, learning rates, and baselines of sweeps."""

import io
import json
import logging
import math
import shutil
from dataclasses import replace
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl import Sweep
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain import timm_weights
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.pretrained import (
    Network,
    check_init_exists,
    complete,
    load_start,
    pretrained_config,
    pretrained_model,
)
from mdssl.sweep.grid import trials

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("full_encoders")
VIT = {"arch": "timm/test_vit", "optimizer": "adamw", "learning_rate": 1e-3}
EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)


def weights(folder):
    return safetensors.torch.load_file(folder / "encoder.safetensors")


def test_training_starts_from_the_file_and_logs_unused_tensors_once(vit, tiny_data, tmp_path, caplog):
    file, network = vit

    caplog.set_level(logging.INFO)
    # With learning rate 0 the step changes no weight, so the encoder is that of the file.
    trial = tiny_trial(**VIT | {"learning_rate": 0.0}, init=str(file), iterations=1)
    train(trial, data=tiny_data, trial_dir=tmp_path / "a", settings=EVERY_STEP, device="cpu")
    found = weights(tmp_path / "a")
    for name in ("blocks.0.attn.qkv.weight", "norm.weight"):
        assert torch.equal(found[f"encoder.{name}"], network.state_dict()[name])
    # The file has patches of 4 pixels, images of 16 pixels have patches of 2. The number of positions is the same, and
    # the patches are resampled as in timm.
    expected = timm.create_model(
        "test_vit", img_size=16, patch_size=2, num_classes=0, pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(network.state_dict())},
    )  # fmt: skip
    for name, value in expected.state_dict().items():
        assert torch.equal(found[f"encoder.{name}"], value), name
    assert caplog.text.count("resampled: patch_embed.proj.weight") == 1
    assert caplog.text.count("tensors of the file that the encoder does not have: head.bias, head.weight") == 1
    config = TrialConfig.from_dict(json.loads((tmp_path / "a/config.json").read_text()))
    assert config.init == str(file.absolute()) and len(config.init_fingerprint) == 16


def test_file_with_several_networks_loads_the_complete_network(vit, tmp_path, caplog):
    _, network = vit
    caplog.set_level(logging.INFO, logger="timm")
    whole = {f"student.{name}": value for name, value in network.state_dict().items()}
    part = {f"teacher.{name}": torch.zeros_like(value) for name, value in list(network.state_dict().items())[:8]}
    safetensors.torch.save_file(part | whole, tmp_path / "two.safetensors")
    found = load_start(str(tmp_path / "two.safetensors"), Network("timm/test_vit", input_size=32, patch_size=4)).encoder
    assert torch.equal(found["patch_embed.proj.weight"], network.state_dict()["patch_embed.proj.weight"])
    assert not caplog.records and logging.getLogger("timm").level == logging.INFO, "timm is silent only while it loads"


def test_file_of_timm_may_lack_batch_counters(tmp_path):
    state = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    found = load_start(str(tmp_path / "old.pth"), Network("timm/test_efficientnet", input_size=32)).encoder
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_only_a_new_trial_needs_the_file_of_its_first_weights():
    for init in ("random", "torchvision", "timm"):
        check_init_exists(tiny_trial(init=init))
    check_init_exists(tiny_trial(init="nothing.pth", init_fingerprint="0" * 16))
    with pytest.raises(ValueError, match=r"nothing.pth cannot be loaded: there is no such file"):
        check_init_exists(tiny_trial(init="nothing.pth"))
    with pytest.raises(ValueError, match="weights are those of timm, but of which network"):
        pretrained_config("timm")


def test_run_started_from_weights_resumes_bit_for_bit_without_their_file(resnet_file, tiny_data, tmp_path):
    file = tmp_path / "copy.pth"
    file.write_bytes(resnet_file.read_bytes())
    trial = complete(tiny_trial(init=str(file), encoder_lr_scale=0.1, iterations=4), 16)
    options = {"data": tiny_data, "settings": EVERY_STEP, "device": "cpu"}
    train(trial, trial_dir=tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(trial, trial_dir=tmp_path / "killed", report=kill_at(3), **options)
    file.unlink()
    train(trial, trial_dir=tmp_path / "killed", **options)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], value) for name, value in killed.items())
    with pytest.raises(ValueError, match=r"copy.pth cannot be loaded: there is no such file"):
        train(trial, trial_dir=tmp_path / "new", **options)


def test_trial_id_depends_on_the_content_of_the_file_and_not_on_its_path(resnet_file, tiny_data, tmp_path):
    trial = tiny_trial(init=str(resnet_file))
    first = complete(trial, 16)
    moved, changed = tmp_path / "moved.pth", tmp_path / "changed.pth"
    moved.write_bytes(resnet_file.read_bytes())
    state = torch.load(resnet_file)
    torch.save(state | {"conv1.weight": state["conv1.weight"] + 1}, changed)
    assert complete(replace(trial, init=str(moved)), 16).trial_id == first.trial_id
    assert complete(replace(trial, init=str(changed)), 16).trial_id != first.trial_id
    assert first.trial_id != tiny_trial().trial_id == tiny_trial(encoder_lr_scale=1).trial_id
    moved.write_bytes(changed.read_bytes())
    promised = replace(first, init=str(moved))
    with pytest.raises(ValueError, match=r"moved.pth has weights of fingerprint .* was created from"):
        train(promised, data=tiny_data, trial_dir=tmp_path / "trial", device="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"method": "mdssl-clustered", "warmup_iterations": 1, "recluster_every": 2},
        VIT,
    ],
)
def test_encoder_lr_scale_zero_freezes_the_encoder_and_trains_the_head(settings, tiny_data, tmp_path):
    trial = complete(tiny_trial(encoder_lr_scale=0, iterations=4, lr_warmup_iterations=0, **settings), 16)
    train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")
    before, after = build_model(trial).state_dict(), weights(tmp_path)
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name


def test_encoder_lr_scale_scales_the_learning_rate_of_the_encoder(tiny_data, tmp_path):
    ends = {}
    for scale in (1.0, 0.5, 0.0):
        trial = tiny_trial(encoder_lr_scale=scale, optimizer="sgd", iterations=1, lr_warmup_iterations=0)
        train(trial, data=tiny_data, trial_dir=tmp_path / str(scale), device="cpu")
        ends[scale] = weights(tmp_path / str(scale))
    before = build_model(tiny_trial()).state_dict()
    moved = {scale: end["encoder.layer4.1.conv2.weight"] - before["encoder.layer4.1.conv2.weight"]
             for scale, end in ends.items()}  # fmt: skip
    assert moved[1.0].norm() > 0 and not moved[0.0].any()
    torch.testing.assert_close(moved[0.5], moved[1.0] / 2, rtol=1e-2, atol=1e-7)
    assert torch.equal(ends[1.0]["projection.0.weight"], ends[0.5]["projection.0.weight"])
    groups = build_optimizer(tiny_trial(encoder_lr_scale=0.5), build_model(tiny_trial())).param_groups
    assert [group.get("lr_scale", 1) for group in groups] == [0.5, 0.5, 1, 1]
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        math.prod(value.shape) for value in dict(build_model(tiny_trial()).named_parameters()).values()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "resnet"}, "has an encoder with arch 'resnet18', but arch is 'resnet50'. Use --arch resnet18"),
        ({"init": "resnet", "arch": "resnet18", "stem": "cifar"}, "stem 'imagenet', but stem is 'cifar'"),
        ({"init": "resnet", "arch": "resnet18", "norm": "group"}, "norm 'batch', but norm is 'group'"),
        ({"init": "resnet", "arch": "timm/test_vit"}, "has no tensor patch_embed.proj.weight of timm/test_vit"),
        ({"init": "vit", "arch": "resnet18"}, "looks like a vision transformer"),
        ({"init": "vit", "arch": "timm/test_vit2"}, "lacks reg_token|do not fit"),
        ({"init": "nothing.pth", "arch": "resnet18"}, "there is no such file"),
        ({"init": "timm", "arch": "resnet18"}, "torchvision publishes those of arch 'resnet18'"),
        ({"init": "torchvision", "arch": "timm/test_vit"}, "timm publishes those of arch 'timm/test_vit'"),
        ({"init": "timm", "arch": "timm/vit_tiny_patch16_384.nothing"}, "has no weights 'nothing' in timm"),
        ({"init": "timm", "arch": "timm/vit_giant_patch14_224"}, "no pretrained weights of"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value.values()),
)
def test_incompatible_weights_are_refused_before_anything_is_written(
    settings, message, resnet_file, vit, tiny_data, tmp_path
):
    files = {"resnet": str(resnet_file), "vit": str(vit[0])}
    trial = tiny_trial(**{"arch": "resnet50"} | settings | {"init": files.get(settings["init"], settings["init"])})
    with pytest.raises(ValueError, match=message):
        train(trial, data=tiny_data, trial_dir=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_message_says_where_to_put_the_file_without_a_connection(monkeypatch, tmp_path, resnet_file, vit):
    def offline(url, file, digest, *, progress):
        assert (file, digest, progress) == (str(hub / "checkpoints" / url.rpartition("/")[2]), "f37072fd", False)
        raise URLError("no network")

    def refused(request, *, timeout):
        assert request.get_method() == "HEAD" and 0 < timeout < 60
        raise URLError("no network")

    hub = tmp_path / "torch/hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(timm_weights, "urlopen", refused)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    of_torchvision = (
        r"checkpoints/(resnet18-\w+\.pth) and cannot be fetched.*Download https://download.pytorch.org.*give the file"
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=of_torchvision):
            load_start("torchvision", Network("resnet18"))
    of_timm = "hub/models--timm--test_vit.r160_in1k and cannot be fetched.*https://huggingface.co/timm/test_vit"
    network = Network("timm/test_vit", input_size=32, patch_size=4)
    with pytest.raises(ValueError, match=of_timm) as raised:
        load_start("timm", network)
    assert "no network" in str(raised.value), "the first request fails; the library would retry for 30 s"
    # Files at the paths that the messages name are found.
    file = hub / "checkpoints/resnet18-f37072fd.pth"
    file.write_bytes(resnet_file.read_bytes())
    assert (
        load_start("torchvision", Network("resnet18")).fingerprint
        == load_start(str(resnet_file), Network("resnet18")).fingerprint
    )
    asked = Sweep(domains=("tiny-a",), pretrained=("torchvision",), arch="resnet18").settings
    assert trials(asked, [])[0].weights == "torchvision"
    snapshot = tmp_path / "hub/models--timm--test_vit.r160_in1k/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    (snapshot / "model.safetensors").write_bytes(vit[0].read_bytes())
    monkeypatch.setattr(timm_weights, "urlopen", None)
    assert load_start("timm", network).fingerprint == load_start(str(vit[0]), network).fingerprint
    # With a connection the file is fetched.
    shutil.rmtree(tmp_path / "hub")
    fetched = {("timm/test_vit.r160_in1k", "model.safetensors"): str(vit[0])}
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: fetched[asked])
    monkeypatch.setattr(timm_weights, "urlopen", lambda *_, **__: io.BytesIO())
    assert load_start("timm", network).fingerprint == load_start(str(vit[0]), network).fingerprint


def test_training_can_start_from_the_encoder_of_a_trial(tiny_data, tmp_path):
    first = tiny_trial(**VIT, iterations=2)
    train(first, data=tiny_data, trial_dir=tmp_path / "first", device="cpu")
    file = tmp_path / "first/encoder.safetensors"
    found = load_start(str(file), Network.of(complete(first, 16)))
    assert all(
        torch.equal(weights(tmp_path / "first")[f"encoder.{name}"], value) for name, value in found.encoder.items()
    )
    assert set(found.unmatched) == {name for name in weights(tmp_path / "first") if name.startswith("projection.")}
    config, own = pretrained_config(file)
    assert (config.arch, config.input_size, config.patch_size) == ("timm/test_vit", 16, 2)
    assert all(torch.equal(own.encoder[name], value) for name, value in found.encoder.items())
    # Patches keep their size if it divides the size of the images.
    config, model = pretrained_model(file, 32)
    assert (config.input_size, config.patch_size) == (32, 2)
    assert torch.equal(model.encoder.norm.weight, found.encoder["norm.weight"])
    assert pretrained_config(file, 15)[0].patch_size == 1
    with pytest.raises(ValueError, match=r"it holds timm/test_vit, not timm/test_vit2. Use --arch timm/test_vit\."):
        load_start(str(file), Network("timm/test_vit2", input_size=16, patch_size=2))
