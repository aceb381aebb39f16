"""Commands that take encoders elsewhere, and that ask them: ``mdssl export``, ``embed`` and ``neighbours``.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from mdssl.config.presets import DATA, STORAGE


@dataclass(frozen=True, kw_only=True)
class Export:
    trial_id: tyro.conf.Positional[str]
    """A finished trial: the 12 hex digits that the leaderboard prints."""
    output: str = ""
    """Folder to make, here or in a bucket; default: encoder-TRIAL_ID here. In a bucket README.md comes last."""
    formats: tuple[str, ...] = ("safetensors",)
    """What the folder holds: safetensors (weights by torchvision's names: every program that reads such files loads
    them, whatever its version of torch, and no code of a file runs) | torch-export (a program for torch.export.load) |
    onnx (the same for onnxruntime; needs pip install 'mdssl[onnx]'). Programs take uint8 pixels and normalise them
    themselves."""
    size: int | None = None
    """Pixels that images are to be resized to; default: what the training images have, by --data."""
    filter: str | None = None
    """Resize filter of theirs: bicubic | bilinear | box | lanczos | nearest; default: what the training images had."""
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
    """Folder of images, however nested; Parquet file or shards as Hugging Face lays them out, with or without labels;
    or the name of a prepared dataset."""
    output: str
    """Parquet file to write, here or in a bucket."""
    trial_id: str = ""
    """The encoder: a finished trial."""
    weights: str = ""
    """Instead of a trial: the file of an encoder that was pretrained elsewhere, as for `mdssl probe`."""
    input_size: int | None = None
    """With --weights: pixels that images are resized to for it."""
    features: str = "encoder"
    """Layer: encoder (what probes score) | projection (what the loss compares)."""
    split: str = ""
    """Of a dataset or of shards only this split: train | test; default: all, and a column says which."""
    size: int | None = None
    """Pixels that images are resized to; default: what the trial's training images have, by --data."""
    filter: str | None = None
    """Resize filter: bicubic | bilinear | box | lanczos | nearest; default: what the training images had."""
    skip_damaged: bool = False
    """Leave out images that cannot be decoded, and list them. Without it the first of them ends the run."""
    batch_size: int = 256
    """Images in a pass of the encoder."""
    workers: int | None = None
    """Processes that decode images; default: one per CPU, where there are many images."""
    device: str = "auto"
    """cpu | cuda | auto (a GPU where there is one)."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def embed(settings: Embed) -> None:
    """Write the embeddings of any images to Parquet: `path`, or `split` and `row`; `label` if known; `embedding`.

    Images are made ready as `mdssl data prepare` does it. A run that was interrupted goes on where it stopped.

    Examples:
      mdssl embed ~/pictures/cells --trial-id 0123456789ab --output cells.parquet
      mdssl embed cifar10 --split test --trial-id 0123456789ab --output s3://BUCKET/cifar10.parquet

    In Python, as an array (images, features):
      np.stack(pd.read_parquet("cells.parquet")["embedding"])
    """
    from mdssl.export.embed import embed

    embed(settings)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files of any kind; DATASET:test or DATASET:train for four images of that split of a prepared dataset;
    DATASET:test:ROW or DATASET:train:ROW for one."""
    trial_id: str = ""
    """A trained trial: the 12 hex digits that `mdssl train` and the leaderboard print."""
    weights: str = ""
    """Instead of a trial: the file of an encoder that was pretrained elsewhere, as `mdssl probe` takes it."""
    input_size: int | None = None
    """Pixels that images are resized to for it; default: as they are prepared. 224 for most ImageNet encoders."""
    among: tuple[str, ...] = ()
    """Prepared datasets whose training images are searched; default: the domains that the trial was trained on."""
    features: str = "encoder"
    """Layer that is compared: encoder | projection."""
    neighbors: int = 10
    """Nearest images of each."""
    sample: int = 2_000
    """Training images of each dataset that are searched, its classes in turns: a few seconds of a CPU core. A larger
    number than there are takes all."""
    seed: int = 0
    """Of the choice of these, and of what DATASET:test and DATASET:train mean."""
    output: str = "neighbours.png"
    """PNG file to write."""
    device: str = "auto"
    """cpu | cuda | auto (a GPU where there is one)."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""
    data: str = DATA
    """Folder or bucket of prepared datasets (or set MDSSL_DATA)."""


def neighbours(settings: Neighbours) -> None:
    """Show the training images that an encoder takes for most like yours: a sheet, and the same in words.

    Examples:
      mdssl neighbors photo.jpg --trial-id 0123456789ab
      mdssl neighbors svhn:test cifar10:test:17 --trial-id 0123456789ab --features projection
      mdssl neighbors photo.jpg --weights resnet50.pth --input-size 224 --among cifar10 stl10
    """
    from mdssl.evaluate.neighbors.ask import ask_neighbours

    ask_neighbours(settings)
