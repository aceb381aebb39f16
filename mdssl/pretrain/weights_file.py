"""Files of named tensors that others wrote, read whole and without running code."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from mdssl.errors import InputError
from mdssl.safetensors_header import safetensors_metadata
from mdssl.storage import Location

OURS = "mdssl's encoder.safetensors"


class WeightsFile(NamedTuple):
    """What a file of weights holds.

    Attributes:
        tensors: by name, on the CPU; nested dicts are flattened, their keys joined by dots.
        settings: what the file says of its network: Lightning's ``hyper_parameters``, or our own trial's config.
        container: the kind of file, in words.
    """

    tensors: dict[str, torch.Tensor]
    settings: Mapping[str, Any]
    container: str

    @property
    def is_ours(self) -> bool:
        return self.container == OURS


def read_weights(location: Location) -> WeightsFile:
    """Read a whole file of safetensors or of ``torch.save``, whichever its content is.

    Raises:
        InputError: no such file, a truncated or a foreign one, or one whose loading would run code.
    """
    try:
        data = location.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read ({error}). Give the path of one file of weights.") from error
    # By content, as many a .pt or .bin holds the other: a safetensors header is JSON behind eight bytes of its length.
    if data[8:9] == b"{" or location.name.endswith(".safetensors"):
        return _read_safetensors(data)
    return _read_torch(data, location.name)


def _read_safetensors(data: bytes) -> WeightsFile:
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"it is no whole safetensors file ({error}). Copy or download it again.") from error
    try:
        config = json.loads(safetensors_metadata(data)["config"])
    except (KeyError, ValueError):
        config = None
    is_ours = isinstance(config, dict) and {"arch", "stem", "norm", "projection_dim"} <= config.keys()
    return WeightsFile(tensors, config, OURS) if is_ours else WeightsFile(tensors, {}, "safetensors")


def _read_torch(data: bytes, name: str) -> WeightsFile:
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # Whatever bytes a foreign or truncated file has, the unpickler stumbles in its own way: KeyError, IndexError, ….
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if wanted is None:
            raise InputError(
                f"it is no file of weights, or cut off ({type(error).__name__}). Allowed: safetensors, and what "
                "torch.save wrote of tensors in dicts. Copy or download it again, or save the state dict alone."
            ) from error
        raise InputError(
            f"its pickle wants {wanted[1]}, and unpickling more than tensors can run any code. Where you trust the "
            "file and have what wrote it installed, convert it to safetensors (without ['state_dict'] if there is "
            "none):\n"
            f"    import torch, safetensors.torch; state = torch.load({name!r}, 'cpu', weights_only=False)"
            "['state_dict']\n"
            "    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in state.items()}, "
            f"{Path(name).stem + '.safetensors'!r})"
        ) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"it holds a {type(loaded).__name__}, not tensors by name. Save a state dict.")
    state, settings = loaded.get("state_dict"), loaded.get("hyper_parameters")
    tensors = dict(_named_tensors(state if isinstance(state, Mapping) else loaded))
    container = "a Lightning checkpoint" if "pytorch-lightning_version" in loaded else "torch.save"
    return WeightsFile(tensors, settings if isinstance(settings, Mapping) else {}, container)


def _named_tensors(values: Mapping, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of nested dicts, their keys joined by dots. An optimiser's state has numbers for keys and stays out."""
    for key, value in values.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            yield path + key, value
        elif isinstance(key, str) and isinstance(value, Mapping):
            yield from _named_tensors(value, f"{path}{key}.")
