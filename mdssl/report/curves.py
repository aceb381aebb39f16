"""Training curves of all trials of a report with few points each, which the first page draws in one chart."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.report.folder import Folder, digest
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import trial_dir_in

CURVES = {"loss": "training loss", "val_linear_top1": "validation top-1 while training (%)"}
"""Columns of ``metrics.parquet`` that have curves, and their names."""
POINTS = 40
"""Largest number of points of a curve: reports at even distances, including the first and the last."""


def update_curves(storage: Location, folder: Folder, rows: pd.DataFrame) -> None:
    """Read the curves of the trials whose rows have changed into ``folder.curves``.

    Args:
        rows: the leaderboard.
    """
    versions = {
        str(trial_id): digest(str(last)) for trial_id, last in rows.groupby("trial_id")["finished_at"].max().items()
    }
    folder.curves = {trial_id: known for trial_id, known in folder.curves.items() if trial_id in versions}
    changed = [trial_id for trial_id, version in versions.items() if folder.curves.get(trial_id, [""])[0] != version]
    found = in_threads(lambda trial_id: _curves(trial_dir_in(storage, trial_id)), changed)
    folder.curves |= {id: [versions[id], own] for id, own in zip(changed, found, strict=True)}


def curves_json(folder: Folder, trial_ids: Iterable[str]) -> str:
    """Return a JSON object: by trial, the curves of `CURVES` that it has, each as steps and values."""
    known = ((trial_id, folder.curves.get(trial_id, ["", ""])[1]) for trial_id in trial_ids)
    return "{" + ",\n".join(f'"{trial_id}":{own}' for trial_id, own in known if own) + "}"


def _curves(trial_dir: Location) -> str:
    """Return the curves of one trial as JSON; empty if there are none. The trial's page reports a damaged file."""
    try:
        # Not pandas: it takes twice as long for a small file, and there may be thousands.
        with pq.ParquetFile(pa.BufferReader((trial_dir / "metrics.parquet").read_bytes())) as file:
            table = file.read(columns=["step", *CURVES], use_threads=False)
    except (FileNotFoundError, pa.ArrowException):
        return ""
    found = {}
    for name in set(CURVES) & set(table.column_names) if "step" in table.column_names else ():
        steps, values = (np.array(table[each].to_pylist(), dtype=float) for each in ("step", name))
        # A loss that is not finite cannot be drawn.
        kept = np.flatnonzero(np.isfinite(values))
        if len(kept):
            chosen = kept[np.unique(np.linspace(0, len(kept) - 1, min(POINTS, len(kept))).round().astype(int))]
            found[name] = [steps[chosen].astype(int).tolist(), [float(f"{value:.4g}") for value in values[chosen]]]
    return json.dumps(found, separators=(",", ":"), sort_keys=True) if found else ""
