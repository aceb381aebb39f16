"""The Python that loads an exported encoder, as its card shows it: each block runs by itself in the folder."""

from __future__ import annotations

from mdssl.config.trial import TrialConfig
from mdssl.export.formats import FORMATS
from mdssl.export.preparation import Preparation
from mdssl.pretrain.augment import MEAN, STD

_PADDING = {"cifar": 1, "cifar-pad2": 2}


def loading_code(config: TrialConfig, preparation: Preparation, formats: tuple[str, ...]) -> dict[str, str]:
    """By heading, the code that encodes ``image.png``, as ``features`` (1, width)."""
    pixels = _pixels(preparation)
    code = {}
    if "safetensors" in formats:
        code["torchvision"] = _torchvision(config, pixels)
        code["timm"] = _timm(config, pixels)
    if "torch-export" in formats:
        code["torch.export: no code of a network needed, normalisation inside"] = (
            f"import numpy as np\nimport torch\nfrom PIL import Image\n\n"
            f'encoder = torch.export.load("{FORMATS["torch-export"]}").module()\n\n{pixels}'
            "with torch.no_grad():\n    features = encoder(torch.from_numpy(pixels[None]))\n"
        )
    if "onnx" in formats:
        code["ONNX: no PyTorch needed, normalisation inside"] = (
            f"import numpy as np\nimport onnxruntime\nfrom PIL import Image\n\n"
            f'encoder = onnxruntime.InferenceSession("{FORMATS["onnx"]}")\n\n{pixels}'
            '(features,) = encoder.run(["features"], {"images": pixels[None]})\n'
        )
    return code


def _pixels(preparation: Preparation) -> str:
    size = preparation.size
    resize = f".resize(({size}, {size}), Image.Resampling.{preparation.filter.upper()})"
    return f'image = Image.open("image.png").convert("RGB"){resize}\npixels = np.array(image)  # uint8\n'


def _torchvision(config: TrialConfig, pixels: str) -> str:
    norm = ", norm_layer=lambda channels: torch.nn.GroupNorm(32, channels)" if config.norm == "group" else ""
    return (
        "import numpy as np\nimport torch\nimport torchvision\nfrom PIL import Image\n"
        "from safetensors.torch import load_file\n\n"
        f"encoder = torchvision.models.{config.arch}(weights=None{norm})\n"
        "encoder.fc = torch.nn.Identity()\n"
        f"{_stem(config)}"
        f'encoder.load_state_dict(load_file("{FORMATS["safetensors"]}"))\nencoder.eval()\n\n{pixels}'
        f"{_normalised()}"
        "with torch.no_grad():\n    features = encoder(x)\n"
    )


def _timm(config: TrialConfig, pixels: str) -> str:
    imports = "import numpy as np\nimport timm\nimport torch\nfrom PIL import Image\n\n"
    if config.stem == "imagenet":
        return (
            "import timm\nimport torch\nfrom PIL import Image\n\n"
            'encoder = timm.create_model("local-dir:.", pretrained=True).eval()\n'
            "transform = timm.data.create_transform(**timm.data.resolve_data_config(model=encoder))\n\n"
            'x = transform(Image.open("image.png").convert("RGB"))[None]\n'
            "with torch.no_grad():\n    features = encoder(x)\n"
        )
    norm = ', norm_layer="groupnorm"' if config.norm == "group" else ""
    return (
        f'{imports}encoder = timm.create_model("{config.arch}", num_classes=0{norm})\n'
        f"{_stem(config)}"
        f'timm.models.load_checkpoint(encoder, "{FORMATS["safetensors"]}")\nencoder.eval()\n\n{pixels}'
        f"{_normalised()}"
        "with torch.no_grad():\n    features = encoder(x)\n"
    )


def _stem(config: TrialConfig) -> str:
    """What makes of a ResNet's first layers those that the encoder was trained with."""
    if config.stem == "imagenet":
        return ""
    padding = _PADDING[config.stem]
    return (
        f"encoder.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding={padding}, bias=False)\n"
        "encoder.maxpool = torch.nn.Identity()\n"
    )


def _normalised() -> str:
    return (
        f"mean, std = torch.tensor({list(MEAN)}), torch.tensor({list(STD)})\n"
        "x = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)[None]\n"
    )
