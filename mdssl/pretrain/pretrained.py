"""Encoders that were trained elsewhere, or in another trial: scored as they are, or as the start of a training.

Files are read without running code. Torchvision's and timm's own weights are taken from their caches, or fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mdssl.config.encoders import is_timm
from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError, check_number
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.resnet_layouts import find_resnet, fingerprint_of
from mdssl.pretrain.timm_encoder import timm_input
from mdssl.pretrain.timm_weights import timm_file, timm_state, torchvision_file
from mdssl.pretrain.weights_file import read_weights
from mdssl.storage.location import Location

PUBLISHED = ("torchvision", "timm")
"""Libraries whose own weights of an arch can be named in place of a file."""


class Network(NamedTuple):
    """The settings of a trial that determine the tensors of its encoder; with an empty ``stem`` any that a file has."""

    arch: str
    stem: str = "imagenet"
    norm: str = "batch"
    input_size: int | None = None
    patch_size: int | None = None

    @classmethod
    def of(cls, config: TrialConfig) -> Network:
        return cls(*(getattr(config, name) for name in cls._fields))


class Pretrained(NamedTuple):
    """An encoder from a file.

    Attributes:
        arch: as in `mdssl.config.trial.Recipe`.
        stem: imagenet | cifar | cifar-pad2 (solo-learn's, with a padding of 2).
        encoder: float32 state dict of ``Model(config).encoder``, on the CPU.
        unmatched: names in the file that were not used, sorted.
        source: the library that it seems to come from.
        fingerprint: 16 hex digits of a SHA-256 over names, shapes and bytes of ``encoder`` without
            ``num_batches_tracked``. ``arch`` and ``stem`` are not part of it. Of timm, over the tensors of the file,
            before any is resampled, which rounds differently on other machines.
        input: further settings of an encoder of timm, see `mdssl.pretrain.timm_encoder.timm_input`.
    """

    arch: str
    stem: str
    encoder: dict[str, torch.Tensor]
    unmatched: tuple[str, ...]
    source: str
    fingerprint: str
    input: dict[str, Any] = {}  # noqa: RUF012 (never changed)


def load_pretrained(file: str | Path | Location, network: Network | None = None) -> Pretrained:
    """Read a pretrained encoder from safetensors or from ``torch.save``.

    Known layouts of ResNets: torchvision, timm, solo-learn, lightly, Lightning Bolts' SimCLR, MoCo, our
    ``encoder.safetensors``, and any other file with a ResNet by torchvision's names under a prefix, or numbered as the
    children of an ``nn.Sequential``. Of several networks, moving averages are skipped (prefixes such as ``momentum``,
    ``target``, ``teacher``, ``ema`` or ``encoder_k``). To load DINO's teacher, save it to a separate file.

    Args:
        network: of timm, whose tensors alone do not tell which network it is; our own files do.

    Raises:
        InputError: the file is missing, not a file of weights, would run code, or does not hold exactly one complete
            encoder of a known architecture. The message names the file.
    """
    location = Location.of(file)
    try:
        contents = read_weights(location)
        settings = contents.settings if contents.is_ours else {}
        if network is None and is_timm(settings.get("arch", "")):
            network = Network(settings["arch"], input_size=settings["input_size"], patch_size=settings["patch_size"])
        if network is None:
            arch, stem, encoder, unused, source = find_resnet(contents, f"{location.parent.name}/{location.name}")
            return Pretrained(arch, stem, encoder, unused, source, fingerprint_of(encoder))
        if settings.get("arch", network.arch) != network.arch:
            raise InputError(f"it holds {settings['arch']}, not {network.arch}. Use --arch {settings['arch']}.")
        assert network.input_size is not None
        encoder, own, unused, source = timm_state(contents, network.arch, network.input_size, network.patch_size)
    except InputError as error:
        raise InputError(f"pretrained encoder {location} cannot be loaded: {error}") from error.__cause__
    size = timm_input(network.arch, network.input_size, network.patch_size)
    return Pretrained(network.arch, network.stem, encoder, unused, source, fingerprint_of(own), size)


def load_start(source: str, network: Network) -> Pretrained:
    """Load weights of ``network``.

    Args:
        source: a file, or torchvision or timm for the weights that they publish.

    Raises:
        InputError: the weights cannot be read, are of another network, or cannot be fetched.
    """
    of_timm = is_timm(network.arch)
    location = Location.of(source)
    if source in PUBLISHED:
        fitting = "timm" if of_timm else "torchvision"
        if source != fitting:
            raise InputError(
                f"weights of {source} are asked for, but {fitting} publishes those of arch {network.arch!r}; use "
                f"{fitting}, or another arch."
            )
        location = (timm_file if of_timm else torchvision_file)(network.arch)
    if of_timm:
        return load_pretrained(location, network)
    found = load_pretrained(location)
    for name, has in (("arch", found.arch), ("stem", found.stem), ("norm", "batch")):
        if (wanted := getattr(network, name)) not in ("", has):
            use = f"Use --{name} {has}"
            if has == "cifar-pad2":
                use = "Training cannot start from it; score it with `mdssl probe --weights` or --pretrained"
            raise InputError(
                f"{location} has an encoder with {name} {has!r}, but {name} is {wanted!r}. {use}, or use other weights."
            )
    return found


def check_init_exists(config: TrialConfig) -> None:
    """Raise ``InputError`` if the file of a trial's first weights does not exist, and the trial is a new one."""
    is_file = config.init not in ("random", *PUBLISHED) and not config.init_fingerprint
    if is_file and not Location.of(config.init).exists():
        raise InputError(f"pretrained encoder {config.init} cannot be loaded: there is no such file.")


def start_fingerprint(source: str, network: Network) -> str:
    """The fingerprint of what `load_start` loads."""
    return load_start(source, network).fingerprint


def complete(
    config: TrialConfig, image_size: int | None, fingerprint: Callable[[str, Network], str] = start_fingerprint
) -> TrialConfig:
    """Fill in the settings of ``config`` that depend on its images and its first weights.

    Args:
        image_size: pixels of the training images; None for a trial without.
        fingerprint: `start_fingerprint`, or a function that remembers what it has read.

    Raises:
        InputError: the encoder cannot take such images, or its first weights cannot be loaded; or the config has other
            values, of other images or another version of timm.
    """
    completed = config
    if is_timm(config.arch):
        size = image_size or config.input_size
        if size is None:
            raise InputError(
                f"method {config.method!r} has no training images, whose size the encoder {config.arch!r} would take; "
                "give it with --input-size, such as --input-size 32."
            )
        completed = replace(config, **timm_input(config.arch, size, config.patch_size))
    if config.init != "random" and not config.init_fingerprint:
        source = config.init if config.init in PUBLISHED else Location.of(config.init).uri
        completed = replace(completed, init=source, init_fingerprint=fingerprint(source, Network.of(completed)))
    for name in ("input_size", "normalization"):
        before, now = getattr(config, name), getattr(completed, name)
        if before and before != now:
            raise InputError(
                f"{name} is {before}, but with these images and this version of timm it is {now}; restore them, or "
                f"leave {name} out for a new trial."
            )
    return completed


def as_it_starts(config: TrialConfig) -> TrialConfig:
    """Return the trial that scores the first weights of ``config``, a completed trial with ``init``, as they are."""
    network: dict[str, Any] = {
        name: getattr(config, name) for name in ("arch", "stem", "input_size", "patch_size", "normalization")
    }
    return TrialConfig(method="pretrained", weights=config.init, weights_fingerprint=config.init_fingerprint, **network)


def starts_of(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """`as_it_starts` of each of ``configs`` that has ``init``."""
    return [as_it_starts(config) for config in configs if config.init != "random"]


def encoder_of(config: TrialConfig) -> Pretrained:
    """Return the first weights of an encoder: those of ``init``, or, of method pretrained, of ``weights``.

    Raises:
        ValueError: as `load_start`, or the file has changed since the trial was made.
    """
    source, expected = (config.init, config.init_fingerprint)
    if METHODS[config.method].loads_weights:
        source, expected = (config.weights, config.weights_fingerprint)
    found = load_start(source, Network.of(config))
    if found.fingerprint != expected:
        raise InputError(
            f"{source} has weights of fingerprint {found.fingerprint}, but trial {config.trial_id} was created from "
            f"{expected}; restore the file, or start a new trial with this one."
        )
    return found


def pretrained_config(
    file: str | Path | Location, input_size: int | None = None, arch: str = ""
) -> tuple[TrialConfig, Pretrained]:
    """Return the trial config of a pretrained encoder, and the encoder.

    Args:
        file: of weights; or torchvision or timm, with ``arch``.
        input_size: pixels that images are resized to; default: as they are prepared, or what timm's weights take.
        arch: of the weights, where the file does not tell: timm's, or the weights that a library publishes.

    Raises:
        ValueError: as `load_pretrained` and `load_start`, or an input size below 8.
    """
    if input_size is not None:
        check_number("input_size", input_size, low=8, hint="It is the side of the encoder's input in pixels.")
    published = isinstance(file, str) and file in PUBLISHED
    if published and not arch:
        raise InputError(
            f"weights are those of {file}, but of which network? Give a file, or for `mdssl probe` also --arch."
        )
    of_timm = timm_input(arch, input_size, None) if is_timm(arch) else {}
    size, patch = of_timm.get("input_size"), of_timm.get("patch_size")
    network = Network(arch, "imagenet" if of_timm else "", input_size=size, patch_size=patch)
    found = load_start(str(file) if published else Location.of(file).uri, network) if arch else load_pretrained(file)
    settings: dict[str, Any] = {"arch": found.arch, "stem": found.stem, "input_size": input_size} | found.input
    if found.input and input_size not in (None, found.input["input_size"]):
        patch = found.input["patch_size"]
        settings |= timm_input(found.arch, input_size, patch if patch and input_size % patch == 0 else None)
    config = TrialConfig(
        method="pretrained",
        weights=str(file) if published else Location.of(file).uri,
        weights_fingerprint=found.fingerprint,
        **settings,
    )
    return config, found


def pretrained_model(file: str | Path | Location, input_size: int | None = None) -> tuple[TrialConfig, Model]:
    """Return the trial config of a pretrained encoder, and a model of it in evaluation mode, whose head is untrained.

    Raises:
        ValueError: as `pretrained_config`.
    """
    config, found = pretrained_config(file, input_size)
    model = build_model(config)
    model.encoder.load_state_dict(found.encoder if not found.input else encoder_of(config).encoder)
    return config, model.eval()
