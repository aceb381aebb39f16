"""Commands that use a trained encoder: ``mdssl export``, ``embed`` and ``neighbors``.

Functions import torch, and modules that need it, themselves: ``--help`` does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from mdssl.cli.places import DataFlag, DeviceFlag, StorageFlag, TrialArgument
from mdssl.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Export(TrialArgument, StorageFlag, DataFlag):
    trial_id: tyro.conf.Positional[str] = field()
    output: str = ""
    """Folder to write, local or in a bucket; default: encoder-TRIAL_ID. In a bucket mdssl.json is written last."""
    formats: tuple[str, ...] = ("safetensors",)
    """Files to write: safetensors (weights under torchvision's names, for any version of torch; loading them runs no
    code) | torch-export (a program for torch.export.load) | onnx (the same for onnxruntime; needs pip install
    'mdssl[onnx]'). Programs take uint8 pixels and normalize them themselves."""
    size: int | None = None
    """Image size in pixels; default: that of the training images, from --data."""
    filter: str | None = None
    """Resize filter: bicubic | bilinear | box | lanczos | nearest; default: that of the training images."""
    overwrite: bool = False
    """Replace an earlier export in the same folder."""


def export(settings: Export) -> None:
    """Write a trial's encoder to a folder for torchvision, timm, torch.export or ONNX, with a model card.

    Examples:
      mdssl export 0123456789ab
      mdssl export 0123456789ab --formats safetensors onnx --output encoders/cells
    """
    from mdssl.export.folder import export
    from mdssl.tables.trial_name import find_trial

    trial_id = find_trial(settings.storage, settings.trial_id)
    output = settings.output or f"encoder-{trial_id}"
    differences = export(
        settings.storage,
        trial_id,
        output,
        formats=settings.formats,
        data=settings.data,
        size=settings.size,
        resize_filter=settings.filter,
        overwrite=settings.overwrite,
    )
    for name, difference in differences.items():
        print(f"{name}: features differ from the encoder's by at most {difference:.1e}")
    print(f"{output}: README.md says how to load it")


@dataclass(frozen=True, kw_only=True)
class Embed(TrialArgument, DeviceFlag, StorageFlag, DataFlag):
    trial_id: tyro.conf.Positional[str] = ""
    source: tyro.conf.Positional[str] = ""
    """A folder of images, at any depth; a Parquet file or shards in Hugging Face's layout, with or without labels; or
    the name of a prepared dataset."""
    output: str
    """Parquet file to write, local or in a bucket."""
    weights: str = ""
    """Instead of a trial: the file of a pretrained encoder from elsewhere, as for `mdssl probe`."""
    input_size: int | None = None
    """With --weights: size in pixels of the encoder's input."""
    features: str = "encoder"
    """Layer: encoder (scored by probes) | projection (compared by the loss)."""
    split: str = ""
    """Only this split of a dataset or of shards: train | test; default: all, with a column for the split."""
    size: int | None = None
    """Image size in pixels; default: that of the trial's training images, from --data."""
    filter: str | None = None
    """Resize filter: bicubic | bilinear | box | lanczos | nearest; default: that of the training images."""
    skip_damaged: bool = False
    """Leave out images that cannot be decoded, and list them. Without it the first such image ends the run."""
    batch_size: int = 256
    """Batch size of the encoder."""
    workers: int | None = None
    """Processes that decode images; default: one per CPU if there are many images."""


def embed(settings: Embed) -> None:
    """Write the embeddings of any images to Parquet: `path`, or `split` and `row`; `label` if known; `embedding`.

    Images are resized as by `mdssl data prepare`. An interrupted run continues where it stopped.

    Examples:
      mdssl embed 0123456789ab ~/pictures/cells --output cells.parquet
      mdssl embed best cifar10 --split test --output s3://BUCKET/cifar10.parquet

    In Python, as an array (images, features):
      np.stack(pd.read_parquet("cells.parquet")["embedding"])
    """
    from mdssl.export.embed import embed

    trial_id, source = _encoder(settings, [settings.source] if settings.source else [])
    if len(source) > 1:
        raise InputError(f"several sources are given, {' and '.join(source)}; name one.")
    if not source:
        raise InputError("no images are given; name a folder, a Parquet file or a prepared dataset.")
    embed(**vars(settings) | {"trial_id": trial_id, "source": source[0]})


@dataclass(frozen=True, kw_only=True)
class Neighbors(TrialArgument, DeviceFlag, StorageFlag, DataFlag):
    trial_id: tyro.conf.Positional[str] = ""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files; DATASET:test or DATASET:train for four images of that split of a prepared dataset; or
    DATASET:test:ROW or DATASET:train:ROW for one."""
    weights: str = ""
    """Instead of a trial: the file of a pretrained encoder from elsewhere, as for `mdssl probe`."""
    input_size: int | None = None
    """With --weights: size in pixels of the encoder's input, 224 for most ImageNet encoders; default: as prepared."""
    among: tuple[str, ...] = ()
    """Prepared datasets whose training images are searched; default: the training domains of the trial."""
    features: str = "encoder"
    """Layer that is compared: encoder | projection."""
    neighbors: int = 10
    """Nearest images to show for each."""
    sample: int = 2_000
    """Number of training images of each dataset to search, taken from its classes in turn; at most all."""
    seed: int = 0
    """Random seed of this sample, and of the images of DATASET:test and DATASET:train."""
    output: str = "neighbors.png"
    """PNG file to write."""


def neighbors(settings: Neighbors) -> None:
    """Show the training images that are nearest to yours in an encoder's feature space, as a sheet and in words.

    Examples:
      mdssl neighbors 0123456789ab photo.jpg
      mdssl neighbors best svhn:test cifar10:test:17 --features projection
      mdssl neighbors photo.jpg --weights resnet50.pth --input-size 224 --among cifar10 stl10
    """
    from mdssl.evaluate.neighbors.show import show_neighbors

    trial_id, images = _encoder(settings, list(settings.images))
    show_neighbors(**vars(settings) | {"trial_id": trial_id, "images": images})


def _encoder(settings: Embed | Neighbors, images: list[str]) -> tuple[str, list[str]]:
    """The id of the trial that is named first, and the images; with --weights all are images."""
    from mdssl.tables.trial_name import find_trial, is_trial_name

    if not settings.weights:
        return (find_trial(settings.storage, settings.trial_id) if settings.trial_id else ""), images
    if is_trial_name(settings.trial_id):
        raise InputError(
            f"give either TRIAL_ID, or --weights FILE; {settings.trial_id} and {settings.weights} are given."
        )
    return "", [*[settings.trial_id] * bool(settings.trial_id), *images]
