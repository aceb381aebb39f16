"""``mdssl embed``: the embeddings of any number of images, with the memory for a few hundred."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mdssl.config.probe import FEATURES
from mdssl.config.trial import TrialConfig
from mdssl.data.decode import convert_part
from mdssl.data.progress import image_progress
from mdssl.device import pick_device
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.encoder import open_encoder
from mdssl.evaluate.features import extract_features
from mdssl.export.embeddings_file import Parts
from mdssl.export.images import ImagesToEmbed, Preparation, open_images, preparation_of
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.augment import statistics_of
from mdssl.pretrain.model import Model
from mdssl.pretrain.resnet_layouts import fingerprint_of
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_regular, refuse_overlap
from mdssl.storage.retry import retrying
from mdssl.terminal import printable

_SKIPPED_LISTED = 10


@retrying()
def embed(
    source: str,
    output: str,
    *,
    storage: str,
    data: str,
    trial_id: str = "",
    weights: str = "",
    input_size: int | None = None,
    features: str = "encoder",
    split: str = "",
    size: int | None = None,
    filter: str | None = None,
    skip_damaged: bool = False,
    batch_size: int = 256,
    workers: int | None = None,
    device: str = "auto",
) -> None:
    """Write the Parquet file ``output``, or continue an interrupted run; `mdssl.cli.encoders.Embed` describes the
    arguments.

    Raises:
        ValueError: an invalid argument, source or output; or an image cannot be decoded. The images encoded before
            are kept beside the output, and the same call continues from there.
    """
    check_name("feature layer", features, FEATURES)
    check_number("batch_size", batch_size, low=1)
    if not output.endswith(".parquet"):
        raise InputError(f"output {output!r} does not end in .parquet; give the name of a Parquet file.")
    check_regular(Location.of(output))
    device = pick_device(device)
    images = open_images(source, data=data, split=split)
    config, model = open_encoder(storage, trial_id, weights, layer=features, input_size=input_size, device=device)
    rows = read_rows(storage, trial_id) if trial_id else []
    if images.dataset is not None:
        # As a probe sees it: in the dataset's own size, not that of the encoder's training images.
        size = size or images.dataset.image_size
        filter = filter or images.dataset.meta["resize_filter"]
    scored_on = tuple(row["eval_dataset"] for row in rows if row["eval_dataset"])
    preparation = preparation_of(config, data, scored_on=scored_on, size=size, resize_filter=filter)
    target = Location.of(output)
    if images.dataset is None:
        refuse_overlap(Path(source).expanduser().absolute(), target, what="the embeddings", setting="--output")
    about = _about(config, model, preparation, images, features)
    width = model.width if features == "encoder" else config.projection_dim

    def encode(decoded: list[np.ndarray]) -> np.ndarray:
        if not decoded:
            return np.empty((0, width), np.float32)
        pixels, input_size = np.stack(decoded), config.input_size
        found = extract_features(
            model, pixels, layers=(features,), device=device, batch_size=batch_size, input_size=input_size
        )
        return found[features].cpu().numpy()

    try:
        parts = Parts(target, about, images, size=preparation.size, skip_damaged=skip_damaged)
        if parts.is_complete():
            # Of a run that was killed as it deleted them, or of another process.
            parts.delete_parts()
            print(printable(f"{target}: complete already"))
            return
        target.parent.check_writable("--output", what="folder of the embeddings")
        missing = np.concatenate([parts.rows[number] for number in parts.missing] or [np.empty(0, np.int64)])
        decoded = _decoded(images, missing, preparation, workers, skip_damaged)
        with image_progress(shown=bool(parts.missing)) as bar:
            task = bar.add_task(images.name, total=len(images), completed=len(images) - len(missing))
            for number in parts.missing:
                of_part = dict(zip(parts.rows[number], islice(decoded, len(parts.rows[number])), strict=True))
                errors = {row: image for row, image in of_part.items() if isinstance(image, InputError)}
                kept = [row for row in of_part if row not in errors]
                skipped = {images.part.where(int(row)): str(error) for row, error in errors.items()}
                parts.write(number, np.array(kept, np.int64), encode([of_part[row] for row in kept]), skipped)
                bar.advance(task, len(of_part))
        count, skipped = parts.join()
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}. Run the same command to continue.") from error
    print(printable(f"{target}: {count:,} images, {width} features each"))
    if skipped:
        listed = "\n".join(f"  {error}" for error in list(skipped.values())[:_SKIPPED_LISTED])
        left = len(skipped) - _SKIPPED_LISTED
        more = f"\n  and {left} more; see the file's metadata" if left > 0 else ""
        print(printable(f"damaged images left out: {len(skipped)}\n{listed}{more}"))


def _about(
    config: TrialConfig, model: Model, preparation: Preparation, images: ImagesToEmbed, layer: str
) -> dict[str, Any]:
    """Return the description of the embeddings in the file's metadata."""
    mean, std = statistics_of(config.normalization)
    return {
        "trial_id": config.trial_id,
        "method": config.method,
        "arch": config.arch,
        "stem": config.stem,
        "features": layer,
        "weights_fingerprint": fingerprint_of({name: value.cpu() for name, value in model.state_dict().items()}),
        "source": images.name,
        "image_size": preparation.size,
        "resize_filter": preparation.filter,
        "input_size": config.input_size,
        "mean": mean,
        "std": std,
    }


def _decoded(
    images: ImagesToEmbed, rows: np.ndarray, preparation: Preparation, workers: int | None, skip_damaged: bool
) -> Iterator[np.ndarray | InputError]:
    """Each image as uint8 (S, S, 3), or its error where ``skip_damaged`` allows it."""
    part = images.part.take(rows)
    for chunk in convert_part(part, preparation.size, preparation.filter, workers, images.bits):
        good = iter(chunk.images)
        for place in range(len(chunk.images) + len(chunk.errors)):
            if (error := chunk.errors.get(place)) and not skip_damaged:
                raise InputError(f"{error} Or leave out all damaged images with --skip-damaged.")
            yield error or next(good)
