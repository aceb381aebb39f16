"""Which kind of source a path is, and the source itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mdssl.data import download as downloads
from mdssl.data.archives import unpack
from mdssl.data.builtin import BUILTIN, builtin_source
from mdssl.data.catalog import CATALOG, Published
from mdssl.data.parts import Source
from mdssl.data.source_folder import folder_source, subfolders
from mdssl.data.source_npz import npz_source
from mdssl.data.source_parquet import parquet_source, shard_paths
from mdssl.errors import InputError, check_name

KINDS = ("torchvision", "folder", "parquet", "npz", "builtin")

# Beside the prepared datasets, but not one of them.
DOWNLOADS = "downloads"

LAYOUTS = (
    "the files that torchvision downloads, Parquet shards like train-00000-of-00001.parquet, one .npz file, or class "
    "folders train/<class>/… and test/<class>/…, or <class>/…"
)


def detect_kind(name: str, source: Path | None) -> str:
    """The kind of ``source``, a file or folder, or of the dataset that goes by ``name`` alone where it is None.

    Raises:
        ValueError: the path does not exist or holds nothing that could be read; without a path, the name is unknown.
    """
    if source is None:
        mend = f"For your own images: mdssl data prepare {name} --source PATH, where PATH has {LAYOUTS}."
        check_name("dataset", name, CATALOG, mend)
        return "builtin" if name in BUILTIN else "torchvision"
    if not source.exists():
        raise InputError(f"source {str(source)!r} does not exist. Give the path of {LAYOUTS}.")
    published = CATALOG[name].published if name in CATALOG else None
    if published and (_raw_root(name, published, source) or _has_archives(published, source)):
        return "torchvision"
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
        name: the name it will be prepared under; for the kinds ``torchvision`` and ``builtin`` also what is opened.
        data: the data folder, whose ``downloads/<name>`` keeps raw files.
        source: the file or folder to read, or None.
        kind: one of ``KINDS``.
        download: whether missing raw files may be fetched.
        progress: called with bytes so far and bytes in all while fetching.

    Raises:
        ValueError: see the readers; raw files are missing and may not or cannot be fetched.
    """
    if kind == "builtin":
        check_name("built-in domain", name, BUILTIN)
        if source is not None:
            raise InputError(f"built-in domain {name!r} is drawn, not read; leave out source {str(source)!r}.")
        return builtin_source(name)
    if kind == "torchvision":
        known = [known for known, entry in CATALOG.items() if entry.published]
        check_name("torchvision dataset", name, known)
        published = CATALOG[name].published
        root = _prepare_raw(name, published, data / DOWNLOADS / name, source, download, progress)
        classes, parts = published.read(root)
        return Source(kind, f"raw files of {name}", classes, parts)
    if source is None:
        raise InputError(f"kind {kind!r} needs a path to read {name!r} from. Give one with --source PATH.")
    if kind == "npz":
        file = next(source.glob("*.npz"), source) if source.is_dir() else source
        return replace(npz_source(file), origin=source.name)
    if source.is_file() and kind == "folder":
        raise InputError(f"source {str(source)!r} is a file; kind 'folder' reads a folder of class folders. Give one.")
    return {"parquet": parquet_source, "folder": folder_source}[kind](source)


def _prepare_raw(
    name: str,
    published: Published,
    store: Path,
    source: Path | None,
    download: bool,
    progress: Callable[[int, int | None], None] | None,
) -> Path:
    """The folder in which all of ``published.needs`` stand; what is missing is unpacked or fetched into ``store``."""
    place = source or store
    root = _raw_root(name, published, place) or _raw_root(name, published, store)
    if root:
        return root
    if not _has_archives(published, place):
        if not download:
            raise _missing(name, published, store)
        store.mkdir(parents=True, exist_ok=True)
        for remote in published.remotes():
            if not (store / remote.filename).exists():
                downloads.download(remote.url, store / remote.filename, remote.md5, progress=progress)
        place = store
    for archive in published.archives:
        # What is used as it is published, such as SVHN's .mat files, needs no unpacking.
        if archive not in published.needs:
            unpack((place if place.is_dir() else place.parent) / archive, store, published.needs)
    root = _raw_root(name, published, store)
    if root is None:
        raise InputError(
            f"{', '.join(published.archives)} for {name!r} lacks some of {', '.join(published.needs)}. Remove it and "
            "fetch it again (--download)."
        )
    return root


def _raw_root(name: str, published: Published, place: Path) -> Path | None:
    """Where the needed files stand: here, one level up, or where torchvision's DTD and EuroSAT put them."""
    roots = [place, place / name]
    # Only if the path itself is among what is needed: what else lies beside it is not what was asked for.
    if place.name in {PurePosixPath(needed).parts[0] for needed in published.needs}:
        roots.append(place.parent)
    return next((root for root in roots if all((root / needed).exists() for needed in published.needs)), None)


def _has_archives(published: Published, place: Path) -> bool:
    folder = place if place.is_dir() else place.parent
    named = place.is_dir() or place.name in published.archives
    return named and all((folder / archive).is_file() for archive in published.archives)


def _missing(name: str, published: Published, store: Path) -> InputError:
    files = "; ".join(f"{remote.filename} (from {remote.url}, MD5 {remote.md5})" for remote in published.remotes())
    return InputError(
        f"the raw files of {name!r} are not in {store}. Add --download to fetch them, or, on a machine without a "
        f"network, put there by hand: {files}. Files that lie elsewhere are found with --source PATH."
    )
