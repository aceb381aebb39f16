"""Exported folders: the libraries that load them, the content of their card, and atomic writes."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from exports import blocks_of, exported, features_of, photo, random_trial, run_blocks
from factories import tiny_trial
from PIL import Image

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.export.card import card, escaped
from mdssl.export.folder import export
from mdssl.export.images import Preparation
from mdssl.pretrain.encoder import load_encoder
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.pretrained import complete, load_pretrained, pretrained_config
from mdssl.pretrain.timm_encoder import timm_input
from mdssl.storage.location import Location

pytestmark = pytest.mark.usefixtures("full_encoders")


def pad2_trial(storage, tmp_path) -> str:
    """A pretrained trial with solo-learn's stem."""
    model = trained_looking(build_model(TrialConfig(method="random", arch="resnet18", stem="cifar", precision="fp32")))
    state = {f"backbone.{name}": value for name, value in model.encoder.state_dict().items()}
    torch.save(state | {"classifier.weight": torch.zeros(1), "projector.0.weight": torch.zeros(1)}, tmp_path / "s.ckpt")
    config, _ = pretrained_config(tmp_path / "s.ckpt")
    assert config.stem == "cifar-pad2"
    train(config, data="", trial_dir=Location.of(storage) / "trials" / config.trial_id, device="cpu")
    return config.trial_id


def trained_looking(model: Model) -> Model:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "group"},
        {"stem": "cifar"},
        pytest.param({"stem": "cifar", "norm": "group"}, marks=pytest.mark.long),
        pytest.param({"arch": "resnet50"}, marks=pytest.mark.long),
        pytest.param({"arch": "resnet50", "stem": "cifar", "norm": "group"}, marks=pytest.mark.long),
    ],
    ids=lambda settings: "-".join(settings.values()) or "plain",
)
def test_the_code_of_the_card_computes_the_encoders_features(settings, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    trial_id = random_trial(tmp_path, **settings)
    output = exported(tmp_path, trial_id, tmp_path / "out", "safetensors")
    assert blocks_of((output / "README.md").read_text()).keys() == {"torchvision", "timm"}
    found = run_blocks(output, monkeypatch, photo(), "torchvision", "timm")
    for features in found.values():
        np.testing.assert_allclose(features, features_of(tmp_path, trial_id, photo()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["timm/test_vit", "timm/test_convnext", "timm/test_efficientnet"])
def test_an_exported_timm_encoder_is_loaded_by_timm_and_by_mdssl(arch, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    trial_id = random_trial(tmp_path, arch=arch, **timm_input(arch, 32, None))
    formats = ("safetensors", "torch-export", "onnx")
    output = exported(tmp_path, trial_id, tmp_path / "out", *formats)
    text = (output / "README.md").read_text()
    assert list(blocks_of(text)) == ["timm", "torch.export", "ONNX"]
    assert f"A {escaped(arch[5:])} of timm" in text
    expected = features_of(tmp_path, trial_id, photo())
    found = run_blocks(output, monkeypatch, photo(), *blocks_of(text))
    for features in found.values():
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    statistics = json.loads((output / "preprocessor_config.json").read_text())
    published = timm.models.get_pretrained_cfg(arch[5:])
    assert (statistics["image_mean"], statistics["image_std"]) == (list(published.mean), list(published.std))
    small = np.asarray(Image.fromarray(photo()).resize((32, 32), Image.Resampling.BICUBIC))
    encoder = load_encoder(output, device="cpu")
    with torch.no_grad():
        features = encoder(torch.tensor(small).permute(2, 0, 1)[None])
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    config, weights = pretrained_config(output / "model.safetensors")
    assert (config.arch, config.input_size, weights.unmatched) == (arch, 32, ())
    with pytest.raises(ValueError, match="size is 48, but .* was made for images of 32 pixels; leave --size out"):
        exported(tmp_path, trial_id, tmp_path / "other", "safetensors", size=48)


def test_an_exported_encoder_with_padding_2_keeps_its_stem(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    trial_id = pad2_trial(tmp_path, tmp_path)
    output = exported(tmp_path, trial_id, tmp_path / "out", "safetensors")
    for features in run_blocks(output, monkeypatch, photo(), "torchvision", "timm").values():
        np.testing.assert_allclose(features, features_of(tmp_path, trial_id, photo()), rtol=1e-4, atol=1e-4)
    # Both 3x3 stems have tensors of the same shapes; the metadata of the file names the stem.
    assert load_pretrained(output / "model.safetensors").stem == "cifar-pad2"
    assert str(tmp_path) not in (output / "README.md").read_text()
    assert str(tmp_path).encode() not in (output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> tuple[Path, str]:
    """A storage with an untrained ResNet-18, and the ID of its trial."""
    storage = tmp_path_factory.mktemp("untrained")
    return storage, random_trial(storage)


def test_an_export_does_not_contain_the_folder_of_the_initial_weights(tiny_data, tmp_path):
    torch.save(build_model(tiny_trial()).encoder.state_dict(), tmp_path / "start.pth")
    trial = complete(tiny_trial(init=str(tmp_path / "start.pth"), iterations=1), 16)
    train(trial, data=tiny_data, trial_dir=tmp_path / "trials" / trial.trial_id, device="cpu")
    output = exported(tmp_path, trial.trial_id, tmp_path / "out", "safetensors", size=16)
    text = (output / "README.md").read_text()
    assert "--init start.pth" in text and "| init | start.pth |" in text
    for file in output.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert load_encoder(output, device="cpu").config.init_fingerprint == trial.init_fingerprint


def test_missing_onnx_is_reported_with_the_install_command(untrained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"package onnxscript.*pip install 'mdssl\[onnx\]'"):
        exported(*untrained, tmp_path / "out", "safetensors", "onnx")
    assert not (tmp_path / "out").exists()


def test_an_export_is_written_atomically(untrained, tmp_path, monkeypatch):
    output = exported(*untrained, tmp_path / "out", "safetensors")
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    write = Location.write_bytes

    def full(self, data):
        if self.name == "README.md":
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(Location, "write_bytes", full)
    for name, overwrite in (("new", False), ("out", True)):
        with pytest.raises(ValueError, match="cannot be written.*No space left"):
            exported(*untrained, tmp_path / name, "safetensors", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {file.name: file.read_bytes() for file in output.iterdir()} == before


def test_overwrite_replaces_only_exports(untrained, tmp_path):
    output = exported(*untrained, tmp_path / "out", "safetensors")
    with pytest.raises(ValueError, match="contains an export.*--overwrite"):
        exported(*untrained, output, "safetensors")
    exported(*untrained, output, "safetensors", overwrite=True)
    (output / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="contains thesis.tex"):
        exported(*untrained, output, "safetensors", overwrite=True)
    assert (output / "thesis.tex").read_text() == "years of work"


def test_an_unknown_format_is_refused_before_anything_is_written(untrained, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'torchscript'.*Allowed: safetensors, torch-export"):
        export(*untrained, tmp_path / "out", formats=("torchscript",), data="", size=32, resize_filter="bicubic")
    assert not (tmp_path / "out").exists()


def test_an_export_can_be_written_to_a_bucket(bucket, untrained):
    output = Location.of(bucket) / "encoders" / "first"
    export(*untrained, output, formats=("safetensors",), data="", size=32, resize_filter="bicubic")
    assert output.names() == ["README.md", "config.json", "mdssl.json", "model.safetensors", "preprocessor_config.json"]
    assert load_pretrained(output / "model.safetensors").arch == "resnet18"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0123456789ab"], "has no leaderboard and no trials"),
        (["012"], "'012' is not a trial id"),
    ],
)
def test_wrong_trial_ids_are_refused_and_leave_no_files(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_size_and_filter_match_the_training_images(tiny_data, tmp_path, capsys):
    trained = ["train", "--domains", "tiny-a", "tiny-b", "--iterations", "1", "--batch-per-domain", "8"]
    trained += ["--precision", "fp32", "--device", "cpu", "--storage", str(tmp_path), "--data", tiny_data]
    assert main(trained) == 0
    trial_id = re.search(r"mdssl probe ([0-9a-f]{12})", capsys.readouterr().out)[1]
    assert main(["probe", trial_id, "--evaluate", "tiny-c", "--storage", str(tmp_path), "--data", tiny_data]) == 0
    out = tmp_path / "out"
    assert main(["export", trial_id, "--output", str(out), "--storage", str(tmp_path), "--data", tiny_data]) == 0
    assert json.loads((out / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 16]
    text = (out / "README.md").read_text()
    assert "1 steps, 32 augmented images" in text
    assert "datasets were prepared in, whether or not that is 16x16" in text
    assert re.search(r"\| tiny-c \| 4 \| no \| lbfgs \| \d+\.\d \|  \| \d+\.\d \| 32 \|", text)
    with pytest.raises(ValueError, match="or --size and --filter"):
        export(tmp_path, trial_id, tmp_path / "other", formats=("safetensors",), data=tmp_path / "nothing")


def test_user_text_in_the_card_is_escaped(tmp_path):
    evil = "a|b `x`\n\n# [owned](javascript:x) <script>"
    config = TrialConfig(method="simclr", domains=(evil,), data_fingerprint="0")
    row = {"status": "finished", "features": "encoder", "eval_dataset": evil, "probe": "lbfgs", "num_classes": 3}
    row |= {"seen": True, "top1": 50.0, "top5": None, "knn_top1": 40.0, "num_test": 9, "git_commit": "`\n\n# x"}
    text = card(config, Preparation(32, "bicubic"), [row], {}, width=512, formats=(), programs={})
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert not [line for line in headings if "owned" in line or line == "# x"]
    assert "<script>" not in re.sub(r"(?m)^    .*|`[^`\n]*`", "", text).replace("\\<script\\>", "")
    assert all(line.count(" | ") == 7 for line in text.splitlines() if "lbfgs" in line)


def test_the_card_marks_variants_of_published_datasets():
    config = TrialConfig(method="simclr", domains=("svhn", "cifar10"), data_fingerprint="0")
    row = {"status": "finished", "features": "encoder", "eval_dataset": "dtd", "probe": "lbfgs", "seen": False}
    row |= {"top1": 50.0, "top5": None, "knn_top1": 40.0, "num_classes": 10, "num_train": 400, "num_test": 400}
    training = {"variants": {"svhn": "4,434 of 73,257"}}
    text = card(config, Preparation(32, "bicubic"), [row], training, width=512, formats=(), programs={})
    assert "treated as one domain on svhn \\(4,434 of 73,257\\), cifar10." in text
    assert "| dtd \\(10 of 47 classes\\) | 10 |" in text


def test_markdown_characters_are_escaped():
    assert escaped("a_b *c* [d](e) | <f>\n# g\x1b\u202e") == "a\\_b \\*c\\* \\[d\\]\\(e\\) \\| \\<f\\> \\# g"
