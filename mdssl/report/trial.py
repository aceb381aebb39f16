"""What the page of one trial says: its scores, its settings, where it comes from and how it is made again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from mdssl.config.run import ProbeConfig
from mdssl.config.trial import ClusterSettings, TrialConfig, relevant_settings
from mdssl.leaderboard.names import plain_name
from mdssl.report.table import NOTHING, setting_text, short_date
from mdssl.storage.location import Location
from mdssl.tables.repeat import probe_command, train_command

_GROUPS = {
    "Method": ("method", "lambda1", "lambda2", "temperature", "seed"),
    "Images": ("domains", "batch_per_domain", "batching", "crop_min_area", "jitter_strength", "blur_probability"),
    "Encoder": ("arch", "stem", "norm", "projection_dim", "precision", "weights", "weights_fingerprint", "input_size"),
    "Training": ("iterations", "optimizer", "learning_rate", "lr_warmup_iterations", "weight_decay"),
    "Clustering": tuple(field.name for field in fields(ClusterSettings)),
}
_REMAINING = "Other"
_OF_PROBES = {field.name for field in fields(ProbeConfig)}


@dataclass(frozen=True)
class Setting:
    """``usual``: what most trials of the sweep have, where this one has something else; empty where it has not."""

    name: str
    value: str
    usual: str = ""


def settings_of(trial: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, list[Setting]]:
    """All settings that a trial's method has, by group."""
    own = {name: value for name, value in relevant_settings(dict(trial)).items() if name != "data_fingerprint"}
    grouped = {name for names in _GROUPS.values() for name in names}
    groups = _GROUPS | {_REMAINING: tuple(name for name in own if name not in grouped)}
    found = {}
    for group, names in groups.items():
        settings = [
            Setting(
                name.replace("_", " "),
                setting_text(own[name]),
                setting_text(usual[name]) if name in usual and usual[name] != own[name] else "",
            )
            for name in names
            if name in own
        ]
        if settings:
            found[group] = settings
    return found


def usual_settings(trials: list[Mapping[str, Any]]) -> dict[str, Any]:
    """By setting, the value that more than half of those ``trials`` have that have the setting."""
    values: dict[str, Counter] = {}
    for trial in trials:
        for name, value in relevant_settings(dict(trial)).items():
            values.setdefault(name, Counter())[json.dumps(value)] += 1
    most = {name: of.most_common(1)[0] for name, of in values.items()}
    # Of the axes of a grid no value is the usual one.
    return {name: json.loads(value) for name, (value, count) in most.items() if 2 * count > values[name].total()}


def title_of(row: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    """``mdssl on cifar10 and svhn, λ1 = 0.9, λ2 = 0.1, seed 0``"""
    words = row["method"]
    if trial.get("weights"):
        words += f" {Location.of(trial['weights']).name}"
    if row["train_mixture"]:
        words += f" on {row['train_mixture'].replace('+', ' + ')}"
    if pd.notna(row["lambda1"]) and row["method"] != "simclr":
        words += f", λ1 = {row['lambda1']:g}, λ2 = {row['lambda2']:g}"
    return words if row["method"] == "pretrained" else f"{words}, seed {row['seed']}"


def commands_of(rows: list[dict[str, Any]], config: Mapping[str, Any]) -> list[str]:
    """What trains the trial, and then what scores it, one command for each probe."""
    first, trial = rows[0], config["trial"]
    workers = int(first["num_workers"]) if pd.notna(first["num_workers"]) else 1
    commands = [] if trial["method"] == "pretrained" else [train_command(trial, first["preset"], workers=workers)]
    scored: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["status"] == "finished":
            evaluation = json.loads(row["config_json"])["evaluation"]
            probe = {name: value for name, value in evaluation.items() if name in _OF_PROBES}
            of = scored.setdefault(json.dumps(probe, sort_keys=True), {"evaluate": {}, "features": {}})
            of["evaluate"][plain_name(row["eval_dataset"])] = of["features"][row["features"]] = None
    for probe, of in scored.items():
        what = {name: tuple(values) for name, values in of.items()}
        commands.append(probe_command(first["trial_id"], trial, json.loads(probe), what))
    return commands


def provenance_of(rows: list[dict[str, Any]], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who made the trial, from what, on what and when, as terms with their descriptions."""
    first = rows[0]
    versions = [f"{name} {first[f'{name}_version']}" for name in ("mdssl", "torch", "ray") if first[f"{name}_version"]]
    recipe = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in config.items() if "version" in name)
    images = {row["eval_dataset"]: _fingerprint(row) for row in rows if row["eval_dataset"]}
    last_score = max((row["finished_at"] for row in rows if row["finished_at"]), default=None)
    minutes = first["train_seconds"] / 60 if first["train_seconds"] else None
    speed = f", {first['views_per_second']:,.0f} views/s" if first["views_per_second"] else ""
    workers = f", {first['num_workers']} workers" if (first["num_workers"] or 1) > 1 else ""
    return [
        ("Sweep", first["sweep"] or NOTHING),
        ("Preset", first["preset"] or NOTHING),
        ("Commit", first["git_commit"] or "unknown"),
        ("Versions", ", ".join([*versions, recipe])),
        ("Images trained on", first["data_fingerprint"] or NOTHING),
        ("Images scored on", "; ".join(f"{name} {print_ or NOTHING}" for name, print_ in images.items()) or NOTHING),
        ("Device", f"{first['device'] or NOTHING}{workers}"),
        ("Training", f"{minutes:,.1f} min{speed}" if minutes else NOTHING),
        ("GPU-hours", f"{first['gpu_hours']:.3g}" if first["gpu_hours"] else "none"),
        ("Peak memory", f"{first['peak_memory_mb']:,.0f} MB" if first["peak_memory_mb"] else NOTHING),
        ("Encoder", f"{first['encoder_mb']:.1f} MB: {first['checkpoint']}" if first["encoder_mb"] else NOTHING),
        ("Final loss", f"{first['final_loss']:.4f}" if first["final_loss"] is not None else NOTHING),
        ("Started", f"{short_date(first['started_at'])} UTC"),
        (
            "Last score",
            f"{short_date(last_score)} UTC",
        ),
    ]


def own_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's settings by name, with defaults for those that are newer than its row."""
    known = {field.name for field in fields(TrialConfig)}
    newer = {field.name: field.default for field in fields(TrialConfig) if field.name not in config["trial"]}
    return newer | {name: value for name, value in config["trial"].items() if name in known}


def _fingerprint(row: dict[str, Any]) -> str:
    return json.loads(row["config_json"]).get("evaluation", {}).get("data_fingerprint", "")
