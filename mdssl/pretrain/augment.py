"""SimCLR's augmentation, batched on the device, with separate parameters for each view.

`draw` returns uniform numbers that depend only on (seed, step, domain), `Views.of` converts them to parameters, and
`augment` applies these. Therefore views do not depend on λ, the number of workers, or interruptions, and each operation
can be tested against torchvision with the same parameters. An operation that is not applied has the parameters of the
identity: hue 0, brightness 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

from mdssl.config.trial import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, which torchvision's pretrained encoders expect; used for all domains. An encoder that
expects others converts its input itself, see `mdssl.pretrain.timm_encoder`."""

_CROP_ATTEMPTS = 10
"""As in torchvision's RandomResizedCrop: the first crop that fits is used, or the whole image."""
_CROP_RATIO = (3 / 4, 4 / 3)
_JITTER_PROBABILITY, _GRAY_PROBABILITY = 0.8, 0.2
_BLUR_SIGMA = (0.1, 2.0)
_NUMBERS_PER_VIEW = 2 * _CROP_ATTEMPTS + 11
_GREY_WEIGHTS = (0.2989, 0.587, 0.114)
_CPU_CHUNK = 128
"""Views augmented at a time on a CPU, so that they stay in its cache."""


def draw(count: int, *, seed: int, step: int, domain: int) -> np.ndarray:
    """(2, count, numbers per view) float32 in [0, 1) for both views of ``count`` images of one domain at one step.

    ``domain`` is the domain's `mdssl.data.mixture.domain_key`.
    """
    return np.random.default_rng([1, seed, step, domain]).random((2, count, _NUMBERS_PER_VIEW), dtype=np.float32)


def draw_jitter_order(*, seed: int, step: int) -> np.ndarray:
    """Draw the order of brightness 0, contrast 1, saturation 2 and hue 3 in both views of one step: (2, 4).

    torchvision draws an order for each image. One order for all first (or second) views of a step, as in kornia, takes
    a quarter of the time. All domains share it, so that it cannot distinguish them.
    """
    rng = np.random.default_rng([2, seed, step])
    return np.stack([rng.permutation(4), rng.permutation(4)])


@dataclass(frozen=True)
class Views:
    """Parameters of B views, each a (B,) float tensor.

    Attributes:
        top, left, height, width: the crop, in whole pixels.
        flip: 1 where the view is mirrored.
        brightness, contrast, saturation: torchvision's factors; 1 changes nothing.
        hue: shift as a share of the color circle, in [-0.5, 0.5]; 0 changes nothing.
        gray: 1 where the view loses its colors.
        sigma: of the Gaussian blur, in pixels; 0 for none.
    """

    top: torch.Tensor
    left: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    flip: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    hue: torch.Tensor
    gray: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def of(cls, uniform: torch.Tensor, size: int, recipe: Recipe) -> Views:
        """Turn the (B, numbers) uniform draws of `draw` into parameters for ``size`` × ``size`` images."""
        area, ratio = uniform[:, :_CROP_ATTEMPTS], uniform[:, _CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS]
        top, left, flip, jitter, brightness, contrast, saturation, hue, gray, blur, sigma = uniform[
            :, 2 * _CROP_ATTEMPTS :
        ].unbind(1)

        area = size**2 * (recipe.crop_min_area + (1 - recipe.crop_min_area) * area)
        low, high = math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])
        ratio = torch.exp(low + (high - low) * ratio)
        heights, widths = torch.round(torch.sqrt(area / ratio)), torch.round(torch.sqrt(area * ratio))
        fits = (heights >= 1) & (heights <= size) & (widths >= 1) & (widths <= size)
        first = fits.int().argmax(1, keepdim=True)
        any_fits = fits.any(1)
        height = torch.where(any_fits, heights.gather(1, first).squeeze(1), size)
        width = torch.where(any_fits, widths.gather(1, first).squeeze(1), size)

        strength = recipe.jitter_strength * (jitter < _JITTER_PROBABILITY)
        return cls(
            top=torch.floor(top * (size - height + 1)),
            left=torch.floor(left * (size - width + 1)),
            height=height,
            width=width,
            flip=(flip < 0.5).to(uniform.dtype),
            brightness=1 + 0.8 * strength * (2 * brightness - 1),
            contrast=1 + 0.8 * strength * (2 * contrast - 1),
            saturation=1 + 0.8 * strength * (2 * saturation - 1),
            hue=0.2 * strength * (2 * hue - 1),
            gray=(gray < _GRAY_PROBABILITY).to(uniform.dtype),
            sigma=torch.where(
                blur < recipe.blur_probability, _BLUR_SIGMA[0] + (_BLUR_SIGMA[1] - _BLUR_SIGMA[0]) * sigma, 0.0
            ),
        )

    def __getitem__(self, rows: slice) -> Views:
        return Views(**{name: value[rows] for name, value in vars(self).items()})


def augment(images: torch.Tensor, views: Views, jitter_order: np.ndarray, *, compiled: bool = False) -> torch.Tensor:
    """Compute one view of each image: crop, flip, color jitter, grayscale, blur, then `normalize`.

    Args:
        images: (B, S, S, 3) uint8.
        views: parameters of the B views, on the images' device.
        jitter_order: (4,) order of the color operations.
        compiled: compile each part with torch.compile; gives the same views up to rounding.

    Returns:
        (B, 3, S, S) float32 in channels-last memory order.
    """
    chunk = _CPU_CHUNK if images.device.type == "cpu" else max(len(images), 1)
    count, size = images.shape[:2]
    augmented = torch.empty((count, 3, size, size), device=images.device, memory_format=torch.channels_last)
    for first in range(0, count, chunk):
        rows = slice(first, first + chunk)
        augmented[rows] = _augment_chunk(images[rows], views[rows], jitter_order, compiled)
    return augmented


def _augment_chunk(images: torch.Tensor, views: Views, jitter_order: np.ndarray, compiled: bool) -> torch.Tensor:
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    factors = (views.brightness, views.contrast, views.saturation, views.hue)
    # Compiled one by one, because the color operations have 24 orders.
    part = _compiled if compiled else lambda function: function
    x = part(resized_crop_flip)(images, views)
    for index in jitter_order:
        x = part(operations[index])(x, factors[index])
    return part(_finish)(x, views.gray, views.sigma)


def _finish(x: torch.Tensor, gray: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    x = normalize(gaussian_blur(adjust_saturation(x, 1 - gray), sigma))
    return x.contiguous(memory_format=torch.channels_last)


@cache
def _compiled(function: Callable) -> Callable:
    return torch.compile(function)


def resized(x: torch.Tensor, size: int | None) -> torch.Tensor:
    """Resize (B, 3, S, S) to ``size`` pixels, before they are encoded; None keeps the size."""
    if size is None or x.shape[2:] == (size, size):
        return x
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=size < max(x.shape[2:]))
    return x.contiguous(memory_format=torch.channels_last)


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Normalize (B, 3, S, S) images in [0, 1] by ImageNet's channel statistics, for all encoders."""
    # Filled on the device, because copying a tensor made from a list would wait for the GPU.
    mean, std = (torch.cat([x.new_full((1, 1, 1), value) for value in values]) for values in (MEAN, STD))
    return (x - mean) / std


def statistics_of(normalization: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel that the weights of an encoder expect, by ``TrialConfig.normalization``."""
    numbers = tuple(map(float, normalization.split())) or (*MEAN, *STD)
    return numbers[:3], numbers[3:]


def resized_crop_flip(images: torch.Tensor, views: Views) -> torch.Tensor:
    """Bilinear resized crop and horizontal flip: (B, S, S, 3) uint8 to (B, 3, S, S) float32 in [0, 1].

    Computed as A_y X A_xᵀ with a small matrix per image and axis; a flip reverses the rows of A_x.
    """
    count, size = len(images), images.shape[1]
    rows = _interpolation(views.top, views.height, torch.zeros_like(views.flip), size)
    columns = _interpolation(views.left, views.width, views.flip, size)
    x = images.to(torch.float32).div_(255).view(count, size, size * 3)
    x = torch.bmm(rows, x).view(count, size, size, 3).permute(0, 3, 1, 2).reshape(count, 3 * size, size)
    return torch.bmm(x, columns.transpose(1, 2)).view(count, 3, size, size)


def _interpolation(start: torch.Tensor, length: torch.Tensor, mirrored: torch.Tensor, size: int) -> torch.Tensor:
    """(B, size, size) matrices that resample ``length`` pixels from ``start`` on to ``size`` pixels, bilinearly."""
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    target = torch.where(mirrored[:, None] > 0, size - 1 - pixel, pixel)
    source = (target + 0.5) * (length / size)[:, None] - 0.5
    source = torch.minimum(source.clamp(min=0), (length - 1)[:, None]) + start[:, None]
    return (1 - (source[:, :, None] - pixel).abs()).clamp_(min=0)


def adjust_brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale all channels of each image of (B, 3, S, S) in [0, 1]."""
    return (x * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend each image with the mean of its gray values."""
    # The gray value of the mean color is the mean of the gray values, and takes a third of the time.
    return _blend(x, _gray(x.mean((2, 3), keepdim=True)), factor)


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend each pixel with its gray value; factor 0 gives grayscale."""
    return _blend(x, _gray(x), factor)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Rotate the hue of each pixel by ``shift`` of the color circle; value and saturation (HSV) stay."""
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    safe = chroma.clamp(min=1e-8)
    sector = torch.where(
        red == value,
        (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = torch.remainder(sector + 6 * shift.view(-1, 1, 1), 6)
    # HSV to RGB in closed form.
    fullness = torch.stack(((sector - 3).abs() - 1, 2 - (sector - 2).abs(), 2 - (sector - 4).abs()), 1).clamp_(0, 1)
    return torch.addcmul((value - chroma)[:, None], chroma[:, None], fullness)


def gaussian_blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image with a Gaussian of its ``sigma`` in pixels (0: not at all), borders reflected.

    The kernel spans a tenth of the image as in SimCLR, at least 3 pixels: 3 at 32×32.
    """
    radius = max(1, x.shape[-1] // 20)
    offsets = torch.arange(radius + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp(min=1e-3)) ** 2)
    weights = weights / (weights[:, :1] + 2 * weights[:, 1:].sum(1, keepdim=True))
    for axis in (2, 3):
        size = x.shape[axis]
        # F.pad(mode="reflect") does the same, but takes twice as long when compiled.
        before, after = x.narrow(axis, 1, radius).flip(axis), x.narrow(axis, size - 1 - radius, radius).flip(axis)
        padded = torch.cat((before, x, after), axis)
        x = padded.narrow(axis, radius, size) * weights[:, 0].view(-1, 1, 1, 1)
        for offset in range(1, radius + 1):
            both = padded.narrow(axis, radius - offset, size) + padded.narrow(axis, radius + offset, size)
            x = x.addcmul_(both, weights[:, offset].view(-1, 1, 1, 1))
    return x


def _gray(x: torch.Tensor) -> torch.Tensor:
    red, green, blue = x.split(1, dim=1)
    return _GREY_WEIGHTS[0] * red + _GREY_WEIGHTS[1] * green + _GREY_WEIGHTS[2] * blue


def _blend(x: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(other, x, factor.view(-1, 1, 1, 1)).clamp_(0, 1)
