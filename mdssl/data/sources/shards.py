"""Which Parquet files of a folder are the shards of which split."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mdssl.data.sources.base import Findings, Reading
from mdssl.data.sources.scan import is_hidden
from mdssl.data.sources.splits import split_of
from mdssl.errors import InputError

# A hub download may add a hash to the names.
_NUMBERED = re.compile(r"(?P<stem>.*?)-?(?P<k>\d+)-of-(?P<n>\d+)(?P<hash>-[0-9a-f]+)?")


def parquet_files(path: Path) -> list[str]:
    """The relative paths of all Parquet files in the folder ``path``, however deep, hidden ones left out; sorted."""
    found = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() == ".parquet" and file.is_file())
    return sorted(str(file) for file in found if not any(map(is_hidden, file.parts)))


def shard_paths(path: Path, reading: Reading | None = None, findings: Findings | None = None) -> dict[str, list[Path]]:
    """The shards in ``path`` by split, ``{"train": […], "test": […]}``; empty where there are none.

    A file says its split by its name, or else by the folders around it. Files that say none are the train split where
    no file says one, and are left out otherwise. A single file is the train split unless its name says another one.

    Raises:
        InputError: one of the n shards of a split is missing, or the files are of several uploads or configurations.
    """
    reading, findings = reading or Reading(), findings or Findings()
    if path.is_file():
        return {split_of(path.stem) or "train" if reading.splits is None else "train": [path]}
    files = parquet_files(path)
    if reading.splits:
        by_split = {split: [f for f in files if _is_at(f, place)] for split, place in reading.splits.items()}
        for split, found in by_split.items():
            if not found:
                raise InputError(
                    f"split {split!r} is {reading.splits[split]!r}, but {path} has no Parquet file there. Name a file "
                    "or folder in it."
                )
        taken = [file for found in by_split.values() for file in found]
    else:
        by_split = {}
        for file in files:
            split = split_of_file(file) if reading.splits is None else None
            by_split.setdefault(split or "", []).append(file)
        if set(by_split) == {""}:
            by_split = {"train": by_split[""]}
        taken = [file for split, found in by_split.items() if split for file in found]
        by_split.pop("", None)
    if left := [file for file in files if file not in taken]:
        findings.leave_out("Parquet files that say no split", left[0], len(left))
    if not reading.splits:
        _check_one_configuration(path, taken)
    for split, found in by_split.items():
        # A file that is named is wanted, whatever its own name says of others.
        if found != [(reading.splits or {}).get(split)]:
            _check_one_upload(path, split, found)
        findings.splits[split] = found[0] if len(found) == 1 else f"{len(found)} files, from {found[0]} on"
    return {split: [path / file for file in found] for split, found in by_split.items()}


def split_of_file(file: str) -> str | None:
    """The split that a relative path says: the file's name, else the nearest folder that says one."""
    path = PurePosixPath(file)
    return next((split for name in (path.stem, *reversed(path.parts[:-1])) if (split := split_of(name))), None)


def _is_at(file: str, place: str) -> bool:
    return place in (".", file) or file.startswith(f"{place}/")


def _check_one_configuration(path: Path, files: list[str]) -> None:
    """Raise ``InputError`` if the files lie in different folders, but for folders that say a split."""
    parents = [PurePosixPath(file).parts[:-1] for file in files]
    folders = sorted({"/".join(part for part in parts if not split_of(part)) for parts in parents})
    if len(folders) > 1:
        listed = ", ".join(folder or "." for folder in folders[:5])
        raise InputError(
            f"{path} has Parquet files of several uploads or configurations, in the folders {listed}. Give one of them "
            "as --source, or say which files to take, such as --splits train=FOLDER_OR_FILE."
        )


def _check_one_upload(path: Path, split: str, files: list[str]) -> None:
    """Raise ``InputError`` unless ``files`` are all shards of one split: each once, and none missing."""
    numbered = {file: found for file in files if (found := _NUMBERED.fullmatch(PurePosixPath(file).stem))}
    if not numbered:
        return
    uploads = {(PurePosixPath(file).parent, found["stem"], int(found["n"])) for file, found in numbered.items()}
    numbers = [int(found["k"]) for found in numbered.values()]
    if len(numbered) < len(files) or len(uploads) > 1 or len(set(numbers)) < len(numbers):
        raise InputError(
            f"{path} has Parquet files of several uploads for {split}: {', '.join(files[:5])}. Keep those of one, or "
            f"say which to take: --splits {split}=FILE."
        )
    total = next(iter(uploads))[2]
    missing = sorted(set(range(total)) - set(numbers))
    if missing:
        raise InputError(
            f"{path} has {len(files)} of the {total} Parquet shards of {split}; number {missing[0]:05d} is missing. "
            "Fetch the rest."
        )
