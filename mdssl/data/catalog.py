"""Every dataset that goes by a name alone. A new one is one entry in ``CATALOG``.

Where torchvision knows a file's address and MD5 sum, they are taken from there, so that they stand in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mdssl.data.builtin import BUILTIN
from mdssl.data.source_raw import Read, read_cifar, read_dtd, read_eurosat, read_stl10, read_svhn


@dataclass(frozen=True)
class Remote:
    """A file to download: its address, the name to keep it under, and the MD5 sum (hex) of what should arrive."""

    url: str
    filename: str
    md5: str


@dataclass(frozen=True)
class Published:
    """The files of a dataset as its authors publish them.

    Attributes:
        needs: files and folders, relative to one root, that ``read`` opens.
        archives: the names of the files to download.
        remotes: gives those files with their addresses; a function, because importing torchvision takes seconds.
        read: root -> classes and parts.
    """

    needs: tuple[str, ...]
    archives: tuple[str, ...]
    remotes: Callable[[], tuple[Remote, ...]]
    read: Callable[[Path], Read]


@dataclass(frozen=True)
class CatalogEntry:
    """A dataset that ``mdssl data prepare NAME`` knows.

    Attributes:
        description: one line for lists and ``meta.json``.
        splits: where train and test come from, for lists.
        published: its files, or None for the built-in domains, which are drawn.
    """

    description: str
    splits: str
    published: Published | None = None


def _torchvision_archive(class_name: str, url: str, filename: str, md5: str) -> tuple[Remote, ...]:
    """One archive whose facts are attributes of a torchvision class; ``filename`` is our own."""
    import torchvision.datasets

    dataset = getattr(torchvision.datasets, class_name)
    return (Remote(getattr(dataset, url), filename, getattr(dataset, md5)),)


def _svhn_files() -> tuple[Remote, ...]:
    from torchvision.datasets import SVHN

    return tuple(Remote(*SVHN.split_list[split]) for split in ("train", "test"))


def _eurosat_archive() -> tuple[Remote, ...]:
    # torchvision has these only inside a function.
    commit = "c877bcd43f099cd0196738f714544e355477f3fd"
    url = f"https://huggingface.co/datasets/torchgeo/eurosat/resolve/{commit}/EuroSAT.zip"
    return (Remote(url, "EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387"),)


def _cifar(
    class_name: str, archive: str, folder: str, train: list[str], test: str, meta: str, labels: str, names: str
) -> Published:
    train_files, test_files = [f"{folder}/{file}" for file in train], [f"{folder}/{test}"]
    meta_file = f"{folder}/{meta}"
    return Published(
        needs=(*train_files, *test_files, meta_file),
        archives=(archive,),
        remotes=partial(_torchvision_archive, class_name, "url", archive, "tgz_md5"),
        read=partial(
            read_cifar, train=train_files, test=test_files, meta=meta_file, labels_key=labels, names_key=names
        ),
    )


CATALOG: dict[str, CatalogEntry] = {
    "cifar10": CatalogEntry(
        "CIFAR-10: 32x32 photos of 10 kinds of vehicles and animals",
        "official, 50,000 / 10,000",
        _cifar(
            "CIFAR10",
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            [f"data_batch_{k}" for k in range(1, 6)],
            "test_batch",
            "batches.meta",
            "labels",
            "label_names",
        ),
    ),
    "cifar100": CatalogEntry(
        "CIFAR-100: 32x32 photos of 100 kinds of things, fine labels",
        "official, 50,000 / 10,000",
        _cifar(
            "CIFAR100",
            "cifar-100-python.tar.gz",
            "cifar-100-python",
            ["train"],
            "test",
            "meta",
            "fine_labels",
            "fine_label_names",
        ),
    ),
    "svhn": CatalogEntry(
        "SVHN: house numbers from street photos, cropped to one digit",
        "official, 73,257 / 26,032",
        Published(
            needs=("train_32x32.mat", "test_32x32.mat"),
            archives=("train_32x32.mat", "test_32x32.mat"),
            remotes=_svhn_files,
            read=read_svhn,
        ),
    ),
    "stl10": CatalogEntry(
        "STL-10: 96x96 photos of 10 kinds of vehicles and animals, the labelled part",
        "official, 5,000 / 8,000",
        Published(
            needs=tuple(
                f"stl10_binary/{file}"
                for file in ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
            ),
            archives=("stl10_binary.tar.gz",),
            remotes=partial(_torchvision_archive, "STL10", "url", "stl10_binary.tar.gz", "tgz_md5"),
            read=read_stl10,
        ),
    ),
    "dtd": CatalogEntry(
        "DTD: photos of 47 kinds of textures",
        "official partition 1, train + val / test, 3,760 / 1,880",
        Published(
            needs=("dtd/images", "dtd/labels"),
            archives=("dtd-r1.0.1.tar.gz",),
            remotes=partial(_torchvision_archive, "DTD", "_URL", "dtd-r1.0.1.tar.gz", "_MD5"),
            read=read_dtd,
        ),
    ),
    "eurosat": CatalogEntry(
        "EuroSAT: 64x64 satellite images of 10 kinds of land use",
        "seeded stratified, 27,000 images in all",
        Published(needs=("2750",), archives=("EuroSAT.zip",), remotes=_eurosat_archive, read=read_eurosat),
    ),
    **{name: CatalogEntry(made.description, "drawn, 2,000 / 1,000") for name, made in BUILTIN.items()},
}


def description_of(name: str) -> str:
    """The catalogue's line on ``name``, or one that says that the images are the user's own."""
    return CATALOG[name].description if name in CATALOG else "your own images"
