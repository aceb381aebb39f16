"""Presets, which are named sets of defaults for the settings classes; and the default folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from mdssl.config.methods import METHODS, OWN_SETTINGS, PRETRAINED_SETTINGS
from mdssl.errors import InputError, check_name

DATA = os.environ.get("MDSSL_DATA", "data")
STORAGE = os.environ.get("MDSSL_STORAGE", "results")
"""Default folders of prepared datasets and of results."""


def place_flags(storage: object, data: object = DATA) -> str:
    """The flags of these places in a command that is printed, each after a space; none for a default."""
    places = {"--storage": (str(storage), STORAGE), "--data": (str(data), DATA)}
    return "".join(
        f" {flag} {shlex.quote(place)}"
        for flag, (place, default) in places.items()
        if place not in (default, os.path.abspath(default))
    )


_TRANSFORMER: dict[str, Any] = {
    # MoCo v3's ViT-S (Chen, Xie, He 2021, arXiv:2104.02057, and its CONFIG.md): AdamW, 1.5e-4 for 256 images in a step
    # and in proportion, weight decay 0.1, temperature 0.2, 300 epochs of which 40 warm up. Here for two domains of 512
    # images, and CIFAR-10's epochs, as in preset cifar. Without blur, which is for larger images.
    "arch": "timm/vit_tiny_patch16_224",
    "batch_per_domain": 512,
    "optimizer": "adamw",
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "temperature": 0.2,
    "blur_probability": 0.0,
    "iterations": 29_100,
    "lr_warmup_iterations": 3_880,
    "warmup_iterations": 3_880,
    "recluster_every": 970,
}

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "arch": "resnet18",
        "batch_per_domain": 64,
        "iterations": 80,
        "lr_warmup_iterations": 10,
        "warmup_iterations": 16,
        "recluster_every": 16,
        "learning_rate": 1.5,
        # The built-in classes are shapes and digits, which crops of a tenth of the image cut apart.
        "crop_min_area": 0.5,
        "domains": ("builtin-clutter", "builtin-shapes", "builtin-textures"),
        "evaluate": ("builtin-clutter", "builtin-shapes", "builtin-textures", "builtin-digits"),
        "clusters": (2, 3),
        "rules": ("farthest", "runner-up"),
    },
    "cifar": {
        "arch": "resnet18",
        "stem": "cifar",
        "batch_per_domain": 512,
        # As SimCLR is trained on CIFAR at 32x32 elsewhere: no blur (SimCLR, appendix B.9; lightly's benchmark),
        # temperature and weight decay of solo-learn, 200 epochs or more. An epoch is CIFAR-10's, as the paper counts:
        # 97 full batches of its 50,000 images.
        "temperature": 0.2,
        "blur_probability": 0.0,
        "weight_decay": 1e-4,
        "iterations": 19_400,
        "lr_warmup_iterations": 970,
        "learning_rate": 2.0,
        "warmup_iterations": 970,
        "recluster_every": 970,
    },
    "vit": _TRANSFORMER,
    # Pretraining of ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808, appendix A): as preset vit, with weight decay 0.05.
    # No paper has a recipe for it with a contrastive loss.
    "convnext": _TRANSFORMER | {"arch": "timm/convnext_atto", "weight_decay": 0.05},
    "paper": {"probe": "sgd"},
}
"""By preset, the values that differ from the defaults of the settings classes, which follow the paper."""


def preset_values(name: str, given: Iterable[str], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a preset, for defaults beside the settings that are ``given``.

    They are those of the settings in ``usual``, the defaults without a preset; one of which a sweep takes several is a
    tuple. Its own domains, and what they are scored on, are not for users who give other domains.

    Raises:
        ValueError: no such preset.
    """
    check_name("preset", name, PRESETS)
    values: dict[str, Any] = {"preset": name}
    given = set(given)
    for setting, value in PRESETS[name].items():
        if setting in usual:
            is_axis = isinstance(usual[setting], tuple) and not isinstance(value, tuple)
            values[setting] = (value,) if is_axis else value
    if "mixtures" in given:
        values.pop("domains", None)
    if given & {"domains", "mixtures"}:
        values.pop("evaluate", None)
    return values


def check_used(settings: Any, methods: Sequence[str], varied: Collection[str] = ()) -> None:
    """Raise ``InputError`` if a setting that none of ``methods`` has is ``varied``, or is not a default of a preset."""
    of_others = OWN_SETTINGS.difference(PRETRAINED_SETTINGS, *(METHODS[name].settings for name in methods))
    for field in fields(settings) if methods else ():
        # Of any preset: a file may have the values of another one than the command line.
        value, defaults = getattr(settings, field.name), (field.default, *(p.get(field.name) for p in PRESETS.values()))
        if field.name in of_others and (field.name in varied or value not in defaults):
            having = ", ".join(name for name, method in METHODS.items() if field.name in method.settings)
            have = f"method {methods[0]!r} has" if len(methods) == 1 else f"methods {', '.join(methods)} have"
            flags = [name for name in ("add_methods", "methods", "method") if hasattr(settings, name)]
            hint = f", or choose a method that has it with --{flags[0].replace('_', '-')}: " if flags else "; it is of "
            raise InputError(
                f"{field.name} {'varies' if field.name in varied else f'is {value!r}'}, but {have} no such setting; "
                f"leave it out{hint}{having}."
            )
