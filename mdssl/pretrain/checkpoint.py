"""Checkpoints: the state of a run in one safetensors file, written atomically.

Random states are not saved, because batches and views are functions of (seed, step, domain).
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from mdssl.device import Fetched
from mdssl.pretrain.pseudo_domains import PseudoDomains
from mdssl.storage.location import Location
from mdssl.storage.safetensors_header import safetensors_metadata

log = logging.getLogger(__name__)

KEEP = 2
_CLUSTER_TENSORS = ("labels", "kept", "centroids")


@dataclass
class LoopState:
    """The state of the training loop besides model and optimizer.

    Attributes:
        step: steps done.
        seconds: wall time spent in training, over all runs of this trial.
        gpu_seconds: the same, multiplied by the number of GPUs.
        started_at: when the first run began, ISO 8601 in UTC.
        metrics: one row per report: step, loss terms, learning rate, views/s.
        views: augmented images that went through the encoder.
        score_seconds: the part of ``seconds`` that validation scores took.
        rounds: one record per clustering; see `mdssl.pretrain.pseudo_domains.find`.
        clusters: of the last clustering.
        continued_from: trial_id, step and views of the shorter trial that it continues, or None; see
            `mdssl.pretrain.stable`. The costs then exclude the steps of that trial.
        terms: loss terms of the steps since the last report.
        precision: bf16 or fp32, of all steps; empty before the first one, and in checkpoints of earlier versions, where
            the config has it.
        checkpoints: names of those that this run has read or written; not saved.
    """

    step: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    started_at: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    views: int = 0
    score_seconds: float = 0.0
    rounds: list[dict[str, Any]] = field(default_factory=list)
    clusters: PseudoDomains | None = None
    continued_from: dict[str, Any] | None = None
    terms: list[list[float]] = field(default_factory=list)
    precision: str = ""
    checkpoints: list[str] = field(default_factory=list)


class Snapshot:
    """A copy of the tensors of a run. A GPU copies asynchronously to pinned memory, before its next step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: LoopState):
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = value
        if state.clusters is not None:
            tensors |= {f"clusters.{name}": getattr(state.clusters, name) for name in _CLUSTER_TENSORS}
        self._tensors = {name: Fetched(value.detach(), copies=True) for name, value in tensors.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Wait for the copy, and return the tensors on the host by name."""
        return {name: value.arrived().contiguous() for name, value in self._tensors.items()}


def save(folder: Location, snapshot: Snapshot, state: LoopState) -> None:
    """Write ``folder/step-00000480.safetensors`` and keep only the last `KEEP` that this run read or wrote."""
    saved = write(folder, snapshot, state)
    state.checkpoints[:] = [*state.checkpoints, saved][-KEEP:]
    for name in set(_steps(folder)) - set(state.checkpoints):
        (folder / name).delete()


def write(folder: Location, snapshot: Snapshot, state: LoopState) -> str:
    """Write ``folder/step-00000480.safetensors`` atomically, and return its name."""
    scalars = {key: value for key, value in vars(state).items() if key not in ("clusters", "checkpoints")}
    if state.clusters is not None:
        scalars["round"] = state.clusters.round
    data = safetensors.torch.save(snapshot.tensors(), metadata={"loop_state": json.dumps(scalars)})
    saved = name_of(state.step)
    (folder / saved).write_bytes(data)
    return saved


def name_of(step: int) -> str:
    return f"step-{step:08d}.safetensors"


def load_latest(
    folder: Location, model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int | None = None
) -> LoopState | None:
    """Restore the newest checkpoint that can be read, or that of ``step``, in place; None if there is none.

    A damaged file is skipped with a warning.
    """
    for name in [name_of(step)] if step else reversed(_steps(folder)):
        data = (folder / name).read_bytes()
        try:
            tensors = safetensors.torch.load(data)
            scalars = json.loads(safetensors_metadata(data)["loop_state"])
            number = scalars.pop("round", None)
            state = LoopState(**scalars, checkpoints=[name])
            if number is not None:
                state.clusters = PseudoDomains(number, *(tensors[f"clusters.{name}"] for name in _CLUSTER_TENSORS))
            weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
            model.load_state_dict(weights)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            log.warning("checkpoint %s cannot be read (%s); the previous one is used", folder / name, error)
            continue
        parameters = dict(model.named_parameters())
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, optimizer_key, owner = key.split(".", 2)
                optimizer.state[parameters[owner]][optimizer_key] = _as_state_of(parameters[owner], value)
        return state
    return None


def latest_step(folder: Location, *, up_to: float = float("inf")) -> int:
    """Return the step of the newest checkpoint that is not past ``up_to``; 0 if there is none."""
    steps = (int(name.removeprefix("step-").split(".")[0]) for name in _steps(folder))
    return max((step for step in steps if step <= up_to), default=0)


def _as_state_of(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Move the value to the parameter's device and memory order, so that sums have the same order after a resume.

    AdamW's step counter stays on the CPU.
    """
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _steps(folder: Location) -> list[str]:
    return [name for name in folder.names() if re.fullmatch(r"step-\d{8,}\.safetensors", name)]
