"""Trials with all their files, for tests of the commands that change trials."""

import json
from pathlib import Path

from factories import tiny_trial

from mdssl.cli.main import main
from mdssl.leaderboard.board import write_rows

A, B, C = "0123456789ab", "01239999ffff", "fedcba987654"


def files(storage: str | Path, *but: str) -> set[str]:
    """All files, also hidden files, except those in the folders ``but``."""
    found = (str(file.relative_to(storage)) for file in Path(storage).rglob("*") if file.is_file())
    return {name for name in found if not name.startswith(but)}


def add(storage: str, trial_id: str, rows: list[dict], status: str = "finished", **of_config) -> Path:
    """Add a trial with rows and a folder with the files of a trained trial."""
    config = tiny_trial(**of_config).to_dict()
    if rows:
        text = json.dumps({"trial": config, "evaluation": {"data_fingerprint": "x"}})
        write_rows(
            storage, trial_id, [{**each, "config_json": text, "finished_at": each["started_at"]} for each in rows]
        )
    folder = Path(storage) / "trials" / trial_id
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training.json").write_text(
        json.dumps(
            {"status": status, "step": 2, "iterations": 6, "error": "e", "finished_at": "2026-11-02T10:00:00+00:00"}
        )
    )
    (folder / "encoder.safetensors").write_bytes(bytes(3 << 20))
    (folder / "checkpoints" / "step-00000006.safetensors").write_bytes(bytes(5 << 20))
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])
