"""One encoder in the formats that other programs read.

``model.safetensors`` has the weights by torchvision's names, and whoever loads them brings the network and normalises
the images. The two programs bring both: they take pixels, uint8 (batch, S, S, 3), RGB, as Pillow and numpy have them,
and any number of images, but of no other size, since that would give other features without a word.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.data.builtin import BUILTIN
from mdssl.data.decode import convert
from mdssl.errors import InputError
from mdssl.evaluate.features import extract_features
from mdssl.pretrain.augment import MEAN, STD
from mdssl.pretrain.model import Model, SmallMapConv2d
from mdssl.storage.safetensors_header import with_sorted_metadata

FORMATS = {"safetensors": "model.safetensors", "torch-export": "model.pt2", "onnx": "model.onnx"}
"""File names by format."""
_CHECKED_BATCHES = (1, 7)
_TOLERANCE = 1e-4
"""Largest difference of a program's features from the encoder's, as a share of the largest feature: float32 sums in
another order differ by about 1e-6."""


@dataclass(frozen=True)
class Exported:
    """A file of a program, and how far its features are from the encoder's, at most over all images and features."""

    data: bytes
    difference: float


class FromPixels(nn.Module):
    """The encoder with its normalisation: (batch, S, S, 3) uint8 to (batch, width) float32."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.encoder((images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)


def to_safetensors(config: TrialConfig, model: Model) -> bytes:
    """The encoder alone by torchvision's names, float32, with the trial's settings as metadata.

    From these `mdssl probe --weights` knows the stem, which not all weights tell.
    """
    settings = config.to_dict()
    settings["weights"] = file_name(config.weights)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.encoder.state_dict().items()}
    metadata = {"format": "pt", "config": json.dumps(settings)}
    return with_sorted_metadata(safetensors.torch.save(weights, metadata=metadata))


def file_name(uri: str) -> str:
    """The last part of ``uri``: the folders of the machine it was made on are nobody's business."""
    return uri.replace("\\", "/").rsplit("/", 1)[-1]


def to_programs(model: Model, size: int, formats: tuple[str, ...]) -> dict[str, Exported]:
    """By name those of ``formats`` that are programs, each checked against the encoder with one image and with seven.

    Raises:
        ValueError: features that are not finite; ONNX without its packages; or a program that computes something else.
    """
    wanted = [name for name in FORMATS if name in formats and name in _PROGRAMS]
    if not wanted:
        return {}
    if "onnx" in wanted:
        _check_onnx_is_installed()
    images = _drawn(max(_CHECKED_BATCHES), size)
    encoder_says = extract_features(model, images)["encoder"].cpu().numpy()
    program = _traced(model, size)
    exported = {}
    for name in wanted:
        write, run = _PROGRAMS[name]
        data = write(program)
        runs = [np.abs(run(data, images[:count]) - encoder_says[:count]).max() for count in _CHECKED_BATCHES]
        difference = float(max(runs))
        if not difference <= _TOLERANCE * np.abs(encoder_says).max():
            raise InputError(
                f"the {name} program's features differ by up to {difference:.3g} from the encoder's, which go up to "
                f"{np.abs(encoder_says).max():.3g}; leave {name} out of --formats."
            )
        exported[name] = Exported(data, difference)
    return exported


def _traced(model: Model, size: int) -> torch.export.ExportedProgram:
    pixels = FromPixels(_plain(model.encoder)).cpu().eval()
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(pixels, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    for node in program.graph.nodes:
        # Which files of this machine a node comes from is nobody's business.
        node.meta.pop("stack_trace", None)
    return program


def _plain(encoder: nn.Module) -> nn.Module:
    """A copy with torch's own convolutions: a program may run on a GPU, for which `SmallMapConv2d` is not meant."""
    plain = copy.deepcopy(encoder).float()
    for block in plain.modules():
        for name, child in block.named_children():
            if type(child) is SmallMapConv2d:
                conv = nn.Conv2d(
                    child.in_channels, child.out_channels, 3, stride=child.stride, padding=1, bias=False, device="meta"
                )
                conv.weight = child.weight
                setattr(block, name, conv)
    return plain


def _to_torch_export(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Of tensors on other devices; all are on the CPU.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, buffer)
    return buffer.getvalue()


def _run_torch_export(data: bytes, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(io.BytesIO(data)).module()(torch.from_numpy(images)).numpy()


def _to_onnx(program: torch.export.ExportedProgram) -> bytes:
    # It logs to standard error how far it is, and of opsets that nobody asked about.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, dynamo=True, input_names=["images"], output_names=["features"], verbose=False
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    model = made.model_proto
    graph = model.graph
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("metadata_props")
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = "batch"
    for part in (model, graph, *graph.node, *graph.initializer):
        part.ClearField("metadata_props")
    return model.SerializeToString()


def _run_onnx(data: bytes, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": images})[0]


_PROGRAMS: dict[str, tuple[Callable, Callable]] = {
    "torch-export": (_to_torch_export, _run_torch_export),
    "onnx": (_to_onnx, _run_onnx),
}
"""How each is written and run. TorchScript is none of them: torch 2.14 calls it deprecated, for torch.export."""


def _check_onnx_is_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"format 'onnx' needs the package {package}, which is not installed. Install it, or leave onnx out of "
                "--formats: pip install 'mdssl[onnx]'"
            ) from error


def _drawn(count: int, size: int) -> np.ndarray:
    """(count, size, size, 3) uint8: textures as the built-in domain has them, which need no data."""
    domain = BUILTIN["builtin-textures"]
    labels = np.arange(count) % len(domain.classes)
    images = domain.draw(np.random.default_rng(0), "test", labels)
    return np.stack([convert(image, size, "bicubic", "drawn") for image in images])
