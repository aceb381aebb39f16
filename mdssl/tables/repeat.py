"""The commands that reproduce a trial and its scores, from its rows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from mdssl.config.encoders import is_timm
from mdssl.config.presets import PRESETS
from mdssl.config.probe import ProbeConfig, probe_flags
from mdssl.config.trial import TrialConfig, relevant_settings

_FILLED_IN = ("data_fingerprint", "normalization", "init_fingerprint", *("weights", "weights_fingerprint"))
"""Settings that are set when the data or the weights are opened."""


def train_command(trial: Mapping[str, Any], preset: str | None, *, workers: int = 1) -> str:
    """Return the ``mdssl train`` command of a trial, with the settings that differ from the preset's.

    Args:
        trial: what `TrialConfig.to_dict` gives, of any method but ``pretrained``.
        preset: the preset of the trial; ``quick``, the default, if that preset no longer exists.
        workers: training processes. The trial is the same with any number.
    """
    preset = preset if preset in PRESETS else "quick"
    words = ["mdssl"] if workers == 1 else ["torchrun", "--nproc-per-node", str(workers), "-m", "mdssl"]
    words += ["train"] + (["--preset", preset] if preset != "quick" else [])
    relevant = relevant_settings(dict(trial))
    for field in fields(TrialConfig):
        if field.name in relevant and field.name not in (*_FILLED_IN, *["input_size"] * bool(trial["domains"])):
            words += _flag(field.name, relevant[field.name], PRESETS[preset].get(field.name, field.default))
    return shlex.join(words)


def probe_command(trial_id: str, trial: Mapping[str, Any], probe: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    """Return the ``mdssl probe`` command that scores a trained trial, or pretrained weights, by one probe.

    Args:
        probe: the settings of the probe, as a row's ``config_json`` has them under ``evaluation``.
        scored: ``evaluate``, the datasets, and ``features``, the layers.
    """
    words = ["mdssl", "probe"]
    if trial["method"] == "pretrained":
        words += ["--weights", trial["weights"]]
        words += _flag("input_size", trial.get("input_size"), None)
        if is_timm(trial["arch"]) or trial["weights"] in ("torchvision", "timm"):
            words += ["--arch", trial["arch"]]
    else:
        words.append(trial_id)
    words += _flag("evaluate", scored["evaluate"], ())
    asked = probe_flags(probe) | {"features": scored["features"]}
    for field in fields(ProbeConfig):
        words += _flag(field.name, asked.get(field.name, field.default), field.default)
    return shlex.join(words)


def _flag(name: str, value: Any, default: Any) -> list[str]:
    """Return the words of one flag, as `mdssl.cli.parse.parse` reads them; none if ``value`` is the default."""
    several = isinstance(value, list | tuple)
    if default is not MISSING and (tuple(value) if several else value) == default:
        return []
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, *(str(item) for item in (value if several else [value]))]
