"""Find the files of a source: images below a folder, and Parquet shards by split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from mdssl.data.sources.base import Findings, Reading, count_of
from mdssl.data.splits import split_of
from mdssl.errors import InputError, some_of

_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".tga", ".avif"),
)
_SYSTEM_FILES = {
    *("__macosx", "@eadir", "#recycle", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("thumbnails", "thumbs", "__pycache__"),
}
"""Files and folders that operating systems and programs leave in users' folders, in lower case."""
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""Python's representation of bytes in a file name that are not valid UTF-8."""
# A download from the hub may add a hash to the names.
_NUMBERED = re.compile(r"(?P<stem>.*?)-?(?P<k>\d+)-of-(?P<n>\d+)(?P<hash>-[0-9a-f]+)?")
_NAMED = 5
"""Number of files or folders that a message lists."""


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of image files that Pillow can open here, in lower case."""
    from PIL import Image

    can_open = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(_SUFFIXES) & can_open


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or was left by the system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def scan(root: Path, findings: Findings) -> list[str]:
    """Return the relative paths of all images below ``root``, sorted. Links are followed.

    Raises:
        InputError: the name of an image or folder is not valid UTF-8, as in archives from Windows.
    """
    linked: list[str] = []
    found = list(_images_below(str(root), "", (os.path.realpath(root),), findings, linked))
    if unnamed := [place for place in found if _NOT_UTF8.search(place)]:
        raise InputError(
            f"the paths of {count_of(len(unnamed), 'image')} are not valid UTF-8, such as {unnamed[0]!a}; rename them, "
            "for names from Windows with: convmv -r -f cp1252 -t utf8 --notest FOLDER."
        )
    if linked:
        findings.remarks.append(f"followed links: {len(linked):,}, such as {linked[0]}")
    return found


def _images_below(
    folder: str, inside: str, parents: tuple[str, ...], findings: Findings, linked: list[str]
) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"folder {folder} of the source cannot be read: {error.strerror}. Check its permissions."
        ) from error
    is_empty = True
    for entry in entries:
        place, suffix = f"{inside}{entry.name}", os.path.splitext(entry.name)[1].lower()
        if is_hidden(entry.name):
            findings.leave_out("hidden files and folders", place)
            continue
        if "\\" in entry.name:
            raise InputError(
                f"{place!r} in {folder} is one name with backslashes: its archive comes from Windows and was unpacked "
                "by a program that does not convert them. Unpack it with another program, such as 7z."
            )
        # An entry knows what it is without a further call of the system, but the target of a link may not be there.
        is_link = entry.is_symlink()
        if os.path.isdir(entry.path) if is_link else entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in parents:
                findings.leave_out("links to a parent folder", place)
                continue
            images = _images_below(entry.path, f"{place}/", (*parents, real), findings, linked)
        elif suffix not in suffixes():
            findings.leave_out(f"files without an image suffix ({suffix or 'no suffix'})", place)
            continue
        elif not (os.path.isfile(entry.path) if is_link else entry.is_file()):
            findings.leave_out("broken links", place)
            continue
        else:
            images = iter((place,))
        if is_link:
            linked.append(place)
        for image in images:
            is_empty = False
            yield image
    if is_empty and inside:
        findings.leave_out("folders without images", inside.rstrip("/"))


def npz_files(source: Path) -> list[Path]:
    """``source`` itself, or the npz files directly in that folder; sorted."""
    if source.is_file():
        return [source]
    return sorted(path for path in source.glob("*") if path.suffix.lower() == ".npz" and not is_hidden(path.name))


def parquet_files(path: Path) -> list[str]:
    """Return the relative paths of all Parquet files below the folder ``path``, without hidden ones; sorted."""
    found = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() == ".parquet" and file.is_file())
    return sorted(str(file) for file in found if not any(map(is_hidden, file.parts)))


def shard_paths(path: Path, reading: Reading | None = None, findings: Findings | None = None) -> dict[str, list[Path]]:
    """Return the Parquet shards in ``path`` by split, ``{"train": […], "test": […]}``; empty if there are none.

    The split is detected from the file name, or else from the folders around it. If no split is detected, all files are
    train; otherwise files without one are left out. A single file is train unless its name denotes another split.

    Raises:
        InputError: one of the n shards of a split is missing, or the files are of several uploads or configurations.
    """
    reading, findings = reading or Reading(), findings or Findings()
    if path.is_file():
        if reading.splits:
            given = " ".join(f"{split}={place}" for split, place in reading.splits.items())
            raise InputError(
                f"splits are {given}, which name files in a folder, but {path} is one file. Leave --splits out, or "
                "give its folder as --source."
            )
        return {split_of(path.stem) or "train" if reading.splits is None else "train": [path]}
    files = parquet_files(path)
    by_split: dict[str, list[str]] = {}
    if reading.splits:
        for split, place in reading.splits.items():
            by_split[split] = [file for file in files if place in (".", file) or file.startswith(f"{place}/")]
            if not by_split[split]:
                raise InputError(
                    f"split {split!r} is {place!r}, but {path} has no Parquet file there. Name a file or folder in it."
                )
    else:
        for file in files:
            if reading.splits is None and (named := _split_of_file(file)):
                by_split.setdefault(named, []).append(file)
        if files and not by_split:
            by_split = {"train": files}
    taken = {file for found in by_split.values() for file in found}
    if left := [file for file in files if file not in taken]:
        findings.leave_out("Parquet files without the name of a split", left[0], len(left))
    if not reading.splits:
        _check_one_configuration(path, taken)
    for split, found in by_split.items():
        # A file that the user selects is used alone, even if its name is that of one shard of many.
        if found != [(reading.splits or {}).get(split)]:
            _check_one_upload(path, split, found)
        findings.splits[split] = found[0] if len(found) == 1 else f"{len(found)} files, from {found[0]} on"
    return {split: [path / file for file in found] for split, found in by_split.items()}


def _split_of_file(file: str) -> str | None:
    """Return the split in the name of the file, else in that of the nearest folder."""
    path = PurePosixPath(file)
    return next((split for name in (path.stem, *reversed(path.parts[:-1])) if (split := split_of(name))), None)


def _check_one_configuration(path: Path, files: set[str]) -> None:
    """Raise ``InputError`` if the files lie in different folders, apart from folders that name a split."""
    parents = [PurePosixPath(file).parts[:-1] for file in files]
    folders = sorted({"/".join(part for part in parts if not split_of(part)) for parts in parents})
    if len(folders) > 1:
        raise InputError(
            f"{path} has Parquet files of several uploads or configurations, in the folders "
            f"{some_of((folder or '.' for folder in folders), _NAMED)}. Give one of them as the source; "
            "`mdssl data prepare` can also select files, such as --splits train=FOLDER_OR_FILE."
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
            f"{path} has Parquet files of several uploads for {split}: {some_of(files, _NAMED)}. Keep one upload, or "
            f"give a file as the source (`mdssl data prepare`: --splits {split}=FILE)."
        )
    total = next(iter(uploads))[2]
    missing = sorted(set(range(total)) - set(numbers))
    if missing:
        raise InputError(
            f"{path} has {len(files)} of the {total} Parquet shards of {split}; number {missing[0]:05d} is missing. "
            f"Fetch the rest, or give a file as the source (`mdssl data prepare`: --splits {split}=FILE)."
        )
