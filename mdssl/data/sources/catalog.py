"""The known datasets. A new one is an entry in ``catalog.toml`` and a reader in `mdssl.data.sources.open`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdssl.data.builtin import BUILTIN


@dataclass(frozen=True)
class Remote:
    """A file to download: its URL, its local name, and its MD5 sum in hex."""

    url: str
    filename: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """The files of a dataset as its authors publish them.

    Attributes:
        needs: files and folders, relative to one root, that the reader opens.
        classes: number of classes.
        counts: number of images of each part; other numbers are refused.
        remotes: the files to download; empty if an account is needed.
        by_hand: in that case, the files to add and where they come from.
        joins_validation: whether a validation split, from any source, belongs to the train split.
        contents: split -> `mdssl.data.arrays.Content` in hex of the dataset at 32x32, if known.
        train_per_class: number of training images of each class that are used, from any source; None for all.
        usual_folders: where the needed files often are, relative to the folder that a user names.
        files_of: the dataset that shares its downloads with this one, if any.
    """

    needs: tuple[str, ...]
    classes: int
    counts: Mapping[str, int]
    remotes: tuple[Remote, ...] = ()
    by_hand: str = ""
    joins_validation: bool = False
    contents: Mapping[str, str] = field(default_factory=dict)
    train_per_class: int | None = None
    usual_folders: tuple[str, ...] = ()
    files_of: str | None = None

    @property
    def archives(self) -> tuple[str, ...]:
        """The names of the files to download."""
        return tuple(remote.filename for remote in self.remotes)

    @property
    def prepared_counts(self) -> tuple[int, int]:
        """Labelled training images and test images of the prepared dataset; a fifth is test if there is no split."""
        train = self.classes * self.train_per_class if self.train_per_class else self.counts["train"]
        test = self.counts.get("test", self.counts.get("validation"))
        return (train, test) if test is not None else (train * 4 // 5, train // 5)


@dataclass(frozen=True)
class CatalogEntry:
    """A dataset that ``mdssl data prepare NAME`` prepares without a source.

    Attributes:
        description: one line for lists and ``meta.json``.
        splits: where train and test come from, for lists.
        published: its files; None for the built-in domains, which are generated.
    """

    description: str
    splits: str
    published: Published | None = None


def _read_catalog() -> dict[str, CatalogEntry]:
    entries = {}
    for name, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items():
        remotes = tuple(Remote(**remote) for remote in entry.pop("remotes", ()))
        lists: dict[str, Any] = {key: tuple(entry.pop(key)) for key in ("needs", "usual_folders") if key in entry}
        description, splits = entry.pop("description"), entry.pop("splits")
        entries[name] = CatalogEntry(description, splits, Published(remotes=remotes, **lists, **entry))
    return entries


CATALOG: dict[str, CatalogEntry] = _read_catalog() | {
    name: CatalogEntry(domain.description, "generated, 2,000 / 1,000") for name, domain in BUILTIN.items()
}


def seen_in(domains: Iterable[str]) -> set[str]:
    """Return the datasets whose training images are in ``domains``: STL-10 with unlabelled images includes STL-10."""
    published = map(published_as, domains)
    return {*domains, *(found.files_of for found in published if found and found.files_of)}


USUAL_SIZE = 32
"""Height and width in pixels of the catalog's datasets, as in the paper and most of the literature."""


def size_words(name: str, image_size: int) -> str:
    """Return the image size of a dataset of the catalog if it differs from the usual one, else empty."""
    return f"{image_size}×{image_size} pixels" if published_as(name) and image_size != USUAL_SIZE else ""


def variant_of(name: str, *, classes: int, train: int, test: int, unlabelled: int | None = None) -> str:
    """Return the difference between a dataset and the published one of its name; empty if there is none.

    Args:
        classes, train, test: of the prepared dataset, in which EuroSAT has a test split.
        unlabelled: images without a label; None if their number is not known.

    Returns:
        Words that follow the name, such as ``"4,434 of 73,257"`` (training images) or ``"10 of 47 classes"``. Empty for
        built-in domains and names that are not in the catalog.
    """
    published = published_as(name)
    if published is None:
        return ""
    published_train, published_test = published.prepared_counts
    for found, expected, what in (
        (classes, published.classes, " classes"),
        (train, published_train, ""),
        (test, published_test, " test images"),
        (unlabelled, published.counts.get("unlabelled", 0), " unlabelled images"),
    ):
        if found not in (expected, None):
            return f"{found:,} {'of' if found < expected else 'instead of'} {expected:,}{what}"
    return ""


def published_as(name: str) -> Published | None:
    """Return the published dataset ``name``; None for built-in domains and names that are not in the catalog."""
    return CATALOG[name].published if name in CATALOG else None


def description_of(name: str) -> str:
    """Return the catalog's description of ``name``; other names are the user's own images."""
    return CATALOG[name].description if name in CATALOG else "your own images"
