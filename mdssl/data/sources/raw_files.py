"""The files of the catalogue's datasets as they are published: found, unpacked, fetched, and seen to be complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mdssl.data.sources import download as downloads
from mdssl.data.sources.archives import unpack
from mdssl.data.sources.base import Source
from mdssl.data.sources.catalog import Published, published_as
from mdssl.errors import InputError


def owner_of_files(name: str) -> str:
    """The dataset in whose folder of downloads the files of ``name`` are kept: mostly itself."""
    published = published_as(name)
    return published.files_of or name if published else name


def prepare_raw(
    name: str,
    published: Published,
    store: Path,
    source: Path | None,
    download: bool,
    progress: Callable[[int, int | None], None] | None,
) -> Path:
    """The folder in which all of ``published.needs`` stand; what is missing is unpacked or fetched into ``store``."""
    place = source or store
    root = raw_root(name, published, place) or raw_root(name, published, store)
    if root:
        return root
    if not has_archives(published, place):
        if not download or not published.remotes:
            raise _missing(name, published, store)
        store.mkdir(parents=True, exist_ok=True)
        for remote in published.remotes:
            if not (store / remote.filename).exists():
                downloads.download(remote.url, store / remote.filename, remote.md5, progress=progress)
        place = store
    for archive in published.archives:
        # What is used as it is published, such as SVHN's .mat files, needs no unpacking.
        if archive not in published.needs:
            unpack((place if place.is_dir() else place.parent) / archive, store, published.needs)
    root = raw_root(name, published, store)
    if root is None:
        raise InputError(
            f"{', '.join(published.archives)} for {name!r} lacks some of {', '.join(published.needs)}. Remove it and "
            "fetch it again (--download)."
        )
    return root


def raw_root(name: str, published: Published, place: Path) -> Path | None:
    """Where all the needed files stand; None where that is nowhere in or right around ``place``."""
    roots = _possible_roots(name, published, place)
    return next((root for root in roots if all((root / needed).exists() for needed in published.needs)), None)


def refuse_incomplete(name: str, published: Published, place: Path) -> None:
    """Raise ``ValueError`` if some needed files are there: what is left of them is no folder of the user's own."""
    for root in _possible_roots(name, published, place):
        missing = [needed for needed in published.needs if not (root / needed).exists()]
        if len(missing) < len(published.needs):
            raise InputError(
                f"the raw files of {name!r} in {root} lack {', '.join(missing)}. {_how_to_get(published)}."
            )


def check_complete(name: str, published: Published, opened: Source) -> None:
    """Raise ``ValueError`` if ``opened`` has other numbers of classes or images than are published."""
    if len(opened.classes) != published.classes:
        raise _other_number(name, published, f"{len(opened.classes):,} classes", published.classes)
    for split, count in published.counts.items():
        found = len(opened.parts[split].labels)
        if found != count:
            raise _other_number(name, published, f"{found:,} {split} images", count)


def has_archives(published: Published, place: Path) -> bool:
    """Whether ``place`` is a folder with all of the archives, or one of them with the others beside it."""
    folder = place if place.is_dir() else place.parent
    named = place.is_dir() or place.name in published.archives
    return bool(published.archives) and named and all((folder / archive).is_file() for archive in published.archives)


def _possible_roots(name: str, published: Published, place: Path) -> list[Path]:
    """Here, one level up, where torchvision's DTD and EuroSAT put the files, or where others usually do."""
    roots = [place, place / name, *(place / usual for usual in published.usual_folders)]
    # Only if the path itself is among what is needed: what else lies beside it is not what was asked for.
    if place.name in {PurePosixPath(needed).parts[0] for needed in published.needs}:
        roots.append(place.parent)
    return roots


def _other_number(name: str, published: Published, found: str, count: int) -> InputError:
    return InputError(
        f"the raw files of {name!r} hold {found}, where {count:,} are published: some are missing, or they are of "
        f"another version. {_how_to_get(published)}. Images of your own can be prepared under another name."
    )


def _missing(name: str, published: Published, store: Path) -> InputError:
    if not published.remotes:
        fetching = f"They cannot be downloaded from here. {_how_to_get(published)}"
    else:
        fetching = (
            "Add --download to fetch them, or, on a machine without a network, put there by hand: "
            f"{_remote_files(published)}"
        )
    return InputError(
        f"the raw files of {name!r} are not in {store}. {fetching}. Files that lie elsewhere are found with "
        "--source PATH."
    )


def _how_to_get(published: Published) -> str:
    if not published.remotes:
        return f"Put there: {published.by_hand}"
    return f"Put there what is in: {_remote_files(published)}"


def _remote_files(published: Published) -> str:
    return "; ".join(f"{remote.filename} (from {remote.url}, MD5 {remote.md5})" for remote in published.remotes)
