"""Embeddings of any number of images, in the memory of a few hundred: ``mdssl embed``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mdssl.config.run import FEATURES, check_layers
from mdssl.config.trial import TrialConfig
from mdssl.data.convert import convert_each
from mdssl.data.progress import image_progress
from mdssl.device import pick_device
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.features import extract_features
from mdssl.export.embedding_parts import Parts
from mdssl.export.images_to_embed import ImagesToEmbed, open_images
from mdssl.export.preparation import Preparation, preparation_of
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.augment import MEAN, STD
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.pretrained import fingerprint_of, pretrained_config
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.storage.ownership import refuse_overlap
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.terminal import printable


@retrying()
def embed(settings) -> None:
    """Do what ``settings`` (an `mdssl.cli.encoders.Embed`) asks for, or what is left of it.

    Raises:
        ValueError: a setting, the source or the output is no good; or an image cannot be decoded. What was encoded up
            to then stays beside the output, and the same command goes on from it.
    """
    check_name("feature layer", settings.features, FEATURES)
    check_number("batch_size", settings.batch_size, low=1)
    if not settings.output.endswith(".parquet"):
        raise InputError(f"output {settings.output!r} would not be a Parquet file by its name; end it in .parquet.")
    images = open_images(settings.source, data=settings.data, split=settings.split)
    config, model, scored_on = _encoder(settings)
    check_layers((settings.features,), config.method == "pretrained")
    preparation = _preparation(settings, config, images, scored_on)
    output = Location.of(settings.output)
    if images.dataset is None:
        refuse_overlap(Path(settings.source).expanduser().absolute(), output, what="the embeddings", setting="--output")
    about = _about(config, model, preparation, images, settings.features)
    parts = Parts(output, about, images, size=preparation.size, skip_damaged=settings.skip_damaged)
    if parts.is_complete():
        print(printable(f"{output}: already there"))
        return
    output.parent.check_writable("--output")
    try:
        _encode(parts, images, model, config, preparation, settings)
        rows, skipped = parts.join()
    except OSError as error:
        raise InputError(
            f"{output} cannot be written: {error}. The same command goes on where this one ended."
        ) from error
    width = model.projection[0].in_features if settings.features == "encoder" else config.projection_dim
    print(printable(f"{output}: {rows:,} images, {width} features each"))
    if skipped:
        listed = "\n".join(f"  {why}" for why in list(skipped.values())[:10])
        more = f"\n  and {len(skipped) - 10} more; the file's metadata lists all" if len(skipped) > 10 else ""
        print(printable(f"left out, as they are damaged: {len(skipped)}\n{listed}{more}"))


def _encoder(settings) -> tuple[TrialConfig, Model, tuple[str, ...]]:
    """Config and model, and the datasets that it was scored on."""
    if bool(settings.trial_id) == bool(settings.weights):
        raise InputError("give either --trial-id ID, or --weights FILE for an encoder from elsewhere.")
    device = pick_device(settings.device)
    if settings.weights:
        config, found = pretrained_config(settings.weights, settings.input_size)
        model = build_model(config)
        model.encoder.load_state_dict(found.encoder)
        return config, model.to(device).eval(), ()
    if settings.input_size is not None:
        raise InputError("input_size belongs to --weights; a trial's encoder has its own.")
    rows = read_rows(settings.storage, settings.trial_id)
    config, model = load_model(trial_dir_in(settings.storage, settings.trial_id), device)
    return config, model, tuple(row["eval_dataset"] for row in rows if row["eval_dataset"])


def _preparation(settings, config: TrialConfig, images: ImagesToEmbed, scored_on: tuple[str, ...]) -> Preparation:
    size, resize_filter = settings.size, settings.filter
    if images.dataset is not None:
        # As the probe sees it: as it is prepared, whatever else the encoder was trained on.
        size = size or images.dataset.image_size
        resize_filter = resize_filter or images.dataset.meta["resize_filter"]
    return preparation_of(config, settings.data, scored_on=scored_on, size=size, resize_filter=resize_filter)


def _about(
    config: TrialConfig, model: Model, preparation: Preparation, images: ImagesToEmbed, layer: str
) -> dict[str, Any]:
    return {
        "trial_id": config.trial_id,
        "method": config.method,
        "arch": config.arch,
        "stem": config.stem,
        "features": layer,
        "weights_fingerprint": fingerprint_of(model.cpu().state_dict()),
        "source": images.name,
        "image_size": preparation.size,
        "resize_filter": preparation.filter,
        "input_size": config.input_size,
        "mean": MEAN,
        "std": STD,
    }


def _encode(
    parts: Parts, images: ImagesToEmbed, model: Model, config: TrialConfig, preparation: Preparation, settings
) -> None:
    """Make the parts that are missing."""
    missing = [number for number in range(parts.count) if number not in parts.done]
    if not missing:
        return
    device = pick_device(settings.device)
    rows = np.concatenate([parts.rows_of(number) for number in missing])
    decoded = _decoded(images, rows, preparation, settings)
    with image_progress(shown=True) as bar:
        task = bar.add_task(images.name, total=len(images), completed=len(images) - len(rows))
        for number in missing:
            of_part = parts.rows_of(number)
            skipped, kept, embeddings, batch = {}, [], [], []
            for row in of_part:
                image = next(decoded)
                if isinstance(image, InputError):
                    skipped[images.part.where(int(row))] = str(image)
                else:
                    kept.append(row)
                    batch.append(image)
                if batch and (len(batch) == settings.batch_size or row == of_part[-1]):
                    found = extract_features(
                        model,
                        np.stack(batch),
                        layers=(settings.features,),
                        device=device,
                        batch_size=settings.batch_size,
                        input_size=config.input_size,
                    )
                    embeddings.append(found[settings.features].cpu().numpy())
                    batch = []
                    bar.update(task, completed=len(images) - len(rows) + int(np.searchsorted(rows, row)) + 1)
            width = model.projection[0].in_features if settings.features == "encoder" else config.projection_dim
            found = np.concatenate([np.empty((0, width), np.float32), *embeddings])
            parts.write(number, np.array(kept, dtype=np.int64), found, skipped)


def _decoded(
    images: ImagesToEmbed, rows: np.ndarray, preparation: Preparation, settings
) -> Iterator[np.ndarray | InputError]:
    """Each image as uint8 (S, S, 3), or what is wrong with it where such are skipped.

    Raises:
        ValueError: an image cannot be decoded, and is not to be skipped.
    """
    chunks = convert_each(images.part.take(rows), preparation.size, preparation.filter, settings.workers)
    for chunk in chunks:
        for image in chunk:
            if isinstance(image, InputError) and not settings.skip_damaged:
                raise InputError(f"{image} Or leave out all that are damaged with --skip-damaged.")
            yield image
