"""A trained encoder as one torch module: pixels in, features out."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.device import pick_device
from mdssl.errors import InputError
from mdssl.pretrain.augment import normalize, resized
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.pretrained import pretrained_model
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.storage.safetensors_header import safetensors_metadata


class Encoder(nn.Module):
    """The features that probes score, with normalization inside.

    Attributes:
        config: the trial that trained it.
        width: number of features: 512 for ResNet-18, 2048 for ResNet-50.
    """

    def __init__(self, config: TrialConfig, model: Model):
        super().__init__()
        self.config, self.encoder, self.width = config, model.encoder, model.width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) RGB images, uint8 or floats from 0 to 1, to (B, width) float32 features.

        Images should be as large as those that it was trained on; most datasets are prepared at 32 pixels.

        Raises:
            InputError: another shape, or another dtype, whose range is not known.
        """
        is_rgb = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
        if not is_rgb or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise InputError(
                f"images are {images.dtype} {tuple(images.shape)}; an encoder takes (B, 3, S, S) RGB images, "
                "torch.uint8 from 0 to 255 or floats from 0 to 1. Convert them first, such as gray ones by "
                "images.expand(-1, 3, -1, -1)."
            )
        x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return self.encoder(normalize(resized(x, self.config.input_size))).float()


def load_encoder(source: str | Path | Location, *, device: str = "auto") -> Encoder:
    """Return the encoder of a trial, of an export, or of a file of pretrained weights, in evaluation mode.

    Args:
        source: a trial's folder, such as ``results/trials/0123456789ab``; a folder that ``mdssl export`` made; or a
            file of weights that ``mdssl probe --weights`` takes. Each may be in a bucket.
        device: cpu, cuda, cuda:1, or auto for a GPU if there is one.

    Raises:
        ValueError: there is no encoder, or its file is damaged or of another network.
    """
    place = Location.of(source)
    device = pick_device(device)
    if (place / "encoder.safetensors").exists():
        config, model = load_model(place)
    elif (place / "model.safetensors").exists():
        config, model = _exported(place / "model.safetensors")
    elif place.exists() and "." in place.name:
        config, model = pretrained_model(place)
    else:
        raise InputError(
            f"{place} is not an encoder: it must be the folder of a finished trial, such as results/trials/TRIAL_ID, a "
            "folder that `mdssl export` wrote, or a file of weights."
        )
    return Encoder(config, model).to(device).eval()


def _exported(file: Location) -> tuple[TrialConfig, Model]:
    data = file.read_bytes()
    try:
        config = TrialConfig.from_dict(json.loads(safetensors_metadata(data)["config"]))
        model = build_model(config)
        model.encoder.load_state_dict(safetensors.torch.load(data))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{file} is not an export of mdssl ({type(error).__name__}: {error}).") from error
    return config, model
