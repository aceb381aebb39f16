"""Files with and without weights: loading runs no code, and messages name the kind of file and a remedy."""

import argparse
import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from networks import LAYOUTS, assert_computes, head, lightning, network, under
from torch import nn

from mdssl.errors import InputError
from mdssl.pretrain.pretrained import load_pretrained

pytestmark = pytest.mark.usefixtures("full_encoders")


class Dangerous:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_loading_runs_no_code(resnet, tmp_path, by, protocol):
    trap, file = tmp_path / "trap", tmp_path / "evil.pth"
    content = {"state_dict": resnet.layer1.state_dict(), "more": Dangerous(trap)}
    if by == "torch":
        torch.save(content, file, pickle_protocol=protocol)
    else:
        file.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(
        InputError, match=r"evil.pth cannot be loaded: (its pickle refers to|it is not a file of weights)"
    ):
        load_pretrained(file)
    assert not trap.exists()


def recipe_of(message: str) -> str:
    """The code in a message, which is indented by four spaces."""
    return "\n".join(line[4:] for line in message.splitlines() if line.startswith("    "))


def whole_module(net: nn.Module) -> dict:
    return {"epoch": 3, "model": net, "optimizer": torch.optim.SGD(net.parameters(), lr=0.1)}


PICKLES = {
    # Settings in a namespace of argparse: many checkpoints hold such objects beside their weights.
    "Lightning": lambda net: lightning(
        under("backbone.", net) | head("classifier") | {"alias": net.conv1.weight},
        arguments=argparse.Namespace(lr=1.0),
    ),
    "DINO": lambda net: (
        LAYOUTS["torchvision's names, under 'student.module.backbone.'"](net)
        | {"args": argparse.Namespace(arch="resnet18"), "center": torch.zeros(1, 3)}
    ),
    "a module": lambda net: net,
    "a module in a dict": whole_module,
    "numpy": lambda net: {"state_dict": {name: value.numpy() for name, value in net.state_dict().items()}},
    "scalars of numpy": lambda net: {"model": net.state_dict(), "acc": np.float64(76.1), "best": [np.int64(3)]},
}


@pytest.mark.parametrize("kind", PICKLES)
def test_code_in_the_message_about_a_pickle_converts_the_file(resnet, tmp_path, monkeypatch, kind):
    torch.save(PICKLES[kind](resnet), tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=r"its pickle refers to \S+, .* If you trust the file") as refused:
        load_pretrained(tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    exec(recipe_of(str(refused.value)), {})
    assert_computes(load_pretrained(tmp_path / "model-weights.pth"), resnet)


def test_conversion_of_a_pickle_keeps_the_padding_of_the_stem(tmp_path, monkeypatch):
    """Only the container shows that the weights are those of solo-learn, whose stem has padding 2."""
    padded = network(stem="cifar", padding=2)
    content = lightning(under("encoder.", padded) | head("classifier"), arguments=argparse.Namespace(lr=1.0))
    torch.save(content, tmp_path / "byol.ckpt")
    with pytest.raises(InputError, match="its pickle refers to") as refused:
        load_pretrained(tmp_path / "byol.ckpt")
    monkeypatch.chdir(tmp_path)
    exec(recipe_of(str(refused.value)), {})
    assert load_pretrained(tmp_path / "byol-weights.pth").stem == "cifar-pad2"


def exported(net: nn.Module, file: Path) -> None:
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),)), file)


def scripted(net: nn.Module, file: Path) -> None:
    torch.jit.trace(net, torch.zeros(2, 3, 32, 32)).save(file)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("save", "what"), [(exported, "exported program"), (scripted, "TorchScript program")])
def test_code_in_the_message_about_a_program_saves_its_weights(resnet, tmp_path, monkeypatch, save, what):
    save(resnet, tmp_path / "net.pt2")
    with pytest.raises(InputError, match=rf"it is an? {what}") as refused:
        load_pretrained(tmp_path / "net.pt2")
    monkeypatch.chdir(tmp_path)
    exec(recipe_of(str(refused.value)), {})
    assert_computes(load_pretrained(tmp_path / "net-weights.pth"), resnet)


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("resnet18/readme.txt", "weights")
    return content.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46830571\n", "Git LFS .*git lfs pull"),
        (b"/annex/objects/SHA256E-s46830571--00.pth\n", "git-annex .*git annex get"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Virus scan warning</title></html>", "web page .*in a browser"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (gzip.compress(b"weights"), "gzip archive, not a file of weights. Unpack"),
        (zipped(), "zip archive, not a file of weights. Unpack"),
    ],
    ids=["lfs", "annex", "page", "hdf5", "gzip", "zip"],
)
def test_message_names_the_kind_of_file_that_a_failed_download_left(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} cannot be loaded: it is .*{message}"):
        load_pretrained(tmp_path / name)


@pytest.mark.parametrize("kept", [10, 5000, -30])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file_is_refused(resnet, tmp_path, kind, kept):
    file = tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        safetensors.torch.save_file(resnet.layer1.state_dict(), file)
    else:
        torch.save(resnet.layer1.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"cut.{kind} cannot be loaded: it is not a .*again"):
        load_pretrained(file)


@pytest.mark.parametrize("content", [b"", b"a text about a network", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(4096)])
def test_file_without_weights_is_refused(tmp_path, content):
    (tmp_path / "foreign.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"foreign.pth cannot be loaded: it is not a file of weights"):
        load_pretrained(tmp_path / "foreign.pth")


def test_missing_file_and_folder_are_refused(tmp_path):
    for path, reason in ((tmp_path / "absent.pth", "there is no such file"), (tmp_path, "it cannot be read")):
        with pytest.raises(InputError, match=rf"{path} cannot be loaded: {reason}"):
            load_pretrained(path)


def test_tensors_without_names_are_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="it holds a list, not tensors by name"):
        load_pretrained(tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="it looks like nothing …"):
        load_pretrained(tmp_path / "empty.pt")
