"""Every dataset that goes by a name alone. A new one is one entry in ``CATALOG``.

Addresses and MD5 sums are those of torchvision where it has them, which a test compares: to import it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mdssl.data.builtin import BUILTIN
from mdssl.data.sources.imagenet import read_imagenet, read_tiny_imagenet
from mdssl.data.sources.raw import Read, read_chestxray, read_cifar, read_dtd, read_eurosat, read_stl10, read_svhn


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
        remotes: those files with their addresses; empty where nobody can fetch them without an account.
        by_hand: in that case, which files to put where, and where they come from.
        read: root -> classes and parts.
        classes: how many there are.
        counts: how many images the parts have; other numbers are refused, because they make another dataset.
        joins_validation: whether a validation split, from whatever source, belongs to the train split.
        contents: by split, `mdssl.data.sources.arrays.Content` in hex of the dataset at 32x32, where known.
        train_per_class: how many training images of each class make the dataset, from whatever source; None for all.
        usual_folders: where the needed files often stand, relative to the folder that a user names.
        files_of: the dataset whose downloads these files are among; None if they have their own.
    """

    needs: tuple[str, ...]
    archives: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()
    by_hand: str = ""
    read: Callable[[Path], Read]
    classes: int
    counts: dict[str, int]
    joins_validation: bool = False
    contents: Mapping[str, str] = field(default_factory=dict)
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


_CONTENTS = {
    "cifar10": {
        "train": "ab38fe1c1699a2415da621a9ab962636282c7b06a6f497a39538e0fab14a1da4",
        "test": "f5197b78b1b3850c3d66c4c640631997324a7cd5e58ee1476e56efc1b9939d82",
    },
}
"""See `Published.contents`."""


def _cifar(
    classes: int, md5: str, folder: str, train: list[str], test: str, meta: str, keys: tuple[str, str]
) -> Published:
    """``keys`` are those of the labels in a batch, and of the class names in ``meta``."""
    archive = f"cifar-{classes}-python.tar.gz"
    train_files, test_files = [f"{folder}/{file}" for file in train], [f"{folder}/{test}"]
    files = {"train": train_files, "test": test_files, "meta": f"{folder}/{meta}"}
    return Published(
        needs=(*train_files, *test_files, files["meta"]),
        archives=(archive,),
        remotes=(Remote(f"https://www.cs.toronto.edu/~kriz/{archive}", archive, md5),),
        read=partial(read_cifar, **files, labels_key=keys[0], names_key=keys[1]),
        classes=classes,
        counts={"train": 50_000, "test": 10_000},
        contents=_CONTENTS.get(f"cifar{classes}", {}),
    )


def _stl10(unlabelled: bool) -> Published:
    files = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
    counts = {"train": 5_000, "test": 8_000}
    return Published(
        needs=tuple(f"stl10_binary/{file}" for file in (*files, *(["unlabeled_X.bin"] if unlabelled else []))),
        archives=("stl10_binary.tar.gz",),
        remotes=(
            Remote(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "stl10_binary.tar.gz",
                "91f7769df0f17e558f3565bffb0c7dfb",
            ),
        ),
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
            10,
            "c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
            [f"data_batch_{k}" for k in range(1, 6)],
            *("test_batch", "batches.meta", ("labels", "label_names")),
        ),
    ),
    "cifar100": CatalogEntry(
        "CIFAR-100: 32x32 photos of 100 kinds of things, fine labels",
        "official, 50,000 / 10,000",
        _cifar(
            100,
            "eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-python",
            ["train"],
            *("test", "meta", ("fine_labels", "fine_label_names")),
        ),
    ),
    "svhn": CatalogEntry(
        "SVHN: house numbers from street photos, cropped to one digit",
        "official, 73,257 / 26,032",
        Published(
            needs=("train_32x32.mat", "test_32x32.mat"),
            archives=("train_32x32.mat", "test_32x32.mat"),
            remotes=tuple(
                Remote(f"http://ufldl.stanford.edu/housenumbers/{file}", file, md5)
                for file, md5 in (
                    ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),
                    ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
                )
            ),
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
            remotes=(
                Remote(
                    "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                    "dtd-r1.0.1.tar.gz",
                    "fff73e5086ae6bdbea199a49dfb8a4c1",
                ),
            ),
            read=read_dtd,
            joins_validation=True,
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
            remotes=(
                Remote(
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/"
                    "EuroSAT.zip",
                    "EuroSAT.zip",
                    "c8fa014336c82ac7804f0398fcb19387",
                ),
            ),
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
            # Not in torchvision. The sum is the one that independent loaders agree on, e.g. Avalanche's.
            remotes=(
                Remote(
                    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                    "tiny-imagenet-200.zip",
                    "90528d7ca1a48142e341f4ef8d21d0de",
                ),
            ),
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
    published = map(published_as, domains)
    return {*domains, *(found.files_of for found in published if found and found.files_of)}


USUAL_SIZE = 32
"""Pixels, height and width, of the images of the catalogue's datasets, as the paper and most of the field have them."""


def size_words(name: str, image_size: int) -> str:
    """What sets a dataset of the catalogue apart that is prepared in another size than the usual; mostly empty."""
    other = name in CATALOG and CATALOG[name].published is not None and image_size != USUAL_SIZE
    return f"{image_size}×{image_size} pixels" if other else ""


def variant_of(name: str, *, classes: int, train: int, test: int, unlabelled: int | None = None) -> str:
    """What sets a dataset that bears the catalogue's ``name`` apart from the published one; empty if nothing does.

    Args:
        classes, train, test: of the dataset as it is prepared, in which EuroSAT has a test split.
        unlabelled: images without a label; None where their number is not known.

    Returns:
        Words that follow the name, such as ``"4,434 of 73,257"`` (training images) or ``"10 of 47 classes"``. Empty for
        a name that the catalogue does not have, or has drawn.
    """
    published = published_as(name)
    if published is None:
        return ""
    whole_train, whole_test = published.prepared_counts
    whole_unlabelled = published.counts.get("unlabelled", 0)
    for found, whole, what in (
        (classes, published.classes, " classes"),
        (train, whole_train, ""),
        (test, whole_test, " test images"),
        (unlabelled, whole_unlabelled, " unlabelled images"),
    ):
        if found not in (whole, None):
            return f"{found:,} {'of' if found < whole else 'instead of'} {whole:,}{what}"
    return ""


def published_as(name: str) -> Published | None:
    """What is published under ``name``; None for built-in domains, and names that are not in the catalogue."""
    return CATALOG[name].published if name in CATALOG else None


def description_of(name: str) -> str:
    """The catalogue's line on ``name``, or one that says that the images are the user's own."""
    return CATALOG[name].description if name in CATALOG else "your own images"
