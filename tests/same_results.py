"""Compare the results of a disturbed sweep with those of an undisturbed one: see `chaos`."""

import re
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

from mdssl.storage.location import Location

SEEN = ("representations/*", "neighbors.*")


def compare(disturbed: Path, straight: Path, iterations: int) -> None:
    """Assert that both storages have the same results, and that killed processes left no files in the disturbed one."""
    boards = [pd.read_parquet(storage / "leaderboard") for storage in (disturbed, straight)]
    identity = ["trial_id", "eval_dataset", "features", "probe"]
    scores = [*identity, "status", "top1", "top5", "knn_top1", "final_loss", "views_seen"]
    first, second = (board[scores].sort_values(identity).reset_index(drop=True) for board in boards)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert set(first["status"]) == {"finished"}
    assert not first.duplicated(identity).any(), "duplicate rows"
    for trial in straight.glob("trials/*"):
        same = disturbed / "trials" / trial.name
        weights = [safetensors.torch.load_file(folder / "encoder.safetensors") for folder in (same, trial)]
        assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items()), trial.name
        losses = [pd.read_parquet(folder / "metrics.parquet") for folder in (same, trial)]
        if not losses[1].empty:
            assert list(losses[0]["step"]) == list(range(2, iterations + 1, 2)), "every step once"
            losses = [frame.drop(columns="views_per_second") for frame in losses]
            pd.testing.assert_frame_equal(*losses, check_exact=True)
        seen = [
            {str(file.relative_to(folder)): file.read_bytes() for kind in SEEN for file in folder.glob(kind)}
            for folder in (same, trial)
        ]
        assert len(seen[1]) == 4, "representations of two datasets and two files of neighbors are expected"
        assert seen[0] == seen[1], trial.name
    left = [file for file in disturbed.rglob("*") if re.match(r"\..*\.tmp$|claim", file.name)]
    left += disturbed.glob(".ray/*")
    assert not left, f"left over: {left}"


def as_folder(place: Location, folder: Path) -> Path:
    """The storage as a local folder; a bucket is copied to ``folder``."""
    if place.is_local:
        return Path(place.path)
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(place.path, str(folder), source_filesystem=place.filesystem, destination_filesystem=LocalFileSystem())
    return folder
