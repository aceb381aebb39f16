"""The command that makes a trial's encoder again."""

from __future__ import annotations

import shlex
from dataclasses import fields

from mdssl.config import TrialConfig, relevant_settings
from mdssl.export.formats import file_name
from mdssl.presets import PRESETS

_NOT_TYPED = ("data_fingerprint", "weights_fingerprint")


def repeating_command(config: TrialConfig, *, preset: str | None = None, workers: int = 1) -> str:
    """As a user would type it: all settings that are not the preset's.

    Args:
        preset: the one that the trial started from; None where nobody knows, and then every setting stands there that
            is not the paper's.
        workers: training processes.
    """
    if config.method == "pretrained":
        size = f" --input-size {config.input_size}" if config.input_size is not None else ""
        return f"mdssl probe --weights {shlex.quote(file_name(config.weights))}{size} --evaluate DATASET"
    preset = preset if preset in PRESETS else "paper"
    start = "mdssl train" if workers == 1 else f"torchrun --nproc-per-node {workers} -m mdssl train"
    words = [*start.split(), "--preset", preset]
    relevant = relevant_settings(config.to_dict())
    for field in fields(TrialConfig):
        value = getattr(config, field.name)
        if field.name not in relevant or field.name in _NOT_TYPED:
            continue
        # What auto becomes depends on the machine.
        if field.name == "precision" or value != PRESETS[preset].get(field.name, field.default):
            flag = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)
