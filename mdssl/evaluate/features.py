"""Features of images by a frozen encoder, computed once for all probes and kNN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from mdssl.config.probe import FEATURES
from mdssl.errors import InputError, check_name, check_number
from mdssl.pretrain.augment import normalize, resized

_PASS_PIXELS = 2**21
"""Most input pixels in one pass: 2048 images of 32x32, 41 of 224x224."""


def extract_features(
    model: nn.Module,
    images: np.ndarray,
    *,
    layers: Sequence[str] = ("encoder",),
    device: str | torch.device = "cpu",
    batch_size: int = 512,
    input_size: int | None = None,
) -> dict[str, torch.Tensor]:
    """Compute features of unaugmented ``images`` from one pass over the encoder for all ``layers``.

    Computed in float32, even under autocast, with the model in evaluation mode for the duration of the call.

    Args:
        model: has ``encoder``, (B, 3, S, S) to (B, width), and ``projection``, (B, width) to (B, r); moved to
            ``device``.
        images: (N, S, S, 3) uint8; may be a read-only memory map.
        layers: ``encoder``, ``projection`` or both. The projections are not l2-normalized.
        device: where the pass runs and the features stay.
        batch_size: most images in a pass. Large images have smaller batches: 41 of 224x224 take 0.6 GiB in a ResNet-50
            on a CPU.
        input_size: pixels; images are resized to input_size x input_size, bilinearly, with antialiasing when they
            shrink. An ImageNet encoder was trained on 224. None keeps the size.

    Returns:
        For each layer an (N, width of the layer) float32 tensor on ``device``.

    Raises:
        ValueError: an unknown layer, a wrong shape or type of images, an input size below 1, or features that are not
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
                # Filled in place, because torch.cat would hold all features twice.
                whole = features.setdefault(layer, rows.new_empty(len(images), rows.shape[1]))
                whole[start : start + len(rows)] = rows
    for layer, whole in features.items():
        check_finite(f"{layer} features", whole)
    return features


def check_finite(what: str, features: torch.Tensor) -> None:
    """Raise ``ValueError`` if a row of (N, width) ``features`` has a NaN or infinite value."""
    # A NaN or infinity makes the sum non-finite; checking each number takes ten times as long.
    if torch.isfinite(features.sum()):
        return
    bad = int((~torch.isfinite(features)).any(dim=1).sum())
    if bad:
        raise InputError(
            f"{what} of {bad} of {len(features)} images are not finite (NaN or infinite); an encoder that diverged or "
            "has damaged weights has no score. Train it again with a smaller learning rate, or load it again."
        )


def _forward(model: Any, batch: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
    encoded = model.encoder(batch).float()
    return {layer: encoded if layer == "encoder" else model.projection(encoded).float() for layer in layers}


def _to_views(images: np.ndarray, device: str | torch.device, size: int | None) -> torch.Tensor:
    """(B, S, S, 3) uint8 to the encoder's (B, 3, S, S) float32 input in channels-last memory order."""
    # A copy, because torch has no read-only tensors, and all trials share the memory map.
    x = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float().div_(255)
    return normalize(resized(x, size))


@contextmanager
def _frozen(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, float32 and no gradients; afterwards the former mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode, whose tensors cannot be used in autograd by a probe.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in modes:
            module.training = training
