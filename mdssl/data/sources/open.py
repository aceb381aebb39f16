"""Which kind of source a path is, and the source itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from mdssl.data.builtin import BUILTIN, builtin_source
from mdssl.data.sources.base import Findings, Reading, Source
from mdssl.data.sources.catalog import CATALOG, published_as
from mdssl.data.sources.folder import folder_source
from mdssl.data.sources.npz import npz_source
from mdssl.data.sources.parquet import parquet_source
from mdssl.data.sources.raw_files import (
    check_complete,
    has_archives,
    owner_of_files,
    prepare_raw,
    raw_root,
    refuse_incomplete,
)
from mdssl.data.sources.scan import is_hidden, scan
from mdssl.data.sources.shards import parquet_files, shard_paths
from mdssl.errors import InputError, check_name

KINDS = ("published", "folder", "parquet", "npz", "builtin")

# Beside the prepared datasets, but not one of them.
DOWNLOADS = "downloads"

LAYOUTS = (
    "a known dataset's files as they are published, Parquet shards like train-00000-of-00001.parquet, one .npz file, "
    "class folders train/<class>/… and test/<class>/…, or <class>/…; or images without labels, in one folder"
)


def detect_kind(name: str, source: Path | None) -> str:
    """The kind of ``source``, a file or folder, or of the dataset that goes by ``name`` alone where it is None.

    Raises:
        ValueError: the path does not exist or holds nothing that could be read; without a path, the name is unknown.
    """
    if source is None:
        hint = f"For your own images: mdssl data prepare {name} --source PATH, where PATH has {LAYOUTS}."
        check_name("dataset", name, CATALOG, hint)
        return "builtin" if name in BUILTIN else "published"
    if not source.exists():
        raise InputError(f"source {str(source)!r} does not exist. Give the path of {LAYOUTS}.")
    published = published_as(name)
    if published and (raw_root(name, published, source) or has_archives(published, source)):
        return "published"
    if published:
        refuse_incomplete(name, published, source)
    if source.is_file():
        return {".npz": "npz", ".parquet": "parquet"}.get(source.suffix) or _refuse(source)
    found = {
        "parquet": len(parquet_files(source)),
        "npz": len(_npz_files(source)),
        "folder": len(scan(source, Findings())),
    }
    kinds = [kind for kind, count in found.items() if count]
    if len(kinds) > 1:
        words = {"parquet": "Parquet", "npz": "npz", "folder": "image"}
        listed = ", ".join(f"{found[kind]:,} {words[kind]} file{'s'[: found[kind] - 1]}" for kind in kinds)
        raise InputError(
            f"source {str(source)!r} can be read in {len(kinds)} ways: it has {listed}. Decide with --kind "
            f"{' or --kind '.join(kinds)}."
        )
    return kinds[0] if kinds else _refuse(source)


def source_state(source: Path, kind: str, reading: Reading) -> str:
    """What changes when files of ``source`` are added, removed or written anew: their number, and a digest.

    The digest is over their names, sizes and times of writing. Empty for a kind of which only certain files are read.
    """
    if kind == "folder":
        files = [source / file for file in scan(source, Findings())]
    elif kind == "parquet":
        files = [file for found in shard_paths(source, reading).values() for file in found]
    elif kind == "npz":
        files = _npz_files(source) if source.is_dir() else [source]
    else:
        return ""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(f"{file.relative_to(source.parent)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return f"{len(files):,} files {digest.hexdigest()[:16]}"


def _npz_files(source: Path) -> list[Path]:
    return sorted(path for path in source.glob("*.npz") if not is_hidden(path.name))


def _refuse(source: Path) -> NoReturn:
    findings = Findings()
    if source.is_dir():
        scan(source, findings)
    seen = "; ".join(f"{reason}: {left['count']:,}" for reason, left in findings.left_out.items())
    raise InputError(
        f"source {str(source)!r} holds nothing that can be read{f' ({seen})' if seen else ''}. Expected is {LAYOUTS}. "
        "Unpack archives first."
    )


def open_source(
    name: str,
    *,
    data: Path,
    source: Path | None,
    kind: str,
    download: bool,
    progress: Callable[[int, int | None], None] | None = None,
    reading: Reading | None = None,
) -> Source:
    """Open the dataset ``name`` as a source of ``kind``, without decoding an image.

    Args:
        name: the name it will be prepared under; for the kinds ``published`` and ``builtin`` also what is opened.
        data: the data folder, whose ``downloads/<owner_of_files(name)>`` keeps raw files.
        source: the file or folder to read, or None.
        kind: one of ``KINDS``.
        download: whether missing raw files may be fetched.
        progress: called with bytes so far and bytes in all while fetching.
        reading: how to read a source that is no published one.

    Raises:
        ValueError: see the readers; raw files are missing and may not or cannot be fetched, or hold other numbers of
            classes or images than those published.
    """
    if kind in ("builtin", "published") and reading not in (None, Reading()):
        raise InputError(
            f"{name!r} is read as it is published; leave out --splits, --classes and --label-column, or prepare it "
            "under a name of your own."
        )
    if kind == "builtin":
        check_name("built-in domain", name, BUILTIN)
        if source is not None:
            raise InputError(f"built-in domain {name!r} is drawn, not read; leave out source {str(source)!r}.")
        return builtin_source(name)
    if kind == "published":
        known = [known for known, entry in CATALOG.items() if entry.published]
        check_name("published dataset", name, known)
        published = CATALOG[name].published
        root = prepare_raw(name, published, data / DOWNLOADS / owner_of_files(name), source, download, progress)
        classes, parts = published.read(root)
        opened = Source(kind, f"raw files of {name}", classes, parts)
        check_complete(name, published, opened)
        return opened
    if source is None:
        raise InputError(f"kind {kind!r} needs a path to read {name!r} from. Give one with --source PATH.")
    if not source.is_dir() and not source.is_file():
        raise InputError(f"source {str(source)!r} does not exist. Give the path of {LAYOUTS}.")
    if kind == "npz":
        files = _npz_files(source) if source.is_dir() else [source]
        if len(files) != 1:
            raise InputError(
                f"source {str(source)!r} has {len(files)} npz files. Give the path of one of them with --source."
            )
        return replace(npz_source(files[0], reading), origin=source.name)
    if source.is_file() and kind == "folder":
        raise InputError(f"source {str(source)!r} is a file; kind 'folder' reads a folder of images. Give one.")
    return {"parquet": parquet_source, "folder": folder_source}[kind](source, reading)
