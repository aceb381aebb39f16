"""Where a trial is stored: ``trials/<trial_id>/`` its files, ``leaderboard/<trial_id>.parquet`` its rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import FolderKind, delete

if TYPE_CHECKING:
    import pandas as pd

TRIALS, LEADERBOARD, STABLE = "trials", "leaderboard", "stable"
ARCHIVE = "archive"
"""The storage in a storage that has its archived trials."""
_STOP, _EXTENSION = "stop.json", "extended.json"
NEIGHBORS = ("neighbors.png", "neighbors.json")
"""The sheet of a trial: see `mdssl.evaluate.trial_sheet`."""
CONFUSION = "confusion.json"
"""The confusion matrices of a trial: see `mdssl.evaluate.confusion`."""
FORMER_NEIGHBORS = ("neighbours.png", "neighbours.json")
"""Names of the same files in older trials. In this JSON the neighbors of a row have the key ``neighbours``."""
TRIAL = FolderKind(
    what="a trial",
    marker="config.json",
    is_marker=lambda said: isinstance(said, dict) and "method" in said,
    files=(
        *("config.json", "run.json", "training.json", "metrics.parquet", "clusters.parquet", "encoder.safetensors"),
        *(_STOP, _EXTENSION),
        *("checkpoints/step-*.safetensors", "representations/*.safetensors", *NEIGHBORS, *FORMER_NEIGHBORS, CONFUSION),
        *("logs/*.txt", "tensorboard/events.out.tfevents.*", "wandb/*"),
    ),
    setting="--storage or MDSSL_STORAGE",
)
"""The folder of a trial, without its claim."""


def trial_dir_in(storage: str | Path | Location, trial_id: str) -> Location:
    """The folder of a trial's files: see `mdssl.pretrain.trial_files`."""
    return Location.of(storage) / TRIALS / trial_id


def rows_file_in(storage: str | Path | Location, trial_id: str) -> Location:
    """The file of a trial's leaderboard rows."""
    return Location.of(storage) / LEADERBOARD / f"{trial_id}.parquet"


def stable_dir_in(storage: str | Path | Location, stable_id: str) -> Location:
    """The folder of checkpoints that trials share: see `mdssl.pretrain.stable`."""
    return Location.of(storage) / STABLE / stable_id


def storage_of(trial_dir: Location) -> Location:
    """The storage in which ``trial_dir`` is the folder of a trial."""
    return trial_dir.parent.parent


def read_table(file: Location) -> pd.DataFrame | None:
    """Read a Parquet file of a trial; None if it does not exist.

    Raises:
        ValueError: the file is damaged.
    """
    import pandas as pd

    try:
        return pd.read_parquet(io.BytesIO(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError, OSError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{file} cannot be read: {problem}. Move it away to go on without it.") from error


def stop_request(trial_dir: Location) -> Location:
    """The file that asks for the end of the trial's training. It is there from `mdssl stop` until `mdssl retry`."""
    return trial_dir / _STOP


def extension(trial_dir: Location) -> Location:
    """The file that says that ``--extend`` trains the trial to its end, after a scheduler had ended it early."""
    return trial_dir / _EXTENSION


def delete_checkpoints(trial_dir: Location) -> None:
    """Delete the checkpoints of a trial that needs them no more."""
    delete(trial_dir / "checkpoints", replace(TRIAL, files=("step-*.safetensors",)))


def delete_trial(trial_dir: Location) -> None:
    """Delete all files of the trial that mdssl wrote, except its claim."""
    delete(trial_dir, TRIAL)


def stopped_early(trial_id: str, training: Mapping[str, Any]) -> str:
    """Describe, for messages, a trial whose ``training.json`` has the status ``stopped``."""
    return f"trial {trial_id} was stopped early at step {training['step']} of {training['iterations']}"
