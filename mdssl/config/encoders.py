"""Names of encoders, and which settings each kind has."""

from __future__ import annotations

import re

from mdssl.errors import InputError, check_name, check_number

RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)
"""torchvision's."""
RESNET_SETTINGS = ("stem", "norm")
TIMM_SETTINGS = ("input_size", "patch_size", "normalization")
"""Settings that only the ResNets of torchvision, or only the networks of timm, have."""
_TIMM = "timm/"


def is_timm(arch: str) -> bool:
    return arch.startswith(_TIMM)


def timm_name(arch: str) -> str:
    """The name in timm: ``vit_tiny_patch16_224`` of ``timm/vit_tiny_patch16_224``."""
    return arch.removeprefix(_TIMM)


def check_arch(arch: str, stem: str, norm: str, patch_size: int | None) -> None:
    """Raise ``ValueError`` for an encoder that cannot exist, or a setting that it does not have.

    Whether timm has a network of the name, `mdssl.pretrain.timm_encoder.timm_input` checks: this package is imported
    without timm.
    """
    if not is_timm(arch):
        check_name("arch", arch, RESNETS, "Or timm/NAME for a network of timm, such as timm/vit_tiny_patch16_224.")
        if patch_size is not None:
            raise InputError(
                f"patch_size is {patch_size}, but arch {arch!r} has no patches; only timm's transformers do."
            )
        return
    if not re.fullmatch(r"\w[\w.-]*", timm_name(arch)):
        raise InputError(f"arch is {arch!r}; it must be timm/NAME with a name of timm, such as timm/convnext_tiny.")
    for name, value, usual in (("stem", stem, "imagenet"), ("norm", norm, "batch")):
        if value != usual:
            raise InputError(
                f"{name} is {value!r}, but arch {arch!r} has its own first layers and normalization layers; {name} is "
                f"for torchvision's ResNets. Use --{name} {usual}."
            )
    if patch_size is not None:
        check_number("patch_size", patch_size, low=1, hint="It is in pixels.")


def check_input(arch: str, input_size: int | None, normalization: str, *, resizes: bool) -> None:
    """Raise ``ValueError`` for an input that the encoder does not have.

    Args:
        resizes: whether the method is one whose ResNets have an ``input_size``, too.
    """
    given = {"input_size": None if resizes else input_size, "normalization": normalization or None}
    for name, value in given.items():
        if value is not None and not is_timm(arch):
            raise InputError(
                f"{name} is {value!r}, but a ResNet is trained on images as they are prepared, with one normalization; "
                "leave it out."
            )
    if normalization and not re.fullmatch(r"[\d.]+( [\d.]+){5}", normalization):
        raise InputError(f"normalization is {normalization!r}; it must be three means and three deviations.")
