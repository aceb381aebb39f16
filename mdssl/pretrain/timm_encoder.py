"""Networks of timm as encoders: all that depends on the optional package timm.

An encoder is what ``timm.create_model(NAME, num_classes=0)`` makes, with its own pooling and without dropout of any
kind. Transformers are made for one image size. All encoders take views that are normalized by ImageNet's statistics; a
network whose weights timm publishes for others converts them itself, in a hook before its first layer.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mdssl.config.encoders import timm_name
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.pretrain.augment import MEAN, STD, statistics_of

_PATCHES = 8
"""Fewest patches along a side of the image, unless the user asks for fewer."""
_OF_DROPOUT = ("drop_prob", "drop_rate", "drop_path_rate")


def import_timm(arch: str) -> ModuleType:
    """Import timm, which must have the network ``arch``.

    Raises:
        InputError: timm is not installed, or has no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"arch {arch!r} needs the package timm, which is not installed. Install it on every machine that trains: "
            "pip install 'mdssl[timm]'"
        ) from error
    name, _, tag = timm_name(arch).partition(".")
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        nearest = f" Did you mean {' or '.join(f'timm/{each}' for each in close)}?" if close else ""
        raise InputError(
            f"unknown arch {arch!r}.{nearest} All names: python -c \"import timm; print(*timm.list_models('*'))\""
        )
    tags = [each.partition(".")[2] for each in timm.list_models(f"{name}.*", include_tags=True)]
    if tag and tag not in tags:
        raise InputError(f"arch {arch!r} has no weights {tag!r} in timm; allowed: {', '.join(tags) or 'none'}.")
    return timm


@lru_cache(maxsize=64)
def timm_input(arch: str, image_size: int | None, patch_size: int | None) -> dict[str, Any]:
    """The settings ``input_size``, ``patch_size`` and ``normalization`` of an encoder.

    Args:
        image_size: pixels of the images; None for those that timm's pretrained weights take.
        patch_size: pixels; None for the network's own, or the largest that divides the image into 8 x 8 patches or
            more.

    Raises:
        InputError: timm is missing or has no such network; or the network cannot take such images or patches.
    """
    timm = import_timm(arch)
    published = timm.models.get_pretrained_cfg(timm_name(arch))
    size = image_size or published.input_size[-1]
    own = _own_patch_size(timm, arch) if published.fixed_input_size else None
    if patch_size is not None:
        _check_patch_size(arch, patch_size, own, size)
    elif own is not None:
        limit = min(own, max(1, size // _PATCHES))
        patch_size = next(patch for patch in range(limit, 0, -1) if size % patch == 0)
    try:
        # Shapes only, which takes milliseconds.
        with torch.device("meta"), torch.no_grad():
            encoder = network(arch, size, patch_size).eval()
            found = tuple(encoder(torch.empty(2, 3, size, size)).shape)
    except Exception as error:
        raise InputError(
            f"arch {arch!r} cannot encode images of {size} x {size} pixels ({type(error).__name__}: {error}). Prepare "
            "larger ones (`mdssl data prepare --size 224`), or choose another network."
        ) from error
    if found != (2, width_of(encoder)):
        raise InputError(
            f"arch {arch!r} gives an output of shape {found} for two images, not a vector of {width_of(encoder)} "
            "features each; choose another network."
        )
    statistics = " ".join(f"{value:.6g}" for value in (*published.mean, *published.std))
    return {"input_size": size, "patch_size": patch_size, "normalization": statistics}


def _own_patch_size(timm: ModuleType, arch: str) -> int | None:
    with torch.device("meta"):
        patches = getattr(timm.create_model(timm_name(arch), num_classes=0), "patch_embed", None)
    own = getattr(patches, "patch_size", None)
    return own[0] if isinstance(own, tuple) else own


def _check_patch_size(arch: str, patch_size: int, own: int | None, size: int) -> None:
    if own is None:
        raise InputError(f"patch_size is {patch_size}, but arch {arch!r} has no such setting; leave it out.")
    if size % patch_size:
        allowed = ", ".join(str(patch) for patch in range(1, size + 1) if size % patch == 0)
        raise InputError(f"patch_size is {patch_size}, but images have {size} pixels; allowed: {allowed}.")


def network(arch: str, input_size: int, patch_size: int | None, **options: Any) -> nn.Module:
    """Return timm's network without classifier and without dropout; weights are random unless ``options`` say more."""
    arguments = network_arguments(arch, input_size, patch_size)
    encoder: nn.Module = import_timm(arch).create_model(timm_name(arch), num_classes=0, **arguments, **options)
    _turn_off_dropout(encoder)
    return encoder


def network_arguments(arch: str, input_size: int | None, patch_size: int | None) -> dict[str, int]:
    """Return the arguments of ``timm.create_model`` that make a network for images and patches of these sizes."""
    takes_size = import_timm(arch).models.get_pretrained_cfg(timm_name(arch)).fixed_input_size
    given = {"img_size": input_size if takes_size else None, "patch_size": patch_size}
    return {name: value for name, value in given.items() if value is not None}


def timm_encoder(config: TrialConfig) -> tuple[nn.Module, int]:
    """Return the encoder of ``config`` with random weights, and the number of its features.

    Raises:
        InputError: timm is missing or has no such network, or the config has no ``input_size`` yet.
    """
    if config.input_size is None:
        raise InputError(
            f"input_size of arch {config.arch!r} is not set; it is filled in when training images are opened. Method "
            "'random' has none: give the size of the images that it will encode (--input-size 32)."
        )
    encoder = network(config.arch, config.input_size, config.patch_size)
    mean, std = statistics_of(config.normalization)
    if (mean, std) != (MEAN, STD):
        encoder.register_forward_pre_hook(_Renormalize(mean, std))
    return encoder, width_of(encoder)


def width_of(encoder: Any) -> int:
    """Features of an image; some networks have a layer between the last block (``num_features``) and the classifier."""
    return getattr(encoder, "head_hidden_size", None) or encoder.num_features


class _Renormalize:
    """A hook that turns views normalized by ImageNet's statistics into views normalized by others."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.scale = [before / after for before, after in zip(STD, std, strict=True)]
        self.shift = [(before - after) / deviation for before, after, deviation in zip(MEAN, mean, std, strict=True)]

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        (x,) = inputs
        # Filled on the device, because copying a tensor made from a list would wait for the GPU.
        scale, shift = (
            torch.cat([x.new_full((1, 1, 1), value) for value in each]) for each in (self.scale, self.shift)
        )
        return x * scale + shift


def _turn_off_dropout(encoder: nn.Module) -> None:
    """A step of training must depend on nothing but the weights and the views, so that it can be repeated."""
    for module in encoder.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _OF_DROPOUT:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
