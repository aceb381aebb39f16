"""Readers of Tiny ImageNet and ImageNet. Their classes are WordNet IDs such as n01443537.

Classes are numbered by their sorted IDs, as is usual for ImageNet. ``wnids.txt`` of Tiny ImageNet has another order.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np

from mdssl.data.sources.base import Part, count_of
from mdssl.data.sources.folder import class_folders, files_part, subfolders
from mdssl.data.sources.raw import Read, file_errors
from mdssl.errors import InputError

SOLUTION = "LOC_val_solution.csv"
SYNSETS = "LOC_synset_mapping.txt"
DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def read_tiny_imagenet(root: Path) -> Read:
    """Tiny ImageNet. Its test images are published without labels and are left out.

    Raises:
        InputError: a text file is missing or broken, a class has no images, or an annotation names an absent image or
            an unknown class.
    """
    folder = root / "tiny-imagenet-200"
    wnids = sorted(filter(None, map(str.strip, _lines(folder / "wnids.txt"))))
    annotations = folder / "val/val_annotations.txt"
    labelled = {}
    for number, line in enumerate(_lines(annotations), 1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise InputError(
                f"{annotations} line {number} is {line!r}; it must have an image and a WordNet ID with a tab between. "
                "Fetch it again."
            )
        labelled[columns[0]] = columns[1]
    parts = {
        "train": class_folders(folder, [f"train/{wnid}/images" for wnid in wnids]),
        "validation": _annotated(folder, "val/images", annotations, labelled, wnids),
    }
    return _class_names(wnids, _first_words(_lines(folder / "words.txt"))), parts


def read_imagenet(root: Path) -> Read:
    """ImageNet (ILSVRC 2012): class folders in ``train``, and in ``val`` class folders or just images.

    The classes of images without class folders come from Kaggle's ``LOC_val_solution.csv`` or the unpacked devkit,
    beside ``train`` or up to three folders above, as in Kaggle's ``ILSVRC/Data/CLS-LOC``. The class names come from
    ``LOC_synset_mapping.txt`` or the devkit; without both, the WordNet IDs are the names.

    Raises:
        InputError: there are no class folders, one has no images, the classes of ``val`` are given nowhere, or their
            list names an absent image or an unknown class.
    """
    wnids = [folder.name for folder in subfolders(root / "train")]
    if not wnids:
        raise InputError(
            f"{root / 'train'} has no class folders; expected train/<WordNet ID>/<image>.JPEG. Unpack each class's tar "
            "file into a folder of its name."
        )
    solution, synsets, devkit = (_upwards(root, name) for name in (SOLUTION, SYNSETS, DEVKIT))
    meta = _devkit_classes(devkit / "meta.mat") if devkit else []
    if subfolders(root / "val"):
        validation = class_folders(root, [f"val/{wnid}" for wnid in wnids])
    elif solution:
        validation = _annotated(root, "val", solution, _solved(solution), wnids)
    elif devkit:
        truth = devkit / GROUND_TRUTH
        wnid_by_id = {number: wnid for number, wnid, _ in meta}
        with file_errors(truth):
            # One line per image, in the order of the numbers in the file names.
            answers = [wnid_by_id.get(int(line), f"number {line}") for line in _lines(truth)]
        labelled = {f"ILSVRC2012_val_{number:08d}.JPEG": wnid for number, wnid in enumerate(answers, 1)}
        validation = _annotated(root, "val", truth, labelled, wnids)
    else:
        raise InputError(
            f"the classes of the images in {root / 'val'} are unknown: it has no class folders, and neither {SOLUTION} "
            f"nor {DEVKIT} exists. Put one of them into {root}, or sort the images into class folders."
        )
    words = _first_words(_lines(synsets)) if synsets else {wnid: words.split(",")[0] for _, wnid, words in meta}
    parts = {"train": class_folders(root, [f"train/{wnid}" for wnid in wnids]), "validation": validation}
    return _class_names(wnids, words), parts


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path} is missing. Put it there; it comes with the images.")
    with file_errors(path):
        return path.read_text().splitlines()


def _first_words(lines: list[str]) -> dict[str, str]:
    """Return the first word of each WordNet ID, from lines like ``n01443537  goldfish, Carassius auratus``."""
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[0]: pair[1].split(",")[0].strip() for pair in pairs if len(pair) == 2}


def _class_names(wnids: list[str], words: dict[str, str]) -> tuple[str, ...]:
    """Return a unique name for each class: its word, followed by its ID if another class has the same word."""
    names = [words.get(wnid, wnid) for wnid in wnids]
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


def _annotated(root: Path, inside: str, listing: Path, labelled: dict[str, str], wnids: list[str]) -> Part:
    """Return the images in the folder ``inside`` that ``labelled``, image -> WordNet ID, names, in its order."""
    folder = root / inside
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    absent = [name for name in labelled if name not in present]
    if absent:
        raise InputError(
            f"{listing} names {count_of(len(absent), 'image')} not in {folder}, such as {absent[0]!r}. Unpack the "
            "validation images again."
        )
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    unknown = [(name, wnid) for name, wnid in labelled.items() if wnid not in numbers]
    if unknown:
        raise InputError(
            f"{listing} puts {unknown[0][0]!r} into the class {unknown[0][1]!r}, which has no training images "
            f"({count_of(len(unknown), 'such image')}). Take both from the same dataset, with all its classes."
        )
    return files_part(root, [f"{inside}/{name}" for name in labelled], [numbers[wnid] for wnid in labelled.values()])


def _upwards(root: Path, name: str) -> Path | None:
    """``name`` in ``root`` or up to three folders above it."""
    return next((place / name for place in (root, *root.parents[:3]) if (place / name).exists()), None)


def _solved(path: Path) -> dict[str, str]:
    """Image -> WordNet ID from rows like ``ILSVRC2012_val_00000001,n01751748 156 48 272 332``, by image."""
    with file_errors(path), open(path, newline="") as file:
        rows = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    return {f"{image}.JPEG": rows[image] for image in sorted(rows)}


def _devkit_classes(path: Path) -> list[tuple[int, str, str]]:
    """Return the number in the devkit, the WordNet ID and the words of each class, without superclasses."""
    from scipy.io import loadmat

    with file_errors(path):
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        leaves = synsets[synsets["num_children"] == 0]
        return [(int(leaf["ILSVRC2012_ID"]), str(leaf["WNID"]), str(leaf["words"])) for leaf in leaves]
