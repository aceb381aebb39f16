"""An encoder in the file formats that other programs read.

``model.safetensors`` holds the weights under torchvision's names; its user builds the network and normalizes images.
The two programs contain network and normalization: they map uint8 RGB pixels (batch, S, S, 3) to features. The batch
size is free. The image size is fixed, because another one would silently give other features.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.export import ExportedProgram

from mdssl.config.trial import TrialConfig
from mdssl.data.builtin import BUILTIN
from mdssl.data.decode import convert
from mdssl.errors import InputError
from mdssl.evaluate.features import extract_features
from mdssl.pretrain.augment import MEAN, STD
from mdssl.pretrain.model import Model, SmallMapConv2d
from mdssl.storage.filesystems import file_name
from mdssl.storage.safetensors_header import with_sorted_metadata

FORMATS = {"safetensors": "model.safetensors", "torch-export": "model.pt2", "onnx": "model.onnx"}
"""File names by format."""
_CHECKED_BATCHES = (1, 7)
_TOLERANCE = 1e-4
"""Largest accepted difference from the encoder's features, relative to the largest feature. Float32 sums in another
order differ by about 1e-6."""


class Exported(NamedTuple):
    """A program's file, and the largest absolute difference between its features and the encoder's."""

    data: bytes
    difference: float


class FromPixels(nn.Module):
    """The encoder with its normalization: (batch, S, S, 3) uint8 to (batch, width) float32."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.encoder((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)


def to_safetensors(config: TrialConfig, model: Model) -> bytes:
    """Return the encoder's float32 weights under torchvision's names; the trial's settings are in the metadata.

    `mdssl probe --weights` reads the stem from these settings: the weights alone do not determine it.
    """
    # Published files do not name folders of the machine that wrote them.
    settings = config.to_dict() | {"weights": file_name(config.weights), "init": file_name(config.init)}
    weights = {name: value.detach().cpu().contiguous() for name, value in model.encoder.state_dict().items()}
    metadata = {"format": "pt", "config": json.dumps(settings)}
    return with_sorted_metadata(safetensors.torch.save(weights, metadata=metadata))


def to_programs(model: Model, size: int, formats: Sequence[str]) -> dict[str, Exported]:
    """Write those of ``formats`` that are programs, and check each against the encoder on batches of 1 and 7 images.

    Raises:
        ValueError: features that are not finite; ONNX without its packages; a program with other features.
    """
    wanted = [name for name in PROGRAMS if name in formats]
    if not wanted:
        return {}
    if "onnx" in wanted:
        _check_onnx_is_installed()
    images = _synthetic_images(max(_CHECKED_BATCHES), size)
    expected = extract_features(model, images)["encoder"].cpu().numpy()
    traced = _traced(model, size)
    exported = {}
    for name in wanted:
        data = PROGRAMS[name].write(traced)
        runs = [np.abs(PROGRAMS[name].run(data, images[:n]) - expected[:n]).max() for n in _CHECKED_BATCHES]
        difference = float(max(runs))
        if not difference <= _TOLERANCE * np.abs(expected).max():
            raise InputError(
                f"the features of the {name} program differ by up to {difference:.3g} from the encoder's "
                f"(at most {np.abs(expected).max():.3g}); leave {name} out of --formats."
            )
        exported[name] = Exported(data, difference)
    return exported


def _traced(model: Model, size: int) -> ExportedProgram:
    pixels = FromPixels(_with_plain_convolutions(model.encoder)).cpu().eval()
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(pixels, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    for node in program.graph.nodes:
        # Stack traces contain paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


def _with_plain_convolutions(encoder: nn.Module) -> nn.Module:
    """Copy it with torch's own convolutions: a program may run on a GPU, where `SmallMapConv2d` is not faster."""
    plain = copy.deepcopy(encoder).float()
    for block in plain.modules():
        for name, child in block.named_children():
            if type(child) is SmallMapConv2d:
                stride = (child.stride[0], child.stride[1])
                conv = nn.Conv2d(
                    child.in_channels, child.out_channels, 3, stride=stride, padding=1, bias=False, device="meta"
                )
                conv.weight = child.weight
                setattr(block, name, conv)
    return plain


def _write_torch_export(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _run_torch_export(data: bytes, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(io.BytesIO(data)).module()(torch.from_numpy(images)).numpy()


def _write_onnx(program: ExportedProgram) -> bytes:
    with _quiet():
        onnx = torch.onnx.export(program, input_names=["images"], output_names=["features"], dynamo=True, verbose=False)
        assert onnx is not None
        model = onnx.model_proto
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    values = (*graph.input, *graph.output, *graph.value_info)
    for dimension in (dimension for value in values for dimension in value.type.tensor_type.shape.dim):
        if dimension.dim_param == symbol:
            dimension.dim_param = "batch"
    # They contain paths of this machine.
    for part in (model, graph, *graph.node, *graph.initializer, *values):
        part.ClearField("metadata_props")
    return model.SerializeToString()


def _run_onnx(data: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": images})[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' progress messages and their warnings about opsets and devices."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class Program(NamedTuple):
    """How a program is written, and how it computes the features of (N, S, S, 3) uint8 images."""

    write: Callable[[ExportedProgram], bytes]
    run: Callable[[bytes, np.ndarray], np.ndarray]


PROGRAMS = {"torch-export": Program(_write_torch_export, _run_torch_export), "onnx": Program(_write_onnx, _run_onnx)}
"""Without TorchScript, which torch 2.14 deprecates in favor of torch.export."""


def _check_onnx_is_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"format 'onnx' needs the package {package}, which is not installed. Install it, or leave onnx out of "
                "--formats: pip install 'mdssl[onnx]'"
            ) from error


def _synthetic_images(count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) uint8 textures of the built-in domain, which need no data."""
    domain = BUILTIN["builtin-textures"]
    labels = np.arange(count) % len(domain.classes)
    images = domain.draw(np.random.default_rng(0), "test", labels)
    return np.stack([convert(image, size, "bicubic", "synthetic image") for image in images])
