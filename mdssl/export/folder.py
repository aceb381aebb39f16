"""``mdssl export``: write a trial's encoder atomically as a folder that other programs load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdssl.config.encoders import is_timm, timm_name
from mdssl.config.trial import TrialConfig
from mdssl.data.decode import FILTERS
from mdssl.errors import InputError, check_name
from mdssl.export.card import card
from mdssl.export.images import Preparation, preparation_of
from mdssl.export.programs import FORMATS, to_programs, to_safetensors
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.augment import statistics_of
from mdssl.pretrain.timm_encoder import import_timm, network_arguments
from mdssl.pretrain.trial_files import load_model, read_training
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, check_replaceable, delete, files_in, replaced
from mdssl.storage.trial_dir import trial_dir_in

CARD = "README.md"
TIMM_CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
EXPORT = FolderKind(
    what="an export",
    marker="mdssl.json",
    is_marker=lambda content: isinstance(content, dict) and content.get("made_by") == "mdssl export",
    files=(*FORMATS.values(), TIMM_CONFIG, PREPROCESSOR, CARD, "mdssl.json"),
    setting="--output",
)
_OF_A_REPOSITORY = (".git", ".git/*", ".gitattributes", ".gitignore")
"""Files of a new clone of a model repository, which an export does not replace."""


def export(
    storage: str | Location,
    trial_id: str,
    output: str | Location,
    *,
    formats: tuple[str, ...],
    data: str | Path,
    size: int | None = None,
    resize_filter: str | None = None,
    overwrite: bool = False,
) -> dict[str, float]:
    """Write a trial's encoder to ``output``, a local folder or a bucket.

    Args:
        storage: folder or bucket of results.
        formats: keys of `mdssl.export.programs.FORMATS`.
        data: folder or bucket of prepared datasets. Their image size and resize filter are the defaults of the
            next two.
        size: image size in pixels.
        resize_filter: a key of `mdssl.data.decode.FILTERS`.
        overwrite: whether to replace an earlier export.

    Returns:
        By format of a program, the largest difference of its features from the encoder's.

    Raises:
        ValueError: the trial has no encoder; a format is unknown, not available here, or gives other features; the
            folder exists, or cannot be written. Nothing is left of it then.
    """
    for name in formats:
        check_name("format", name, FORMATS)
    if not formats:
        raise InputError(f"--formats has no value; give one or more of {', '.join(FORMATS)}.")
    output = Location.of(output)
    if check_replaceable(output, EXPORT, beside=_OF_A_REPOSITORY) and not overwrite:
        raise InputError(f"folder {output} contains an export; give another --output, or replace it with --overwrite.")
    rows = read_rows(storage, trial_id)
    trial_dir = trial_dir_in(storage, trial_id)
    config, model = load_model(trial_dir)
    scored_on = tuple(row["eval_dataset"] for row in rows if row["eval_dataset"])
    preparation = preparation_of(config, data, scored_on=scored_on, size=size, resize_filter=resize_filter)
    if is_timm(config.arch) and preparation.size != config.input_size:
        raise InputError(
            f"size is {preparation.size}, but {config.arch!r} was made for images of {config.input_size} pixels; leave "
            "--size out."
        )
    programs = to_programs(model, preparation.size, formats)
    width = model.width
    files = {FORMATS[name]: exported.data for name, exported in programs.items()}
    if "safetensors" in formats:
        files[FORMATS["safetensors"]] = to_safetensors(config, model)
        # timm knows only the imagenet stem of ResNets.
        if config.stem == "imagenet":
            files[TIMM_CONFIG] = _json(_timm_config(config, preparation, width))
    files[PREPROCESSOR] = _json(_preprocessor(config, preparation, width))
    training = read_training(trial_dir) or {}
    text = card(config, preparation, rows, training, width=width, formats=formats, programs=programs)
    files[CARD] = text.encode()
    files[EXPORT.marker] = _json({"made_by": "mdssl export", "trial_id": trial_id})
    try:
        _publish(files, output)
    except OSError as error:
        raise InputError(f"folder {output} cannot be written: {error}. Give another --output.") from error
    return {name: exported.difference for name, exported in programs.items()}


def _timm_config(config: TrialConfig, preparation: Preparation, width: int) -> dict[str, Any]:
    """Return the configuration that timm's ``local-dir:`` and ``hf-hub:`` read."""
    of_timm = is_timm(config.arch)
    of_network: dict[str, Any] = {"first_conv": "conv1", "classifier": "fc", "fixed_input_size": False}
    arguments: dict[str, Any] = {"norm_layer": "groupnorm"} if config.norm == "group" else {}
    if of_timm:
        published = import_timm(config.arch).models.get_pretrained_cfg(timm_name(config.arch))
        of_network = {name: getattr(published, name) for name in of_network}
        arguments = network_arguments(config.arch, config.input_size, config.patch_size)
    mean, std = statistics_of(config.normalization)
    return {
        "architecture": timm_name(config.arch).partition(".")[0],
        "num_classes": 0,
        "num_features": width,
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "input_size": [3, preparation.size, preparation.size],
            "interpolation": preparation.filter,
            # Both sides are resized, at any aspect ratio, and nothing is cropped.
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": mean,
            "std": std,
            "num_classes": 0,
            **of_network,
        },
    }


def _preprocessor(config: TrialConfig, preparation: Preparation, width: int) -> dict[str, Any]:
    """Return the preparation under the names of Hugging Face's image processors."""
    mean, std = statistics_of(config.normalization)
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": preparation.size, "width": preparation.size},
        "resample": int(FILTERS[preparation.filter]),
        "interpolation": preparation.filter,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "num_features": width,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _publish(files: Mapping[str, bytes], output: Location) -> None:
    if output.is_local and all(map(EXPORT.holds, files_in(output))):
        with replaced(Path(output.path), EXPORT) as folder:
            for name, data in files.items():
                (Location.of(folder) / name).write_bytes(data)
        return
    # A bucket has no folders to rename, and a clone must not be replaced: the marker comes last.
    try:
        delete(output, EXPORT)
        for name, data in files.items():
            (output / name).write_bytes(data)
    except BaseException:
        delete(output, EXPORT)
        raise
