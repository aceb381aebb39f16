"""Which kind of source a path is, and the source itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mdssl.data.builtin import BUILTIN, builtin_source
from mdssl.data.catalog import CATALOG
from mdssl.data.parts import Source
from mdssl.data.raw_files import check_complete, has_archives, owner_of_files, prepare_raw, raw_root, refuse_incomplete
from mdssl.data.source_folder import folder_source, subfolders
from mdssl.data.source_npz import npz_source
from mdssl.data.source_parquet import parquet_source, shard_paths
from mdssl.errors import InputError, check_name

KINDS = ("published", "folder", "parquet", "npz", "builtin")

# Beside the prepared datasets, but not one of them.
DOWNLOADS = "downloads"

LAYOUTS = (
    "a known dataset's files as they are published, Parquet shards like train-00000-of-00001.parquet, one .npz file, "
    "or class folders train/<class>/… and test/<class>/…, or <class>/…"
)


def detect_kind(name: str, source: Path | None) -> str:
    """The kind of ``source``, a file or folder, or of the dataset that goes by ``name`` alone where it is None.

    Raises:
        ValueError: the path does not exist or holds nothing that could be read; without a path, the name is unknown.
    """
    if source is None:
        mend = f"For your own images: mdssl data prepare {name} --source PATH, where PATH has {LAYOUTS}."
        check_name("dataset", name, CATALOG, mend)
        return "builtin" if name in BUILTIN else "published"
    if not source.exists():
        raise InputError(f"source {str(source)!r} does not exist. Give the path of {LAYOUTS}.")
    published = CATALOG[name].published if name in CATALOG else None
    if published and (raw_root(name, published, source) or has_archives(published, source)):
        return "published"
    if published:
        refuse_incomplete(name, published, source)
    if source.suffix == ".npz" or (source.is_dir() and len(list(source.glob("*.npz"))) == 1):
        return "npz"
    if source.suffix == ".parquet" or (source.is_dir() and shard_paths(source)):
        return "parquet"
    if source.is_dir() and subfolders(source):
        return "folder"
    raise InputError(f"source {str(source)!r} holds nothing that can be read. Expected is {LAYOUTS}.")


def open_source(
    name: str,
    *,
    data: Path,
    source: Path | None,
    kind: str,
    download: bool,
    progress: Callable[[int, int | None], None] | None = None,
) -> Source:
    """Open the dataset ``name`` as a source of ``kind``, without decoding an image.

    Args:
        name: the name it will be prepared under; for the kinds ``published`` and ``builtin`` also what is opened.
        data: the data folder, whose ``downloads/<owner_of_files(name)>`` keeps raw files.
        source: the file or folder to read, or None.
        kind: one of ``KINDS``.
        download: whether missing raw files may be fetched.
        progress: called with bytes so far and bytes in all while fetching.

    Raises:
        ValueError: see the readers; raw files are missing and may not or cannot be fetched, or hold other numbers of
            classes or images than those published.
    """
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
    if kind == "npz":
        file = next(source.glob("*.npz"), source) if source.is_dir() else source
        return replace(npz_source(file), origin=source.name)
    if source.is_file() and kind == "folder":
        raise InputError(f"source {str(source)!r} is a file; kind 'folder' reads a folder of class folders. Give one.")
    return {"parquet": parquet_source, "folder": folder_source}[kind](source)
