"""A trial's encoder as a folder that others can load, which appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdssl.config.trial import TrialConfig
from mdssl.data.images import FILTERS
from mdssl.errors import InputError, check_name
from mdssl.export.card import card
from mdssl.export.formats import FORMATS, to_programs, to_safetensors
from mdssl.export.preparation import Preparation, preparation_of
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.augment import MEAN, STD
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
    is_marker=lambda said: isinstance(said, dict) and said.get("made_by") == "mdssl export",
    files=(*FORMATS.values(), TIMM_CONFIG, PREPROCESSOR, CARD, "mdssl.json"),
    setting="--output",
)
_OF_A_REPOSITORY = (".git", ".git/*", ".gitattributes", ".gitignore")
"""What a fresh clone of a model's repository holds: an export goes into it, and leaves these as they are."""


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
    """Write ``output``, a folder in this machine or a bucket.

    Args:
        storage: where results live.
        formats: keys of `mdssl.export.formats.FORMATS`.
        data: prepared datasets, which tell how large images are to be.
        size: pixels, where those do not tell.
        resize_filter: the same.
        overwrite: whether to replace an earlier export.

    Returns:
        By format of a program, the largest difference of its features from the encoder's.

    Raises:
        ValueError: no such trial, or no encoder of it; a format that is unknown, cannot be made here, or computes
            something else; a folder that is there, or cannot be written. Nothing is left of it then.
    """
    for name in formats:
        check_name("format", name, FORMATS)
    if not formats:
        raise InputError(f"formats has none; give one or more of {', '.join(FORMATS)}.")
    output = Location.of(output)
    _check_output(output, overwrite)
    rows = read_rows(storage, trial_id)
    trial_dir = trial_dir_in(storage, trial_id)
    config, model = load_model(trial_dir)
    scored_on = tuple(row["eval_dataset"] for row in rows if row["eval_dataset"])
    preparation = preparation_of(config, data, scored_on=scored_on, size=size, resize_filter=resize_filter)
    programs = to_programs(model, preparation.size, formats)
    width = model.projection[0].in_features
    files = {FORMATS[name]: exported.data for name, exported in programs.items()}
    if "safetensors" in formats:
        files[FORMATS["safetensors"]] = to_safetensors(config, model)
        if config.stem == "imagenet":
            files[TIMM_CONFIG] = _json(_timm_config(config, preparation, width))
    files[PREPROCESSOR] = _json(_preprocessor(preparation, width))
    text = card(
        config,
        preparation,
        rows,
        read_training(trial_dir) or {},
        width=width,
        formats=formats,
        programs=programs,
    )
    files[CARD] = text.encode()
    files[EXPORT.marker] = _json({"made_by": "mdssl export", "trial_id": trial_id})
    try:
        _publish(files, output)
    except OSError as error:
        raise InputError(f"folder {output} cannot be written: {error}. Give another --output.") from error
    return {name: exported.difference for name, exported in programs.items()}


def _timm_config(config: TrialConfig, preparation: Preparation, width: int) -> dict[str, Any]:
    """What timm's ``local-dir:`` and ``hf-hub:`` read. It knows no other stem, so there is none where that is another:
    timm would build a network that the weights do not fit."""
    return {
        "architecture": config.arch,
        "num_classes": 0,
        "num_features": width,
        **({"model_args": {"norm_layer": "groupnorm"}} if config.norm == "group" else {}),
        "pretrained_cfg": {
            "input_size": [3, preparation.size, preparation.size],
            "fixed_input_size": False,
            "interpolation": preparation.filter,
            # Both sides are resized, whatever the aspect ratio, and nothing is cut off.
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": MEAN,
            "std": STD,
            "num_classes": 0,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def _preprocessor(preparation: Preparation, width: int) -> dict[str, Any]:
    """By the names of Hugging Face's image processors."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": preparation.size, "width": preparation.size},
        "resample": int(FILTERS[preparation.filter]),
        "interpolation": preparation.filter,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "num_features": width,
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _check_output(output: Location, overwrite: bool) -> None:
    """Raise ``ValueError`` unless ``output`` is free, or holds nothing but an export that may be replaced."""
    if check_replaceable(output, EXPORT, beside=_OF_A_REPOSITORY) and not overwrite:
        raise InputError(f"folder {output} holds an export; give another --output, or replace it with --overwrite.")


def _publish(files: Mapping[str, bytes], output: Location) -> None:
    if output.is_local and all(map(EXPORT.holds, files_in(output))):
        with replaced(Path(output.path), EXPORT) as folder:
            for name, data in files.items():
                (Location.of(folder) / name).write_bytes(data)
        return
    # A bucket has no folders to rename, and a clone is not to be replaced: the marker comes last.
    try:
        delete(output, EXPORT)
        for name, data in files.items():
            (output / name).write_bytes(data)
    except BaseException:
        delete(output, EXPORT)
        raise
