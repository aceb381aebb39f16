"""A loaded encoder: the features of a trial, of an export and of a file of weights, and refused inputs."""

import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from factories import tiny_trial

from mdssl.data.dataset import open_dataset
from mdssl.errors import InputError
from mdssl.evaluate.features import extract_features
from mdssl.pretrain.encoder import load_encoder
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location


@pytest.fixture(scope="module")
def trained(full_encoders, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    train(tiny_trial(iterations=2), data=tiny_data, trial_dir=folder, device="cpu")
    return folder


def test_loaded_encoder_gives_the_features_that_probes_score(trained, tiny_data, tmp_path):
    images = open_dataset(tiny_data, "tiny-a").split("test").images[:5]
    encoder = load_encoder(trained, device="cpu")
    assert not any(module.training for module in encoder.modules())
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = encoder(pixels)
        assert torch.allclose(features, encoder(pixels / 255), atol=1e-5)
    config, model = load_model(Location.of(trained))
    assert torch.allclose(features, extract_features(model, images)["encoder"], atol=1e-5)
    assert features.shape == (5, encoder.width) and encoder.config == config

    # A file of weights gives the same encoder, and so does the file of an export.
    weights = tmp_path / "resnet18.pth"
    torch.save(model.encoder.state_dict(), weights)
    with torch.no_grad():
        assert torch.allclose(features, load_encoder(weights, device="cpu")(pixels), atol=1e-5)
        state = {name: value.contiguous() for name, value in model.encoder.state_dict().items()}
        metadata = {"config": json.dumps(config.to_dict())}
        safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata)
        assert torch.equal(features, load_encoder(tmp_path, device="cpu")(pixels))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("int64", (2, 3, 8, 8)),
        ("bool", (2, 3, 8, 8)),
        ("uint8", (2, 1, 8, 8)),
        ("float32", (2, 8, 8, 3)),
        ("float32", (3, 8, 8)),
        ("uint8", (2, 3, 8, 9)),
    ],
)
def test_encoder_refuses_images_whose_features_would_be_wrong(trained, dtype, shape):
    encoder = load_encoder(trained, device="cpu")
    with pytest.raises(InputError, match=rf"images are torch.{dtype} {re.escape(str(shape))}; an encoder takes \(B, 3"):
        encoder(torch.ones(shape, dtype=getattr(torch, dtype)))


def test_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not an encoder: it must be the folder of a finished trial"):
        load_encoder(tmp_path, device="cpu")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not an export of mdssl"):
        load_encoder(tmp_path, device="cpu")
    newer = {"config": json.dumps({"setting_of_tomorrow": 1})}
    safetensors.torch.save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors", newer)
    with pytest.raises(ValueError, match=r"model.safetensors: unknown config key 'setting_of_tomorrow'"):
        load_encoder(tmp_path, device="cpu")
