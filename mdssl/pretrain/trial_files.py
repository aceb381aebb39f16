"""The files of one trial, in the order in which they are written.

config.json             when training begins
run.json                at each start: where it trains
checkpoints/            during training
metrics.parquet         with each checkpoint
clusters.parquet        with each checkpoint of a method with pseudo-domains
encoder.safetensors     at the end: encoder and projection head, float32; its metadata (JSON) are config, mean and std
                        (of each channel, after division by 255) and image_size (pixels)
stop.json               from `mdssl stop` to `mdssl retry`
training.json           last: status and cost of the training; of one that ended early, its last validation scores

Evaluation adds representations/, neighbors.png and neighbors.json: see `mdssl.evaluate.artifacts`. logs/ and
tensorboard/ grow during all of this: see `mdssl.storage.trial_log` and `mdssl.tracking`.
"""

from __future__ import annotations

import json
import os
import socket
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.torch
import torch
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import Dataset
from mdssl.device import peak_memory
from mdssl.errors import InputError
from mdssl.pretrain.augment import statistics_of
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.model import Model, build_model
from mdssl.storage.location import Location
from mdssl.storage.safetensors_header import safetensors_metadata, with_sorted_metadata
from mdssl.storage.trial_dir import stopped_early


def now() -> str:
    """Return the current time in ISO 8601, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_config(trial_dir: Location, config: TrialConfig) -> None:
    (trial_dir / "config.json").write_bytes(json.dumps(config.to_dict(), indent=2).encode())


def write_run(trial_dir: Location, *, device: str, workers: int, step: int) -> None:
    """Write where this start of the training runs: host, process and device of its first worker."""
    run = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "workers": workers,
        "from_step": step,
        "started_at": now(),
    }
    (trial_dir / "run.json").write_bytes(json.dumps(run, indent=2).encode())


def write_metrics(trial_dir: Location, state: LoopState) -> None:
    """Write ``metrics.parquet``, a row per report with step, loss terms, learning rate, views/s and validation
    scores, and ``clusters.parquet``, a row per clustering (see `mdssl.pretrain.pseudo_domains.find`)."""
    _write_table(trial_dir / "metrics.parquet", state.metrics)
    if state.rounds:
        _write_table(trial_dir / "clusters.parquet", state.rounds)


def read_training(trial_dir: Location, config: TrialConfig | None = None) -> dict[str, Any] | None:
    """Return the content of ``training.json``, or None if training has not ended or its encoder is missing.

    Raises:
        ValueError: the file is damaged, or the folder has another trial than ``config``.
    """
    if config:
        _check_same_trial(trial_dir, config)
    file = trial_dir / "training.json"
    try:
        ended = json.loads(file.read_bytes())
        has_ended = ended["status"] != "finished" or (trial_dir / "encoder.safetensors").exists()
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, error) from error
    return ended if has_ended else None


def write_failure(trial_dir: Location, step: int, error: str) -> None:
    """Record that training failed."""
    ended = {"status": "failed", "step": step, "error": error}
    (trial_dir / "training.json").write_bytes(json.dumps(ended, indent=2).encode())


def write_finished(
    trial_dir: Location,
    config: TrialConfig,
    model: nn.Module,
    state: LoopState,
    *,
    datasets: Sequence[Dataset] = (),
    **of_run: Any,
) -> dict[str, Any]:
    """Write the encoder, then ``training.json``, and return the content of the latter. See `write_training`."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    mean, std = statistics_of(config.normalization)
    metadata = {"config": json.dumps(config.to_dict()), "mean": json.dumps(mean), "std": json.dumps(std)}
    size = datasets[0].image_size if datasets else config.input_size
    metadata |= {"image_size": str(size)} if size else {}
    encoder = with_sorted_metadata(safetensors.torch.save(weights, metadata=metadata))
    # Again, for a run that resumed after its last step.
    write_metrics(trial_dir, state)
    (trial_dir / "encoder.safetensors").write_bytes(encoder)
    return write_training(trial_dir, "finished", model, state, datasets=datasets, **of_run)


def write_training(
    trial_dir: Location,
    status: str,
    model: nn.Module,
    state: LoopState,
    *,
    device: str,
    workers: int,
    compiled: bool = False,
    datasets: Sequence[Dataset] = (),
    **more: Any,
) -> dict[str, Any]:
    """Write ``training.json``: status, cost, provenance and ``more``; returns its content."""
    on_gpu = device.startswith("cuda")
    encoder_bytes = sum(value.nbytes for name, value in model.state_dict().items() if name.startswith("encoder."))
    others = state.continued_from or {"views": 0}
    ended = {
        "status": status,
        "step": state.step,
        "train_seconds": state.seconds,
        "score_seconds": state.score_seconds,
        "gpu_hours": state.gpu_seconds / 3600,
        "num_workers": workers,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "compiled": compiled,
        "precision": state.precision,
        "views_seen": state.views,
        "views_per_second": (state.views - others["views"]) / state.seconds if state.seconds else None,
        "peak_memory_mb": peak_memory(device) / 2**20,
        "encoder_mb": encoder_bytes / 2**20,
        "final_loss": state.metrics[-1]["loss"] if state.metrics else None,
        "variants": {dataset.name: dataset.variant for dataset in datasets if dataset.variant},
        "torch_version": torch.__version__,
        "continued_from": state.continued_from and {name: others[name] for name in ("trial_id", "step")},
        "started_at": state.started_at,
        "finished_at": now(),
        **more,
    }
    (trial_dir / "training.json").write_bytes(json.dumps(ended, indent=2).encode())
    return ended


def _check_same_trial(trial_dir: Location, config: TrialConfig) -> None:
    file = trial_dir / "config.json"
    try:
        there = json.loads(file.read_bytes())
    except FileNotFoundError:
        return
    except ValueError as error:
        raise _damaged(file, error) from error
    found, asked = TrialConfig.from_dict(there), config.to_dict()
    if found.trial_id != config.trial_id:
        differing = [name for name, value in found.to_dict().items() if value != asked[name]]
        raise InputError(
            f"{trial_dir} has trial {found.trial_id}, not {config.trial_id}: they differ in {', '.join(differing)}. "
            "Give each trial a folder of its own."
        )


def load_model(trial_dir: Location, device: str = "cpu") -> tuple[TrialConfig, Model]:
    """Return a finished trial's config and model, in evaluation mode.

    Raises:
        ValueError: the trial has no encoder yet, also because it was stopped early, or its file is damaged.
    """
    file = trial_dir / "encoder.safetensors"
    try:
        data = file.read_bytes()
        config = TrialConfig.from_dict(json.loads(safetensors_metadata(data)["config"]))
        model = build_model(config)
        model.load_state_dict(safetensors.torch.load(data))
    except FileNotFoundError as error:
        ended = read_training(trial_dir)
        if ended and ended["status"] == "stopped":
            raise InputError(
                f"{stopped_early(trial_dir.name, ended)}; it has no encoder yet. `mdssl train` with its settings "
                "trains it to the end."
            ) from error
        raise InputError(
            f"trial {trial_dir.name} has no encoder at {trial_dir.uri}; train it to the end first."
        ) from error
    except InputError as error:
        # The file is whole: a package is missing, or it is of a newer mdssl.
        raise InputError(f"{file}: {error}") from error
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _damaged(file, error) from error
    return config, model.to(device).eval()


def _write_table(file: Location, rows: list[dict[str, Any]]) -> None:
    """Write ``rows``, whose columns are those of any of them. A column without values has a numeric type."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows])
    types = [pa.field(field.name, pa.float64() if field.type == pa.null() else field.type) for field in table.schema]
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(pa.schema(types)), sink)
    file.write_bytes(sink.getvalue().to_pybytes())


def _damaged(file: Location, error: Exception) -> InputError:
    # PyTorch names each tensor that does not fit.
    reason = textwrap.shorten(str(error), 300, placeholder=" …")
    return InputError(
        f"{file} is damaged ({type(error).__name__}: {reason}). Delete it; the sweep (with --retry-failed) or the "
        "`mdssl train` that made it then writes it again, from the trial's last checkpoint if there is one."
    )
