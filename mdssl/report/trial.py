"""The page of one trial: scores, pictures, settings, provenance, and the commands that reproduce it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import pandas as pd

from mdssl.config.field_types import current_name
from mdssl.config.methods import METHODS
from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import ClusterSettings, TrialConfig, relevant_settings
from mdssl.leaderboard.names import plain_name
from mdssl.storage.filesystems import file_name
from mdssl.tables.compare import settings_apart
from mdssl.tables.repeat import probe_command, train_command

_GROUPS = {
    "Method": ("method", "lambda1", "lambda2", "negative_weight", "temperature", "seed"),
    "Images": (
        "domains",
        "batch_per_domain",
        "sampling",
        "batching",
        "crop_min_area",
        "jitter_strength",
        "blur_probability",
    ),
    "Encoder": (
        *("arch", "patch_size", "stem", "norm", "projection_dim", "precision", "init", "init_fingerprint"),
        *("weights", "weights_fingerprint", "input_size", "normalization"),
    ),
    "Training": (
        "iterations",
        "optimizer",
        "learning_rate",
        "encoder_lr_scale",
        "lr_warmup_iterations",
        "schedule",
        "decay_fraction",
        "weight_decay",
    ),
    "Clustering": tuple(field.name for field in fields(ClusterSettings)),
}


class Setting(NamedTuple):
    """A setting. If it ``is_unusual``, most trials of the sweep have the value ``usual``."""

    name: str
    value: Any
    is_unusual: bool
    usual: Any


def grouped_settings(trial: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, list[Setting]]:
    """Return the settings of the trial's method, by group; for ``usual`` see `usual_settings`."""
    own = relevant_settings(dict(trial))
    own.pop("data_fingerprint", None)
    found: dict[str, list[Setting]] = {}
    group_of = {name: group for group, names in _GROUPS.items() for name in names}
    for name in sorted(own, key=[*group_of, *own].index):
        is_unusual = name in usual and usual[name] != own[name]
        setting = Setting(name.replace("_", " "), own[name], is_unusual, usual.get(name))
        found.setdefault(group_of.get(name, "Other"), []).append(setting)
    return found


def usual_settings(trials: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Map each setting in which ``trials`` differ to its value in more than half of those that have it.

    The axes of a grid have no such value.
    """
    own = [relevant_settings(dict(trial)).items() for trial in trials]
    settings = pd.DataFrame([{name: json.dumps(value) for name, value in each} for each in own])
    found = {}
    for name in settings_apart(settings, but=(), missing_differs=False):
        values = settings[name].value_counts()
        if 2 * values.iloc[0] > values.sum():
            found[name] = json.loads(values.index[0])
    return found


def title_of(row: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    """``mdssl on cifar10 + svhn, λ1 = 0.9, λ2 = 0.1, seed 0``"""
    words = row["method"]
    # A later version may have other methods.
    method = METHODS.get(row["method"], METHODS["mdssl"])
    if trial["weights"]:
        words += f" {file_name(trial['weights'])}"
    if row["train_mixture"]:
        words += f" on {row['train_mixture'].replace('+', ' + ')}"
    if pd.notna(row["lambda1"]) and method.weighs_domains:
        words += f", λ1 = {row['lambda1']:g}, λ2 = {row['lambda2']:g}"
    return words if trial["weights"] else f"{words}, seed {row['seed']}"


def reproduce_commands(rows: list[dict[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """Return the command that trains the trial, and one for each probe that scores it."""
    first, trial = rows[0], config["trial"]
    workers = int(first["num_workers"]) if pd.notna(first["num_workers"]) else 1
    commands = [] if trial["weights"] else [train_command(trial, first["preset"], workers=workers)]
    of_probes = {field.name for field in fields(ProbeConfig)} | {"standardized"}
    scored: dict[str, tuple[dict, dict]] = {}
    for row in rows:
        if row["status"] == "finished":
            evaluation = json.loads(row["config_json"])["evaluation"]
            probe = {name: value for name, value in evaluation.items() if current_name(name) in of_probes}
            # Dicts as ordered sets.
            datasets, layers = scored.setdefault(json.dumps(probe, sort_keys=True), ({}, {}))
            datasets[plain_name(row["eval_dataset"])] = layers[row["features"]] = None
    for settings, (datasets, layers) in scored.items():
        asked = {"evaluate": tuple(datasets), "features": tuple(layers)}
        commands.append(probe_command(first["trial_id"], trial, json.loads(settings), asked))
    return commands


def all_settings(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a trial, with defaults for those that were added after its rows were written."""
    stored = {current_name(name): value for name, value in trial.items()}
    return {field.name: stored.get(field.name, field.default) for field in fields(TrialConfig)}
