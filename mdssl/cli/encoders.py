"""Commands that use a trained encoder: ``mdssl export``, ``embed`` and ``neighbors``.

Functions import torch, and modules that need it, themselves: ``--help`` does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from mdssl.config.presets import DATA, STORAGE


@dataclass(frozen=True, kw_only=True)
class Export:
    trial_id: tyro.conf.Positional[str]
    """Id of a finished trial: the 12 hex digits that the leaderboard prints."""
    output: str = ""
    """Folder to write, local or in a bucket; default: encoder-TRIAL_ID. In a bucket README.md is written last."""
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
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def export(settings: Export) -> None:
    """Write a trial's encoder to a folder for torchvision, timm, torch.export or ONNX, with a model card.

    Examples:
      mdssl export 0123456789ab
      mdssl export 0123456789ab --formats safetensors onnx --output encoders/cells
    """
    from mdssl.config.trial import check_trial_id
    from mdssl.export.folder import export

    check_trial_id(settings.trial_id)
    output = settings.output or f"encoder-{settings.trial_id}"
    differences = export(
        settings.storage,
        settings.trial_id,
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
class Embed:
    source: tyro.conf.Positional[str]
    """A folder of images, at any depth; a Parquet file or shards in Hugging Face's layout, with or without labels; or
    the name of a prepared dataset."""
    output: str
    """Parquet file to write, local or in a bucket."""
    trial_id: str = ""
    """The encoder of a finished trial."""
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
    device: str = "auto"
    """cpu | cuda | auto (a GPU if there is one)."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def embed(settings: Embed) -> None:
    """Write the embeddings of any images to Parquet: `path`, or `split` and `row`; `label` if known; `embedding`.

    Images are resized as by `mdssl data prepare`. An interrupted run continues where it stopped.

    Examples:
      mdssl embed ~/pictures/cells --trial-id 0123456789ab --output cells.parquet
      mdssl embed cifar10 --split test --trial-id 0123456789ab --output s3://BUCKET/cifar10.parquet

    In Python, as an array (images, features):
      np.stack(pd.read_parquet("cells.parquet")["embedding"])
    """
    from mdssl.export.embed import embed

    embed(**vars(settings))


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files; DATASET:test or DATASET:train for four images of that split of a prepared dataset; or
    DATASET:test:ROW or DATASET:train:ROW for one."""
    trial_id: str = ""
    """Id of a trained trial: the 12 hex digits that `mdssl train` and the leaderboard print."""
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
    device: str = "auto"
    """cpu | cuda | auto (a GPU if there is one)."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def neighbors(settings: Neighbors) -> None:
    """Show the training images that are nearest to yours in an encoder's feature space, as a sheet and in words.

    Examples:
      mdssl neighbors photo.jpg --trial-id 0123456789ab
      mdssl neighbors svhn:test cifar10:test:17 --trial-id 0123456789ab --features projection
      mdssl neighbors photo.jpg --weights resnet50.pth --input-size 224 --among cifar10 stl10
    """
    from mdssl.evaluate.neighbors.show import show_neighbors

    show_neighbors(**vars(settings))
