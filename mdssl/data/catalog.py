"""Every dataset that goes by a name alone. A new one is one entry in ``CATALOG``.

Where torchvision knows a file's address and MD5 sum, they are taken from there, so that they stand in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mdssl.data.builtin import BUILTIN
from mdssl.data.source_imagenet import read_imagenet, read_tiny_imagenet
from mdssl.data.source_raw import Read, read_chestxray, read_cifar, read_dtd, read_eurosat, read_stl10, read_svhn


@dataclass(frozen=True)
class Remote:
    """A file to download: its address, the name to keep it under, and the MD5 sum (hex) of what should arrive."""

    url: str
    filename: str
    md5: str


@dataclass(frozen=True, kw_only=True)
class Published:
    """The files of a dataset as its authors publish them.

    Attributes:
        needs: files and folders, relative to one root, that ``read`` opens.
        archives: the names of the files to download.
        remotes: gives those files with their addresses; a function, because importing torchvision takes seconds. None
            where nobody can fetch them without an account.
        by_hand: in that case, which files to put where, and where they come from.
        read: root -> classes and parts.
        classes: how many there are.
        counts: how many images the parts have; other numbers are refused, because they make another dataset.
        train_per_class: how many training images of each class make the dataset, from whatever source; None for all.
        usual_folders: where the needed files often stand, relative to the folder that a user names.
        files_of: the dataset whose downloads these files are among; None if they have their own.
    """

    needs: tuple[str, ...]
    archives: tuple[str, ...] = ()
    remotes: Callable[[], tuple[Remote, ...]] | None = None
    by_hand: str = ""
    read: Callable[[Path], Read]
    classes: int
    counts: dict[str, int]
    train_per_class: int | None = None
    usual_folders: tuple[str, ...] = ()
    files_of: str | None = None

    @property
    def prepared_counts(self) -> tuple[int, int]:
        """Labelled training images and test images once it is prepared, a fifth for test where there is no split."""
        train = self.classes * self.train_per_class if self.train_per_class else self.counts["train"]
        test = self.counts.get("test", self.counts.get("validation"))
        return (train, test) if test is not None else (train * 4 // 5, train // 5)


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


def _tiny_imagenet_archive() -> tuple[Remote, ...]:
    # Not in torchvision. The sum is the one that independent loaders agree on, e.g. Avalanche's.
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    return (Remote(url, "tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),)


def _cifar(
    class_name: str,
    classes: int,
    archive: str,
    folder: str,
    train: list[str],
    test: str,
    meta: str,
    labels: str,
    names: str,
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
        classes=classes,
        counts={"train": 50_000, "test": 10_000},
    )


def _stl10(unlabelled: bool) -> Published:
    files = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
    counts = {"train": 5_000, "test": 8_000}
    return Published(
        needs=tuple(f"stl10_binary/{file}" for file in (*files, *(["unlabeled_X.bin"] if unlabelled else []))),
        archives=("stl10_binary.tar.gz",),
        remotes=partial(_torchvision_archive, "STL10", "url", "stl10_binary.tar.gz", "tgz_md5"),
        read=partial(read_stl10, unlabelled=unlabelled),
        classes=10,
        counts=counts | ({"unlabelled": 100_000} if unlabelled else {}),
        files_of="stl10",
    )


CATALOG: dict[str, CatalogEntry] = {
    "cifar10": CatalogEntry(
        "CIFAR-10: 32x32 photos of 10 kinds of vehicles and animals",
        "official, 50,000 / 10,000",
        _cifar(
            "CIFAR10",
            10,
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
            100,
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
            classes=10,
            counts={"train": 73_257, "test": 26_032},
        ),
    ),
    "stl10": CatalogEntry(
        "STL-10: 96x96 photos of 10 kinds of vehicles and animals, the labelled part",
        "official, 5,000 / 8,000",
        _stl10(unlabelled=False),
    ),
    # A name of its own, so that a table of results shows which of the two an encoder was trained on.
    "stl10-unlabelled": CatalogEntry(
        "STL-10 with its 100,000 unlabelled images, which pretraining sees and probes do not",
        "official, 5,000 + 100,000 unlabelled / 8,000",
        _stl10(unlabelled=True),
    ),
    "dtd": CatalogEntry(
        "DTD: photos of 47 kinds of textures",
        "official partition 1, train + val / test, 3,760 / 1,880",
        Published(
            needs=("dtd/images", "dtd/labels"),
            archives=("dtd-r1.0.1.tar.gz",),
            remotes=partial(_torchvision_archive, "DTD", "_URL", "dtd-r1.0.1.tar.gz", "_MD5"),
            read=read_dtd,
            classes=47,
            counts={"train": 3_760, "test": 1_880},
        ),
    ),
    "eurosat": CatalogEntry(
        "EuroSAT: 64x64 satellite images of 10 kinds of land use",
        "seeded stratified, 27,000 images in all",
        Published(
            needs=("2750",),
            archives=("EuroSAT.zip",),
            remotes=_eurosat_archive,
            read=read_eurosat,
            classes=10,
            counts={"train": 27_000},
        ),
    ),
    "tiny-imagenet": CatalogEntry(
        "Tiny ImageNet: 64x64 photos of 200 of ImageNet's classes",
        "official, validation as test, 100,000 / 10,000",
        Published(
            needs=tuple(f"tiny-imagenet-200/{part}" for part in ("train", "val", "wnids.txt", "words.txt")),
            archives=("tiny-imagenet-200.zip",),
            remotes=_tiny_imagenet_archive,
            read=read_tiny_imagenet,
            classes=200,
            counts={"train": 100_000, "validation": 10_000},
        ),
    ),
    "imagenet250k": CatalogEntry(
        "ImageNet: photos of 1,000 kinds of things, 250 training images of each",
        "seeded, 250 a class / official validation as test, 250,000 / 50,000",
        Published(
            needs=("train", "val"),
            by_hand=(
                "ImageNet (ILSVRC 2012, from https://image-net.org or Kaggle, with an account) as "
                "train/<WordNet ID>/*.JPEG and val/<WordNet ID>/*.JPEG, or val/*.JPEG with LOC_val_solution.csv or the "
                "unpacked ILSVRC2012_devkit_t12 beside it"
            ),
            read=read_imagenet,
            classes=1_000,
            # Of its training images 250 of each class are enough.
            counts={"validation": 50_000},
            train_per_class=250,
            usual_folders=("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC2012", "imagenet", "ImageNet"),
        ),
    ),
    "chestxray": CatalogEntry(
        "Chest X-rays of children, greyscale: NORMAL or PNEUMONIA",
        "official, its 16 val images left out, 5,216 / 624",
        Published(
            needs=tuple(f"chest_xray/{s}/{label}" for s in ("train", "test") for label in ("NORMAL", "PNEUMONIA")),
            by_hand=(
                "chest_xray/train, chest_xray/val and chest_xray/test, each with NORMAL/*.jpeg and PNEUMONIA/*.jpeg, "
                "from Kaggle's paultimothymooney/chest-xray-pneumonia, with an account (Mendeley's copy has the val "
                "images among 5,232 training images)"
            ),
            read=read_chestxray,
            classes=2,
            counts={"train": 5_216, "test": 624},
        ),
    ),
    **{name: CatalogEntry(made.description, "drawn, 2,000 / 1,000") for name, made in BUILTIN.items()},
}


def seen_in(domains: Iterable[str]) -> set[str]:
    """The datasets whose training images an encoder trained on ``domains`` has seen.

    STL-10 with its unlabelled images holds those of STL-10 without them.
    """
    published = {name: CATALOG[name].published for name in domains if name in CATALOG}
    return {*domains, *(found.files_of for found in published.values() if found and found.files_of)}


USUAL_SIZE = 32
"""Pixels, height and width, of the images of the catalogue's datasets, as the paper and most of the field have them."""


def size_words(name: str, image_size: int) -> str:
    """What sets a dataset of the catalogue apart that is prepared in another size than the usual; mostly empty."""
    other = name in CATALOG and CATALOG[name].published is not None and image_size != USUAL_SIZE
    return f"{image_size}×{image_size} pixels" if other else ""


def variant_of(name: str, *, classes: int, train: int, test: int) -> str:
    """What sets a dataset that bears the catalogue's ``name`` apart from the published one; empty if nothing does.

    Args:
        classes, train, test: of the dataset as it is prepared, in which EuroSAT has a test split.

    Returns:
        Words that follow the name, such as ``"4,434 of 73,257"`` (training images) or ``"10 of 47 classes"``. Empty for
        a name that the catalogue does not have, or has drawn.
    """
    published = CATALOG[name].published if name in CATALOG else None
    if published is None:
        return ""
    whole_train, whole_test = published.prepared_counts
    for found, whole, what in (
        (classes, published.classes, " classes"),
        (train, whole_train, ""),
        (test, whole_test, " test images"),
    ):
        if found != whole:
            return f"{found:,} {'of' if found < whole else 'instead of'} {whole:,}{what}"
    return ""


def train_per_class(name: str) -> int | None:
    """How many training images of each class the dataset ``name`` takes; None where it takes all."""
    published = CATALOG[name].published if name in CATALOG else None
    return published.train_per_class if published else None


def description_of(name: str) -> str:
    """The catalogue's line on ``name``, or one that says that the images are the user's own."""
    return CATALOG[name].description if name in CATALOG else "your own images"
