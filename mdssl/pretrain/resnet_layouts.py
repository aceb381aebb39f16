"""Find a ResNet in a file of weights, by the layouts of many libraries.

A network is refused, or found with a separate stem, if tensors or settings in the file show that it differs from our
encoder. What files do not show is assumed to be as in torchvision: the stride in the 3x3 convolution of a bottleneck,
no anti-aliasing (except by the file's name), 3x3 stems with stride 1 and no max-pool, inputs normalized by ImageNet's
mean and deviation (solo-learn and Bolts use CIFAR-10's on CIFAR-10).
"""

from __future__ import annotations

import hashlib
import re

import torch

from mdssl.errors import InputError, some_of
from mdssl.pretrain.weights_file import WeightsFile

_ALLOWED = (
    "Allowed: ResNets of torchvision's layers with batch-norm, 7x7 or 3x3 stem; in `mdssl probe` and for --init also "
    "networks of timm, with --arch timm/NAME. Choose such a checkpoint."
)
_BLOCKS: dict[tuple[str, tuple[int, ...]], tuple[str, ...]] = {
    ("basic", (2, 2, 2, 2)): ("resnet18",),
    ("basic", (3, 4, 6, 3)): ("resnet34",),
    ("bottleneck", (3, 4, 6, 3)): ("resnet50", "wide_resnet50_2", "resnext50_32x4d"),
    ("bottleneck", (3, 4, 23, 3)): ("resnet101", "wide_resnet101_2", "resnext101_32x8d", "resnext101_64x4d"),
    ("bottleneck", (3, 8, 36, 3)): ("resnet152",),
}
"""Networks by their blocks; those of one entry differ in the shape of `_TELLING`."""
_TELLING = "layer1.0.conv2.weight"
_STEMS: dict[tuple[int, ...], str] = {(64, 3, 7, 7): "imagenet", (64, 3, 3, 3): "cifar"}
_FIRST_BLOCK = re.compile(r"(?:^|(?<=\.))(layer1|[2-4])\.0\.conv1\.weight$")
_AVERAGES = {"momentum", "target", "teacher", "ema", "swa", "key", "k"}
"""Words in the names of moving averages and of copies without a gradient."""


def find_resnet(contents: WeightsFile, path: str) -> tuple[str, str, dict[str, torch.Tensor], tuple[str, ...], str]:
    """Return arch, stem, the float32 state dict of the encoder, the names in the file that it has no use for, and the
    library that the file seems to come from.

    Args:
        path: the last two parts of the file's path.

    Raises:
        InputError: the file does not hold exactly one complete ResNet.
    """
    if antialiased := re.search(r"resnet(aa|blur)\d+", path):
        raise InputError(
            f"its name contains {antialiased[0]}, an anti-aliased network, which is not supported. {_ALLOWED}"
        )
    prefix, trunk, used = _choose(contents)
    arch = _arch_of(trunk)
    stem, source = _stem_and_source(contents, prefix, trunk)
    unused = tuple(name for name in sorted(contents.tensors) if name not in used)
    return arch, stem, _as_encoder(arch, trunk), unused, source


def _choose(contents: WeightsFile) -> tuple[str, dict[str, torch.Tensor], set[str]]:
    """Return the prefix of the encoder, its tensors by torchvision's names, and the names of those in the file."""
    names = contents.tensors.keys()
    prefixes = dict.fromkeys(name[: m.start()] for name in names if (m := _FIRST_BLOCK.search(name)))
    if not prefixes:
        transformer = any(re.search(r"patch_embed|pos_embed|(cls|class)_token", name) for name in names)
        looks = "a vision transformer" if transformer else f"{', '.join(list(names)[:3]) or 'nothing'} …"
        raise InputError(f"it looks like {looks}, not like a ResNet by torchvision's names. {_ALLOWED}")
    trained = [p for p in prefixes if not _AVERAGES & set(re.split(r"[._]", p))] or list(prefixes)
    trunks = [_trunk(contents.tensors, prefix) for prefix in trained]
    if len(trunks) > 1 and len({fingerprint_of(trunk) for trunk, _ in trunks}) > 1:
        raise InputError(
            f"it holds {len(trained)} different ResNets, under {', '.join(map(repr, trained))}; only one is allowed, "
            "with its moving averages. Save the tensors of one of them to a separate file."
        )
    return trained[0], *trunks[0]


def _trunk(tensors: dict[str, torch.Tensor], prefix: str) -> tuple[dict[str, torch.Tensor], set[str]]:
    own = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    rename, heads = {}, r"conv1|bn1|layer\d+"
    if "layer1.0.conv1.weight" not in own:
        # nn.Sequential(*resnet.children()): conv1, bn1, relu, maxpool, layer1, …; some leave the pool out.
        first = next(index for index in (2, 3, 4) if f"{index}.0.conv1.weight" in own)
        if first == 2:
            raise InputError(
                "its layers are numbered without a ReLU between the first batch-norm and the first block, as "
                "nn.Sequential makes of lightly's ResNetGenerator (its ReLU is not a child module); this encoder has "
                f"one and would compute other features. {_ALLOWED}"
            )
        if first == 3 and tensors.get(f"{prefix}0.weight", torch.empty(0)).shape[2:] == (7, 7):
            raise InputError(f"its 7x7 stem has no max-pool, which this encoder has. {_ALLOWED}")
        rename = {"0": "conv1", "1": "bn1"} | {str(first + i): f"layer{i + 1}" for i in range(4)}
        heads += "".join(f"|{index}" for index in range(2, first))
    trunk, used = {}, set()
    for name, whole in own.items():
        head, _, rest = name.partition(".")
        head = rename.get(head, head)
        if re.fullmatch(heads, head):
            # In lightly's ResNetGenerator and others after kuangliu/pytorch-cifar the name is shortcut.
            trunk[f"{head}.{rest}".replace(".shortcut.", ".downsample.")] = tensors[whole]
            used.add(whole)
    return trunk, used


def _arch_of(trunk: dict[str, torch.Tensor]) -> str:
    """Return the architecture, after a check that all its tensors exist with the right shapes."""
    if any(name.startswith("conv1.") and name != "conv1.weight" for name in trunk):
        raise InputError(f"it looks like a ResNet with a deep stem or a bias, such as timm's resnet50d. {_ALLOWED}")
    kind = "bottleneck" if any(name.endswith(".conv3.weight") for name in trunk) else "basic"
    blocks = {(int(layer), int(b)) for layer, b in re.findall(r"^layer(\d+)\.(\d+)\.", "\n".join(trunk), re.MULTILINE)}
    counts = tuple(max((b + 1 for layer, b in blocks if layer == i), default=0) for i in (1, 2, 3, 4))
    candidates = _BLOCKS.get((kind, counts))
    if candidates is None:
        raise InputError(f"it looks like a ResNet of {'-'.join(map(str, counts))} {kind} blocks. {_ALLOWED}")
    references = {name: _reference(name) for name in candidates}
    width = trunk[_TELLING].shape if _TELLING in trunk else None
    arch = next((name for name in candidates if references[name][_TELLING].shape == width), candidates[0])
    expected = references[arch]
    required = [name for name in expected if not name.endswith("num_batches_tracked")]
    if missing := [name for name in required if name not in trunk]:
        is_normless = all(".running_" in name for name in missing)
        hint = " A norm without running statistics, such as GroupNorm, is another network." if is_normless else ""
        raise InputError(f"it looks like {arch}, but lacks {some_of(missing, 5)}.{hint} {_ALLOWED}")
    if further := [name for name in trunk if name not in expected]:
        raise InputError(f"it looks like {arch} with further layers ({some_of(further, 5)}). {_ALLOWED}")
    for name in required:
        found, shape = trunk[name], tuple(expected[name].shape)
        if tuple(found.shape) != shape and not (name == "conv1.weight" and tuple(found.shape) in _STEMS):
            raise InputError(
                f"it looks like {arch} of another width, stem or number of groups (wide, ResNeXt, …): {name} is "
                f"{tuple(found.shape)}, not {shape}. {_ALLOWED}"
            )
        if not found.is_floating_point():
            raise InputError(f"{name} is of {found.dtype}, as in quantized networks; only floating point is allowed.")
    return arch


def _stem_and_source(contents: WeightsFile, prefix: str, trunk: dict[str, torch.Tensor]) -> tuple[str, str]:
    """Return the stem, and the library that the names in the file point to."""
    tensors, settings, container = contents
    stem = _STEMS[tuple(trunk["conv1.weight"].shape)]
    *outer, own = prefix.removesuffix(".").split(".")
    parent = "".join(f"{part}." for part in outer)
    beside = {name.removeprefix(parent).partition(".")[0] for name in tensors if name.startswith(parent)}
    is_solo = own.removeprefix("momentum_") in ("backbone", "encoder") and "classifier" in beside
    if contents.is_ours:
        return settings["stem"], container
    if is_solo and ("projector" in beside or "Lightning" in container):
        # All versions of solo-learn set padding=2 here (solo/methods/base.py).
        stem, library = "cifar-pad2" if stem == "cifar" else stem, "solo-learn"
    elif "maxpool1" in settings:
        library = "Lightning Bolts"
        # Bolts sets first_conv and maxpool1 separately; its SimCLR for STL-10 has the 7x7 convolution and no pool.
        if bool(settings["maxpool1"]) != (stem == "imagenet"):
            raise InputError(
                f"its {stem} stem was trained with maxpool1={settings['maxpool1']}; this encoder differs. Use "
                "a checkpoint with first_conv and maxpool1 both on or both off."
            )
    elif own == "encoder" and f"{parent}projection.model.0.weight" in tensors:
        library = "Lightning Bolts"
    elif own.startswith(("encoder_q", "base_encoder")):
        library = "MoCo"
    elif f"{prefix}layer1.0.conv1.weight" not in tensors:
        library = "a numbered nn.Sequential, such as lightly's"
    elif any(".shortcut." in name for name in tensors):
        library = "lightly's ResNetGenerator or similar"
    else:
        library = "torchvision or timm" if own in ("", "module") else "torchvision's names"
    return stem, f"{library}, {f'under {prefix!r}, ' if prefix else ''}in {container}"


def _as_encoder(arch: str, trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def typed(name: str) -> torch.Tensor:
        is_counter = name.endswith("num_batches_tracked")
        return trunk.get(name, torch.zeros(())).detach().to(torch.int64 if is_counter else torch.float32).clone()

    return {name: typed(name) for name in _reference(arch)}


def _reference(arch: str) -> dict[str, torch.Tensor]:
    """Return the names and shapes of the encoder, with the imagenet stem."""
    import torchvision  # late, as in `resnet` of model.py

    with torch.device("meta"):
        whole = getattr(torchvision.models, arch)(weights=None).state_dict()
    return {name: value for name, value in whole.items() if not name.startswith("fc.")}


def fingerprint_of(encoder: dict[str, torch.Tensor]) -> str:
    """See `Pretrained`."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
