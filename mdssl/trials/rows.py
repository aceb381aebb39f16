"""A trial's leaderboard rows: settings, results, cost and provenance."""

from __future__ import annotations

import json
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import mdssl
from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.data.dataset import Dataset
from mdssl.data.sources.catalog import seen_in
from mdssl.leaderboard.columns import SCHEMA_VERSION, SETTING_COLUMNS, Row
from mdssl.pretrain.trial_files import now
from mdssl.storage.location import Location

_FROM_TRAINING = (
    "step",
    "train_seconds",
    "gpu_hours",
    "num_workers",
    "device",
    "views_seen",
    "views_per_second",
    "peak_memory_mb",
    "encoder_mb",
    "final_loss",
    "torch_version",
    "started_at",
)


class Context(TypedDict):
    """The columns of a row that describe the process that made it."""

    sweep: str
    preset: str
    git_commit: str
    ray_version: str


_NO_COLUMNS = ("data_fingerprint", "images", "probe_settings", "confusion")
"""The entries of a score that are in ``config_json``, or in a file of the trial."""


def finished_row(config: TrialConfig, training: dict, score: dict, *, context: Context, trial_dir: Location) -> Row:
    """The row of one score of one trial.

    Args:
        training: the content of ``training.json``.
        score: one entry of `mdssl.evaluate.evaluate.evaluate_dataset`, with ``eval_dataset``, ``data_fingerprint`` and
            ``images`` (see `images_of`), which ``config_json`` has under ``evaluation``; under ``variants`` it has what
            sets each of the trial's domains apart from the published one.
    """
    evaluation = {**score["probe_settings"], **score.get("images", {}), "data_fingerprint": score["data_fingerprint"]}
    # Older trials have no record of their domains.
    variants = {name: training[name] for name in ("variants", "continued_from") if training.get(name) is not None}
    row = _trained(config, training, context)
    row |= {key: value for key, value in score.items() if key not in _NO_COLUMNS}
    row |= {
        "status": "finished",
        "seen": score["eval_dataset"] in seen_in(config.domains),
        "config_json": json.dumps(_produced_by(config) | variants | {"evaluation": evaluation}, sort_keys=True),
        "finished_at": now(),
        "checkpoint": (trial_dir / "encoder.safetensors").uri,
    }
    return row


def stopped_rows(config: TrialConfig, training: dict, *, context: Context) -> list[Row]:
    """The rows of a trial that was stopped early: one for each dataset of its last validation scores.

    Args:
        training: the content of ``training.json``, with status ``stopped``.
    """
    images = training.get("val_fingerprints", {})
    shared = _trained(config, training, context)
    return [
        shared
        | {
            "status": "stopped",
            "eval_dataset": dataset,
            "seen": dataset in seen_in(config.domains),
            "features": "encoder",
            "probe": None,
            "val_linear_top1": score,
            "config_json": json.dumps(
                _produced_by(config)
                | {"variants": training["variants"], "evaluation": {"data_fingerprint": images.get(dataset, "")}},
                sort_keys=True,
            ),
            "finished_at": now(),
        }
        for dataset, score in training["val_linear_top1"].items()
    ]


def images_of(dataset: Dataset) -> dict[str, Any]:
    """Describe the images of ``dataset`` for a row's ``config_json``; no column has these values.

    Returns:
        ``image_size`` (pixels), ``variant`` (see `mdssl.data.dataset.Dataset`) and ``majority_top1``: what always
        naming the most frequent class of the test split scores, percent.
    """
    per_class = dataset.meta["splits"]["test"]["per_class"]
    majority = 100 * max(per_class) / sum(per_class)
    return {"image_size": dataset.image_size, "variant": dataset.variant, "majority_top1": majority}


def failed_row(
    config: TrialConfig, error: str, *, context: Context, started_at: str, score: dict[str, Any] | None = None
) -> Row:
    """The row of a trial that failed to train, or of a score that failed.

    Args:
        score: of a score that failed: its ``eval_dataset``, ``probe`` and ``data_fingerprint``. Another probe, or the
            dataset prepared anew, may well succeed.
    """
    produced_by = _produced_by(config)
    if score:
        produced_by["evaluation"] = {"data_fingerprint": score["data_fingerprint"]}
    return _setting(config, context) | {
        "status": "failed",
        "error": error,
        "eval_dataset": score["eval_dataset"] if score else None,
        "probe": score["probe"] if score else None,
        "config_json": json.dumps(produced_by, sort_keys=True),
        "started_at": started_at,
        "finished_at": now(),
    }


def row_without_score(config: TrialConfig) -> Row:
    """The settings of a trial that has no row yet, as one without status."""
    context: Context = {"sweep": "", "preset": "", "git_commit": "", "ray_version": ""}
    return _setting(config, context) | {"config_json": json.dumps(_produced_by(config))}


def _produced_by(config: TrialConfig) -> dict[str, Any]:
    return {"trial": config.to_dict(), **config.versions}


def _trained(config: TrialConfig, training: dict, context: Context) -> Row:
    row = _setting(config, context) | {key: training[key] for key in _FROM_TRAINING}
    if training.get("precision") and "precision" in row:
        # Which one the hardware has decided.
        row["precision"] = training["precision"]
    return row


def _setting(config: TrialConfig, context: Context) -> Row:
    columns = {column.name for column in SETTING_COLUMNS}
    relevant = relevant_settings(config.to_dict())
    return {
        "iterations": 0,
        "seed": 0,
        **{name: value for name, value in relevant.items() if name in columns},
        "trial_id": config.trial_id,
        "train_mixture": config.train_mixture,
        "num_domains": len(config.domains),
        "data_fingerprint": config.data_fingerprint,
        "mdssl_version": mdssl.__version__,
        "schema_version": SCHEMA_VERSION,
        **context,
    }


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """Merge ``new`` rows into the trial's ``old`` ones.

    A finished score stays, also when it was made again beside other learning rates: published numbers do not change,
    and only validation scores that it lacks are filled in. A score on other images replaces it. A failed score is
    replaced by a new result of the same dataset and probe, a failed training by the result of the next one, and the
    rows of a trial that was stopped early by anything newer.
    """
    again = {_score_of(row): row for row in new if row["status"] == "finished"}
    old = [_filled(row, again.get(_score_of(row), {})) for row in old if not new or row["status"] != "stopped"]
    there = {_score_of(row) for row in old if row["status"] == "finished"}
    if there:
        # Stopped when it was trained again: its scores are of the encoder that is there.
        new = [row for row in new if row["status"] != "stopped"]
    tried = {(row["eval_dataset"], row.get("probe")) for row in new}
    new = [row for row in new if row["status"] != "finished" or _score_of(row) not in there]
    scores = {_score_of(row)[:3] for row in new}

    def gives_way(row: Row) -> bool:
        if row["status"] == "finished":
            return _score_of(row)[:3] in scores
        return row["eval_dataset"] is None or (row["eval_dataset"], row["probe"]) in tried

    return [row for row in old if not gives_way(row)] + new


def _filled(row: Row, again: Row) -> Row:
    """A finished row, with validation scores that it lacks from the same score, made ``again``."""
    if row["status"] != "finished":
        return row
    return row | {
        name: again.get(name) for name in ("val_top1", "val_knn_top1", "val_linear_top1") if row.get(name) is None
    }


def _score_of(row: Row) -> tuple[str | None, str | None, str | None, str | None]:
    """Dataset, layer and probe of a row, and the fingerprint of the dataset's images."""
    evaluation = json.loads(row["config_json"]).get("evaluation", {})
    return row["eval_dataset"], row.get("features"), row.get("probe"), evaluation.get("data_fingerprint")


@lru_cache(maxsize=1)
def git_commit() -> str:
    """The commit of the checkout that this package runs from, ``-dirty`` where files differ.

    Outside of a checkout, as on a cluster, which gets the files alone: ``MDSSL_GIT_COMMIT``, or an empty string.
    """
    folder = Path(mdssl.__file__).parents[1]
    if not (folder / ".git").exists():
        return os.environ.get("MDSSL_GIT_COMMIT", "")
    try:
        commit = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(commit, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
