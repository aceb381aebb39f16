"""Detect the kind of a source and open it; find, fetch and check the files of a known dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from mdssl.data.builtin import BUILTIN, builtin_source
from mdssl.data.sources import download as downloads
from mdssl.data.sources import raw
from mdssl.data.sources.base import Findings, Reading, Source, count_of
from mdssl.data.sources.catalog import CATALOG, Published, published_as
from mdssl.data.sources.files import npz_files, parquet_files, scan, shard_paths
from mdssl.data.sources.folder import folder_source
from mdssl.data.sources.imagenet import read_imagenet, read_tiny_imagenet
from mdssl.data.sources.npz import npz_source
from mdssl.data.sources.parquet import parquet_source
from mdssl.errors import InputError, check_name

KINDS = ("published", "folder", "parquet", "npz", "builtin")

DOWNLOADS = "downloads"
"""A folder beside the prepared datasets, with a folder of raw files for each known dataset."""

LAYOUTS = (
    "a known dataset's files as they are published, Parquet shards like train-00000-of-00001.parquet, one .npz file, "
    "class folders train/<class>/… and test/<class>/…, or <class>/…; or images without labels, in one folder"
)

READERS: dict[str, Callable[[Path], raw.Read]] = {
    "cifar10": raw.read_cifar10,
    "cifar100": raw.read_cifar100,
    "svhn": raw.read_svhn,
    "stl10": raw.read_stl10,
    "stl10-unlabelled": partial(raw.read_stl10, unlabelled=True),
    "dtd": raw.read_dtd,
    "eurosat": raw.read_eurosat,
    "tiny-imagenet": read_tiny_imagenet,
    "imagenet250k": read_imagenet,
    "chestxray": raw.read_chestxray,
}
"""Root folder -> class names and parts, for each published dataset of the catalog."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
Progress = Callable[[int, int | None], None]


def detect_kind(name: str, source: Path | None) -> str:
    """Return the kind of ``source``, a file or folder; without a path, that of the known dataset ``name``.

    Raises:
        InputError: the path does not exist or has no readable files; without a path, the name is unknown.
    """
    if source is None:
        hint = f"For your own images: mdssl data prepare {name} --source PATH, where PATH has {LAYOUTS}."
        check_name("dataset", name, CATALOG, hint)
        return "builtin" if name in BUILTIN else "published"
    _check_exists(source)
    if published := published_as(name):
        if _root(name, published, source) or _has_archives(published, source):
            return "published"
        _refuse_incomplete(name, published, source)
    if source.is_file():
        kind = {".npz": "npz", ".parquet": "parquet"}.get(source.suffix.lower())
        if kind is None:
            raise _nothing_to_read(source)
        return kind
    found = {
        "parquet": len(parquet_files(source)),
        "npz": len(npz_files(source)),
        "folder": len(scan(source, Findings())),
    }
    kinds = [kind for kind, count in found.items() if count]
    if len(kinds) > 1:
        words = {"parquet": "Parquet file", "npz": "npz file", "folder": "image file"}
        raise InputError(
            f"source {str(source)!r} can be read in {len(kinds)} ways: it has "
            f"{', '.join(count_of(found[kind], words[kind]) for kind in kinds)}. Decide with --kind "
            f"{' or --kind '.join(kinds)}."
        )
    if not kinds:
        raise _nothing_to_read(source)
    return kinds[0]


def source_state(source: Path, kind: str, reading: Reading) -> str:
    """Return the number of files in ``source`` and a digest over their names, sizes and times of writing.

    Empty for kinds that only read certain files.
    """
    if kind == "folder":
        files = [source / file for file in scan(source, Findings())]
    elif kind == "parquet":
        files = [file for found in shard_paths(source, reading).values() for file in found]
    elif kind == "npz":
        files = npz_files(source)
    else:
        return ""
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(os.fsencode(f"{file.relative_to(source.parent)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return f"{len(files):,} files {digest.hexdigest()[:16]}"


def open_source(
    name: str,
    *,
    data: Path,
    source: Path | None,
    kind: str,
    download: bool,
    progress: Progress | None = None,
    reading: Reading | None = None,
) -> Source:
    """Open the dataset ``name`` as a source of ``kind``, without decoding an image.

    Raw files of a published dataset are in ``source`` or in ``<data>/downloads/<owner_of_files(name)>``. With
    ``download``, missing ones are fetched, and ``progress`` is called with the bytes so far and in total.

    Raises:
        InputError: see the readers; or raw files are missing and cannot be fetched, or have other numbers of classes or
            images than those published.
    """
    if kind in ("builtin", "published") and reading not in (None, Reading()):
        raise InputError(
            f"{name!r} has fixed splits and classes; leave out --splits, --classes and --label-column, or prepare "
            "it under another name."
        )
    if kind == "builtin":
        check_name("built-in domain", name, BUILTIN)
        if source is not None:
            raise InputError(f"built-in domain {name!r} is generated; leave out source {str(source)!r}.")
        return builtin_source(name)
    if kind == "published":
        check_name("published dataset", name, READERS)
        published = CATALOG[name].published
        assert published is not None
        root = _fetch_files(name, published, data / DOWNLOADS / owner_of_files(name), source, download, progress)
        opened = Source(kind, f"raw files of {name}", *READERS[name](root))
        check_complete(name, published, opened)
        return opened
    if source is None:
        raise InputError(f"kind {kind!r} needs a path to read {name!r} from. Give one with --source PATH.")
    _check_exists(source)
    if source.is_file() and kind == "folder":
        raise InputError(f"source {str(source)!r} is a file; kind 'folder' reads a folder of images. Give one.")
    # First: a file that arrives from now on makes the source another one.
    state = source_state(source, kind, reading or Reading())
    if kind == "npz":
        files = npz_files(source)
        if len(files) != 1:
            raise InputError(
                f"source {str(source)!r} has {count_of(len(files), 'npz file')}. Give the path of one with --source."
            )
        return replace(npz_source(files[0], reading), origin=source.name, state=state)
    return replace((parquet_source if kind == "parquet" else folder_source)(source, reading), state=state)


def _check_exists(source: Path) -> None:
    if not source.exists():
        raise InputError(f"source {str(source)!r} does not exist. Give the path of {LAYOUTS}.")


def _nothing_to_read(source: Path) -> InputError:
    findings = Findings()
    if source.is_dir():
        scan(source, findings)
        suffixes = {file.suffix.lower() for file in source.rglob("*")}
    else:
        suffixes = {source.suffix.lower()}
    left = findings.left_out_in_words()
    hint = ""
    if suffixes & {".dcm", ".dicom"}:
        hint = " DICOM files are not supported: convert them first, for example with pydicom, to PNG of 8 or 16 bits."
    elif suffixes & set(_ARCHIVES):
        hint = " Archives are not supported: unpack them first, and give the folder."
    return InputError(
        f"source {str(source)!r} has no readable files{f' ({left})' if left else ''}.{hint} Expected: {LAYOUTS}."
    )


def owner_of_files(name: str) -> str:
    """Return the dataset whose download folder has the raw files of ``name``: usually ``name``."""
    published = published_as(name)
    return published.files_of or name if published else name


def _fetch_files(
    name: str, published: Published, store: Path, source: Path | None, download: bool, progress: Progress | None
) -> Path:
    """Return the folder with all of ``published.needs``. Missing files are unpacked or downloaded into ``store``."""
    place = source or store
    root = _root(name, published, place) or _root(name, published, store)
    if root:
        return root
    if not _has_archives(published, place):
        if not download or not published.remotes:
            raise _missing(name, published, store, source)
        store.mkdir(parents=True, exist_ok=True)
        for remote in published.remotes:
            if not (store / remote.filename).exists():
                downloads.download(remote.url, store / remote.filename, remote.md5, progress=progress)
        place = store
    for archive in published.archives:
        # Files that are used as they are published, such as SVHN's .mat files, need no unpacking.
        if archive not in published.needs:
            downloads.unpack((place if place.is_dir() else place.parent) / archive, store, published.needs)
    root = _root(name, published, store)
    if root is None:
        raise InputError(
            f"{', '.join(published.archives)} for {name!r} lacks some of {', '.join(published.needs)}. Remove it and "
            "fetch it again (--download)."
        )
    return root


def _root(name: str, published: Published, place: Path) -> Path | None:
    """Return the folder in or around ``place`` with all the needed files, if there is one."""
    roots = _possible_roots(name, published, place)
    return next((root for root in roots if all((root / needed).exists() for needed in published.needs)), None)


def _possible_roots(name: str, published: Published, place: Path) -> list[Path]:
    """Return the folders in or around ``place`` that may contain the needed files."""
    roots = [place, place / name, *(place / usual for usual in published.usual_folders)]
    # Other files beside ``place`` are used only if ``place`` is a needed file.
    if place.name in {PurePosixPath(needed).parts[0] for needed in published.needs}:
        roots.append(place.parent)
    return roots


def _has_archives(published: Published, place: Path) -> bool:
    """Whether ``place`` is a folder with all of the archives, or one of them with the others beside it."""
    folder = place if place.is_dir() else place.parent
    named = place.is_dir() or place.name in published.archives
    return bool(published.archives) and named and all((folder / archive).is_file() for archive in published.archives)


def _refuse_incomplete(name: str, published: Published, place: Path) -> None:
    """Raise ``InputError`` if only some of the needed files exist."""
    for root in _possible_roots(name, published, place):
        missing = [needed for needed in published.needs if not (root / needed).exists()]
        if len(missing) < len(published.needs):
            raise InputError(
                f"the raw files of {name!r} in {root} lack {', '.join(missing)}. Add {_how_to_get(published)}."
            )


def check_complete(name: str, published: Published, opened: Source) -> None:
    """Raise ``InputError`` if ``opened`` has other numbers of classes or images than are published."""
    found = {"class": len(opened.classes)} | {f"{split} image": len(part) for split, part in opened.parts.items()}
    expected = {"class": published.classes} | {f"{split} image": n for split, n in published.counts.items()}
    for what, count in expected.items():
        if (have := found.get(what, 0)) != count:
            raise InputError(
                f"the raw files of {name!r} hold {count_of(have, what)}, where {count:,} are published: some "
                f"are missing, or they are of another version. Add {_how_to_get(published)}. Prepare your own images "
                "under another name."
            )


def _missing(name: str, published: Published, store: Path, source: Path | None) -> InputError:
    way = "Fetch them with --download, or" if published.remotes else "They cannot be downloaded automatically:"
    hint = "" if source else " If they are in another folder, give --source PATH."
    return InputError(
        f"the raw files of {name!r} are not in {source or store}. {way} add {_how_to_get(published)}.{hint}"
    )


def _how_to_get(published: Published) -> str:
    if not published.remotes:
        return published.by_hand
    files = (f"{remote.filename} (from {remote.url}, MD5 {remote.md5})" for remote in published.remotes)
    return f"the content of {'; '.join(files)}"
