"""Images through a frozen encoder, once: all probes, learning rates and kNN scores work on the features kept here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mdssl.config.run import FEATURES
from mdssl.errors import InputError, check_name, check_number
from mdssl.pretrain.augment import normalise

_PASS_PIXELS = 2**21
"""Input pixels in one pass at most: 2048 images of 32x32, 41 of 224x224."""


def extract_features(
    model: nn.Module,
    images: np.ndarray,
    *,
    layers: Sequence[str] = ("encoder",),
    device: str | torch.device = "cpu",
    batch_size: int = 512,
    input_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """Features of ``images``, unaugmented, from one pass over the encoder for all ``layers``.

    The arithmetic is float32 also under autocast, and the model is in evaluation mode for the length of the call, so an
    image's features do not depend on the images beside it.

    Args:
        model: has ``encoder``, (B, 3, S, S) to (B, width), and ``projection``, (B, width) to (B, r); moved to
            ``device`` if it is elsewhere.
        images: (N, S, S, 3) uint8; a read-only memory map is fine, one batch at a time is copied.
        layers: ``encoder``, ``projection`` or both. The projection head's output is not l2-normalised.
        device: where the pass runs and the features stay.
        batch_size: images in a pass at most; changes memory and speed only. Fewer than this where they are large, so
            that memory does not grow with ``input_size``: 41 of 224x224 take 0.6 GiB in a ResNet-50 with the imagenet
            stem on a CPU.
        input_size: pixels; images are resized to input_size x input_size before they are normalised, bilinearly, with
            antialiasing where they shrink. 224 is what an ImageNet encoder was trained on. None leaves them.

    Returns:
        For each layer an (N, width of the layer) float32 tensor on ``device``.

    Raises:
        ValueError: an unknown layer, images of another shape or type, an input size below 1, or features that are not
            finite.
    """
    for layer in layers:
        check_name("feature layer", layer, FEATURES)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(
            f"images are {images.shape} of {images.dtype}; features need at least one image, as (N, S, S, 3) of uint8."
        )
    if input_size is not None:
        check_number("input_size", input_size, low=1, hint="It is the side of the encoder's input in pixels.")
    height, width = images.shape[1:3] if input_size is None else (input_size, input_size)
    batch_size = max(1, min(batch_size, _PASS_PIXELS // max(1, height * width)))
    model.to(device)
    features: dict[str, torch.Tensor] = {}
    with _frozen(model, torch.device(device)):
        for start in range(0, len(images), batch_size):
            batch = _to_views(images[start : start + batch_size], device, input_size)
            for layer, rows in _forward(model, batch, layers).items():
                # Filled in place: concatenating at the end would hold every feature twice.
                whole = features.setdefault(layer, rows.new_empty(len(images), rows.shape[1]))
                whole[start : start + len(rows)] = rows
    for layer, whole in features.items():
        check_finite(f"{layer} features", whole)
    return features


def check_finite(what: str, features: torch.Tensor) -> None:
    """Raise ``ValueError`` if any row of (N, width) ``features`` holds a NaN or an infinity."""
    # What is not finite makes its row's sum so; looking at each number takes ten times as long, and few ever need it.
    if torch.isfinite(features.sum(dim=1)).all():
        return
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise InputError(
            f"{what} of {bad} of {len(features)} images are not finite (NaN or infinite); an encoder that diverged, or "
            "whose weights were damaged, has no score. Train it again with a smaller learning rate, or load it anew."
        )


def _forward(model: nn.Module, batch: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
    encoded = model.encoder(batch).float()
    return {layer: encoded if layer == "encoder" else model.projection(encoded).float() for layer in layers}


def _to_views(images: np.ndarray, device: str | torch.device, size: int | None) -> torch.Tensor:
    """(B, S, S, 3) uint8 to the encoder's float32 input in channels-last memory order: (B, 3, S, S), or (B, 3, size,
    size)."""
    # A copy, because torch.from_numpy would share the map that all trials read, and torch knows no read-only tensors.
    x = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)
    x = x.float().div_(255)
    if size is not None and x.shape[2:] != (size, size):
        x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=size < max(x.shape[2:]))
        x = x.contiguous(memory_format=torch.channels_last)
    return normalise(x)


@contextmanager
def _frozen(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, float32 and no gradients; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: its tensors may never enter autograd, and a probe's fit may want to.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training
