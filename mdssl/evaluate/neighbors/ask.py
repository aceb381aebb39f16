"""``mdssl neighbours``: the nearest training images of any image, in one encoder's space."""

from __future__ import annotations

import numpy as np

from mdssl.config.run import FEATURES, check_layers
from mdssl.config.trial import TrialConfig, check_trial_id
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.data.local_copy import ensure_local
from mdssl.data.progress import image_progress
from mdssl.data.sheet import write_png
from mdssl.device import pick_device
from mdssl.errors import InputError, check_name, check_number
from mdssl.evaluate.choice import chosen
from mdssl.evaluate.neighbors.query_images import query_pictures
from mdssl.evaluate.neighbors.search import Pictures, described, encode_rows, nearest, split_to_search
from mdssl.evaluate.neighbors.sheet import neighbour_sheet
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.pretrained import pretrained_config
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_file
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.terminal import printable


def ask_neighbours(settings) -> None:
    """Write the sheet that ``settings`` (an `mdssl.cli.encoders.Neighbours`) asks for, and say what it shows.

    Raises:
        ValueError: an image, a dataset, a trial or a file of weights that is not there, or a setting out of range.
    """
    _check(settings)
    device = pick_device(settings.device)
    config, model, what = _encoder(settings)
    names = settings.among or config.domains
    if not names:
        raise InputError("this encoder was trained on none of our domains; name datasets to search with --among.")
    data = ensure_local(settings.data, names, progress=True)
    datasets = [open_dataset(data, name) for name in names]
    _check_sizes(datasets, config)
    queries = query_pictures(settings.images, datasets[0], data=settings.data, seed=settings.seed)
    output = Location.of(settings.output)
    # Encoding takes a while, and shall not have been for nothing.
    check_file(output)
    output.parent.check_writable("--output", what="folder of the sheet of neighbours")
    asked = [
        encode_rows(
            model,
            query.image[None],
            np.zeros(1, int),
            layer=settings.features,
            device=device,
            input_size=config.input_size,
        )
        for query in queries
    ]
    candidates = _candidates(settings, datasets, model, config, device)
    matches = nearest(queries, np.concatenate(asked), candidates, settings.neighbors)
    searched = ", ".join(
        f"{len(pictures):,} of {len(split_to_search(dataset, 'train').images):,} training images of {dataset.name}"
        for pictures, dataset in zip(candidates, datasets, strict=True)
    )
    sheet = neighbour_sheet(
        matches,
        names,
        title=printable(f"Nearest training images, as {what} sees them"),
        subtitle=f"{settings.features} features, among {searched}",
    )
    write_png(sheet, output, what="sheet of neighbours")
    for match in matches:
        print(printable(described(match)))
    print(printable(f"searched {searched}; the images are in {settings.output}"))


def _check(settings) -> None:
    if not settings.images:
        raise InputError(
            "no image is named; give files, DATASET:test or DATASET:train for a few images of a prepared dataset, or "
            "DATASET:test:ROW or DATASET:train:ROW for one."
        )
    if bool(settings.trial_id) == bool(settings.weights):
        raise InputError("give either --trial-id, or --weights FILE for an encoder from elsewhere.")
    if settings.trial_id and settings.input_size is not None:
        raise InputError("input_size belongs to --weights; a trial's encoder takes images as they are prepared.")
    if not settings.output.lower().endswith(".png"):
        raise InputError(f"output {settings.output!r} would not be a PNG file by its name; end it in .png.")
    check_name("feature layer", settings.features, FEATURES)
    check_number("neighbours", settings.neighbors, low=1, high=50, hint="More have no place on a sheet.")
    check_number("sample", settings.sample, low=settings.neighbors + 1)
    check_number("seed", settings.seed, low=0)


def _encoder(settings) -> tuple[TrialConfig, Model, str]:
    """The encoder, and what a title calls it."""
    if settings.weights:
        config, found = pretrained_config(settings.weights, settings.input_size)
        model = build_model(config)
        model.encoder.load_state_dict(found.encoder)
        what = Location.of(settings.weights).name
    else:
        check_trial_id(settings.trial_id)
        config, model = load_model(trial_dir_in(settings.storage, settings.trial_id))
        what = f"trial {settings.trial_id}"
    check_layers((settings.features,), config.method == "pretrained")
    return config, model, what


def _check_sizes(datasets: list[Dataset], config: TrialConfig) -> None:
    for dataset in datasets:
        if config.input_size is None and dataset.image_size != datasets[0].image_size:
            raise InputError(
                f"dataset {dataset.name!r} has images of {dataset.image_size} pixels, {datasets[0].name!r} of "
                f"{datasets[0].image_size}; an encoder compares images of one size: search them one by one."
            )


def _candidates(settings, datasets: list[Dataset], model: Model, config: TrialConfig, device: str) -> list[Pictures]:
    rows = {dataset.name: _rows(settings, dataset) for dataset in datasets}
    found = []
    with image_progress(True) as bar:
        task = bar.add_task("encode training images", total=sum(map(len, rows.values())))
        for dataset in datasets:
            directions = encode_rows(
                model,
                split_to_search(dataset, "train").images,
                rows[dataset.name],
                layer=settings.features,
                device=device,
                input_size=config.input_size,
                advance=lambda count: bar.advance(task, count),
            )
            found.append(Pictures(dataset, "train", rows[dataset.name], directions))
    return found


def _rows(settings, dataset: Dataset) -> np.ndarray:
    labels = split_to_search(dataset, "train").labels
    return chosen(dataset.name, "train", labels, settings.sample, seed=settings.seed)
