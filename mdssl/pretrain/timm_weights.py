"""Weights for an encoder of timm: from a file, or those that timm publishes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch

from mdssl.config.encoders import timm_name
from mdssl.errors import InputError, some_of
from mdssl.pretrain.timm_encoder import import_timm, network
from mdssl.pretrain.weights_file import WeightsFile
from mdssl.storage.location import Location

_COUNTER = "num_batches_tracked"


def timm_state(
    contents: WeightsFile, arch: str, input_size: int, patch_size: int | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], tuple[str, ...], str]:
    """Find the encoder in a file with timm's names, possibly under a prefix.

    Position embeddings and patches of another size are resampled, as timm does it.

    Returns:
        The float32 state dict of the encoder; the tensors of the file that it was made of, by timm's names; the names
        in the file that were not used; and where the encoder was found, in words.

    Raises:
        InputError: the file does not have all tensors of the encoder, or some have another shape.
    """
    with torch.device("meta"):
        expected = network(arch, input_size, patch_size).state_dict()
    names = contents.tensors.keys()
    first = next(name for name in expected if name.endswith(".weight"))
    prefixes = [name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")]
    if not prefixes:
        raise InputError(
            f"it has no tensor {first} of {arch}; its first tensors are {some_of(names, 3) or 'none'}. Use weights by "
            "timm's names of this network."
        )
    prefix = max(prefixes, key=lambda each: sum(each + name in names for name in expected))
    own = {name: contents.tensors[prefix + name] for name in expected if prefix + name in names}
    if missing := [name for name in expected if name not in own and not name.endswith(_COUNTER)]:
        raise InputError(f"it lacks {some_of(missing, 5)} of {arch}. Use a complete file of this network.")
    try:
        with torch.random.fork_rng(devices=[]), _quiet():
            overlay = {"state_dict": {name: value.float() for name, value in own.items()}}
            encoder = network(arch, input_size, patch_size, pretrained=True, pretrained_cfg_overlay=overlay)
    # Functions of timm that adapt weights raise nearly anything.
    except Exception as error:
        raise InputError(f"its tensors do not fit {arch} at {input_size} pixels: {error}") from error
    unused = tuple(name for name in sorted(names) if not (name.startswith(prefix) and name[len(prefix) :] in own))
    resampled = [name for name, value in own.items() if value.shape != expected[name].shape]
    where = f"timm's names, {f'under {prefix!r}, ' if prefix else ''}in {contents.container}"
    where += f"; resampled: {some_of(resampled, 5)}" if resampled else ""
    return {name: value.detach() for name, value in encoder.state_dict().items()}, own, unused, where


@contextmanager
def _quiet() -> Iterator[None]:
    """timm logs each step of loading."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def timm_file(arch: str) -> Location:
    """Return the local file of timm's pretrained weights of ``arch``, which is fetched if it is not there.

    Raises:
        InputError: timm has no such weights, or they are not there and cannot be fetched.
    """
    timm = import_timm(arch)
    published = timm.models.get_pretrained_cfg(timm_name(arch))
    if not published.hf_hub_id:
        with_weights = timm.list_pretrained(f"{timm_name(arch).partition('.')[0]}*")
        raise InputError(
            f"timm has no pretrained weights of {arch!r} on Hugging Face; with weights: "
            f"{some_of((f'timm/{name}' for name in with_weights), 5) or 'none of this network'}. Or give a "
            "file in place of timm."
        )
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache

    name = published.hf_hub_filename or "model.safetensors"
    there = try_to_load_from_cache(published.hf_hub_id, name)
    if isinstance(there, str):
        return Location.of(there)
    try:
        if not constants.HF_HUB_OFFLINE:
            # Fails at once without a network, where the library tries for half a minute.
            urlopen(Request(hf_hub_url(published.hf_hub_id, name), method="HEAD"), timeout=20).close()
        return Location.of(hf_hub_download(published.hf_hub_id, name))
    # Of huggingface_hub, requests or httpx, and the operating system.
    except Exception as error:
        folder = f"{constants.HF_HUB_CACHE}/models--{published.hf_hub_id.replace('/', '--')}"
        url = f"https://huggingface.co/{published.hf_hub_id}/resolve/main/{name}"
        copied = f"copy the folder that `hf download {published.hf_hub_id} {name}` makes there"
        raise _not_fetched(url, folder, error, copied) from error


def torchvision_file(arch: str) -> Location:
    """Return the local file of torchvision's pretrained weights of the ResNet ``arch``, which is fetched if it is not
    there.

    Raises:
        InputError: it is not there and cannot be fetched.
    """
    import torchvision  # late, as in `resnet` of model.py

    url = torchvision.models.get_model_weights(arch).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Its name ends with the first digits of its SHA-256.
            torch.hub.download_url_to_file(url, str(file), file.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:
            raise _not_fetched(url, str(file), error, "copy it to that place") from error
    return Location.of(file)


def _not_fetched(url: str, place: str, error: Exception, copied: str) -> InputError:
    reason = str(error).strip().split("\n")[0]
    return InputError(
        f"pretrained weights are not at {place} and cannot be fetched ({type(error).__name__}: {reason}). Download "
        f"{url} on a machine with a network, and give the file in place of the library's name, or {copied}."
    )
