"""Read files of named tensors from other libraries without running code."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.safetensors_header import safetensors_metadata

OURS = "mdssl's encoder.safetensors"


class WeightsFile(NamedTuple):
    """The content of a file of weights.

    Attributes:
        tensors: by name, on the CPU; nested dicts are flattened, their keys joined by dots.
        settings: the file's description of its network: Lightning's ``hyper_parameters``, or our own trial's config.
        container: the kind of file, in words.
    """

    tensors: dict[str, torch.Tensor]
    settings: Mapping[str, Any]
    container: str

    @property
    def is_ours(self) -> bool:
        return self.container == OURS


def read_weights(location: Location) -> WeightsFile:
    """Read a file of safetensors or of ``torch.save``; the content decides, not the name.

    Raises:
        InputError: the file is missing, truncated, of another kind, or would run code when loaded.
    """
    try:
        data = location.read_bytes()
    except FileNotFoundError as error:
        raise InputError("there is no such file.") from error
    except OSError as error:
        raise InputError(f"it cannot be read ({error}). Give the path of one file of weights.") from error
    _check_kind(data, location.name)
    # A safetensors file begins with eight bytes of length and a JSON header.
    if data[8:9] == b"{" or location.name.endswith(".safetensors"):
        return _read_safetensors(data)
    return _read_torch(data, location.name)


_POINTER = "a pointer, without the content of the file"
_KINDS = {
    b"version https://git-lfs.github.com/spec/": f"it is a Git LFS pointer: {_POINTER}. Run: git lfs pull",
    b"/annex/objects/": f"it is a git-annex pointer: {_POINTER}. Run: git annex get FILE",
    b"<": "it is a web page or XML, not the file itself. The site may want a login or a confirmation: download it in a "
    "browser.",
    b"\x89HDF": "it is an HDF5 file, as Keras writes it, not weights of PyTorch. Convert it to safetensors.",
    b"\x1f\x8b": "it is a gzip archive, not a file of weights. Unpack it, and give the file in it.",
}
"""First bytes of other kinds of files, and the message for each."""


def _check_kind(data: bytes, name: str) -> None:
    for start, message in _KINDS.items():
        if data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            raise InputError(message)
    try:
        inside = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return
    if any(file.endswith(("/models/model.json", "serialized_exported_program.json")) for file in inside):
        kind, weights = "an exported program of torch.export", f"torch.export.load({name!r}).state_dict"
    elif any(file.endswith("/constants.pkl") for file in inside):
        kind, weights = "a TorchScript program", f"torch.jit.load({name!r}, 'cpu').state_dict()"
    elif any(file.endswith("data.pkl") for file in inside):
        return
    else:
        raise InputError("it is a zip archive, not a file of weights. Unpack it, and give the file in it.")
    raise InputError(
        f"it is {kind}, not weights, and loading it can run code. If you trust the file, save its weights, and give "
        f"that file:\n    import torch; torch.save(dict({weights}), {f'{Path(name).stem}-weights.pth'!r})"
    )


def _read_safetensors(data: bytes) -> WeightsFile:
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"it is not a complete safetensors file ({error}). Copy or download it again.") from error
    try:
        config = json.loads(safetensors_metadata(data)["config"])
    except (KeyError, ValueError):
        config = None
    is_ours = isinstance(config, dict) and {"arch", "stem", "norm", "projection_dim"} <= config.keys()
    return WeightsFile(tensors, config, OURS) if is_ours else WeightsFile(tensors, {}, "safetensors")


_CONVERSION = """\
    import numpy as np, torch
    array = lambda v: isinstance(v, np.ndarray) and v.dtype.kind in 'fiub'
    plain = lambda v: isinstance(v, torch.Tensor) or type(v) in (str, int, float, bool)
    named = lambda v: {{k: keep(x) for k, x in v.items() if isinstance(k, str)}}
    keep = lambda v: named(v.state_dict()) if hasattr(v, 'state_dict') else named(v) if isinstance(v, dict) else \
torch.as_tensor(v) if array(v) else v if plain(v) else None
    torch.save(keep(torch.load({file!r}, 'cpu', weights_only=False)), {output!r})"""
"""Keeps tensors and plain settings of dicts, modules and objects with a ``state_dict``."""


def _read_torch(data: bytes, name: str) -> WeightsFile:
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    # For other and truncated files the unpickler raises KeyError, IndexError and more.
    except Exception as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if wanted is None:
            raise InputError(
                f"it is not a file of weights, or it is truncated ({type(error).__name__}). Allowed: safetensors, and "
                "dicts of tensors written by torch.save. Copy or download it again, or save the state dict alone."
            ) from error
        raise InputError(
            f"its pickle refers to {wanted[1]}, and unpickling anything but tensors can run code. If you trust the "
            "file, and the package that wrote it is installed, save only its tensors, and give that file:\n"
            + _CONVERSION.format(file=name, output=f"{Path(name).stem}-weights.pth")
        ) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"it holds a {type(loaded).__name__}, not tensors by name. Save a state dict.")
    state, settings = loaded.get("state_dict"), loaded.get("hyper_parameters")
    tensors = dict(_named_tensors(state if isinstance(state, Mapping) else loaded))
    container = "a Lightning checkpoint" if "pytorch-lightning_version" in loaded else "torch.save"
    return WeightsFile(tensors, settings if isinstance(settings, Mapping) else {}, container)


def _named_tensors(values: Mapping, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of nested dicts, with keys joined by dots, but not an optimizer's, which have integer keys."""
    for key, value in values.items():
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            yield path + key, value
        elif isinstance(key, str) and isinstance(value, Mapping):
            yield from _named_tensors(value, f"{path}{key}.")
