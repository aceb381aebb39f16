"""``mdssl neighbors``: the nearest training images of any image, in one encoder's feature space."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mdssl.data.contact_sheet import write_png
from mdssl.data.dataset import SPLITS, Dataset, open_dataset
from mdssl.data.decode import convert
from mdssl.data.progress import image_progress
from mdssl.data.remote import ensure_local
from mdssl.data.sources.base import RawImage
from mdssl.device import pick_device
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.encoder import open_encoder
from mdssl.evaluate.neighbors.search import Picture, Pictures, described, encode_rows, nearest, split_to_search
from mdssl.evaluate.neighbors.sheet import neighbor_sheet
from mdssl.evaluate.sampling import sample_rows
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_file
from mdssl.terminal import printable

IMAGES_OF_SPLIT = 4
"""Number of images that ``DATASET:test`` or ``DATASET:train`` selects."""
MOST_NEIGHBORS = 50
_IN_DATASET = re.compile(r"(?P<name>[^:/]+):(?P<split>[^:/]*)(:(?P<row>[^:/]*))?")
_ALLOWED = (
    "allowed: a file, DATASET:test or DATASET:train for a few images of a prepared dataset, or DATASET:test:ROW or "
    "DATASET:train:ROW for one."
)


def show_neighbors(
    images: Sequence[str],
    *,
    storage: str,
    data: str,
    trial_id: str,
    weights: str,
    input_size: int | None,
    among: Sequence[str],
    features: str,
    neighbors: int,
    sample: int,
    seed: int,
    output: str,
    device: str,
) -> None:
    """Write the sheet of neighbors, and print what it shows; `mdssl.cli.encoders.Neighbors` has the meaning of each
    argument.

    Raises:
        ValueError: an image, a dataset, a trial or a weights file does not exist, or an argument is out of range.
    """
    if not images:
        raise InputError(f"no image is given; {_ALLOWED}")
    if not output.lower().endswith(".png"):
        raise InputError(f"output {output!r} does not end in .png; a PNG file is written.")
    check_number("neighbors", neighbors, low=1, high=MOST_NEIGHBORS, hint="A sheet has no room for more.")
    check_number("sample", sample, low=neighbors + 1)
    check_number("seed", seed, low=0)
    device = pick_device(device)
    config, model = open_encoder(storage, trial_id, weights, layer=features, input_size=input_size)
    names = among or config.domains
    if not names:
        raise InputError("this encoder has no training domains; name datasets to search with --among.")
    local = ensure_local(data, names, progress=True)
    datasets = [open_dataset(local, name) for name in names]
    if config.input_size is None:
        _check_sizes(datasets)
    queries = [picture for text in images for picture in _pictures(text, datasets[0], data, seed)]
    target = Location.of(output)
    # Checked before the encoding, which takes a while.
    check_file(target)
    target.parent.check_writable("--output", what="folder of the sheet of neighbors")
    options: dict[str, Any] = {"layer": features, "device": device, "input_size": config.input_size}
    asked = [encode_rows(model, query.image[None], np.zeros(1, int), **options) for query in queries]
    splits = [split_to_search(dataset, "train") for dataset in datasets]
    rows = [
        sample_rows(d.name, "train", split.labels, sample, seed=seed) for d, split in zip(datasets, splits, strict=True)
    ]
    candidates = []
    with image_progress(True) as bar:
        task = bar.add_task("encode training images", total=sum(map(len, rows)))
        for dataset, split, its_rows in zip(datasets, splits, rows, strict=True):
            found = encode_rows(
                model, split.images, its_rows, advance=lambda count: bar.advance(task, count), **options
            )
            candidates.append(Pictures(dataset, "train", its_rows, found))
    matches = nearest(queries, np.concatenate(asked), candidates, neighbors)
    searched = ", ".join(
        f"{len(pictures):,} of {len(split.images):,} training images of {pictures.dataset.name}"
        for pictures, split in zip(candidates, splits, strict=True)
    )
    encoder = f"trial {trial_id}" if trial_id else Location.of(weights).name
    sheet = neighbor_sheet(
        matches,
        names,
        title=printable(f"Nearest training images in the feature space of {encoder}"),
        subtitle=f"{features} features, among {searched}",
    )
    write_png(sheet, target, what="sheet of neighbors")
    for match in matches:
        print(printable(described(match)))
    print(printable(f"searched {searched}; the images are in {output}"))


def _check_sizes(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for dataset in datasets:
        if dataset.image_size != first.image_size:
            raise InputError(
                f"dataset {dataset.name!r} has images of {dataset.image_size} pixels, {first.name!r} of "
                f"{first.image_size}; an encoder compares images of one size: search the datasets one by one."
            )


def _pictures(text: str, like: Dataset, data: str, seed: int) -> list[Picture]:
    """Return the images that ``text`` names: a path or URI, ``DATASET:SPLIT`` or ``DATASET:SPLIT:ROW``.

    They are resized as those of ``like`` were. A file takes precedence over a dataset.
    """
    if not Path(text).exists() and (found := _IN_DATASET.fullmatch(text)):
        return _pictures_in_dataset(found["name"], found["split"], found["row"], like, data, seed)
    try:
        raw = Location.of(text).read_bytes()
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise InputError(f"image {text!r} cannot be read: {why}; {_ALLOWED}") from error
    return [Picture(text, "", -1, "", _resized(raw, like, repr(text)))]


def _pictures_in_dataset(name: str, split: str, row: str | None, like: Dataset, data: str, seed: int) -> list[Picture]:
    check_name("split", split, SPLITS)
    dataset = open_dataset(ensure_local(data, [name], progress=True), name)
    part = split_to_search(dataset, split)
    if not len(part.labels):
        raise InputError(f"dataset {name!r} has no {split} images; name other images, such as {name}:train.")
    if row is None:
        rows = sample_rows(name, split, part.labels, IMAGES_OF_SPLIT, seed=seed)
    elif re.fullmatch(r"-?[0-9]+", row):
        check_number(f"row of {name}:{split}", int(row), low=0, high=len(part.labels) - 1)
        rows = np.array([int(row)])
    else:
        raise InputError(f"row {row!r} of {name}:{split} is not a number; {_ALLOWED}")
    chosen_images = Pictures(dataset, split, rows, np.empty((len(rows), 0)))
    return [
        replace(picture, image=_resized(picture.image, like, picture.name))
        for picture in (chosen_images[index] for index in range(len(chosen_images)))
    ]


def _resized(raw: RawImage, like: Dataset, where: str) -> np.ndarray:
    return convert(raw, like.image_size, like.meta["resize_filter"], where)
