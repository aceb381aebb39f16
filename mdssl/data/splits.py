"""Determine the train and test split of a dataset from the splits of its source.

A source may have images without labels. Those of its train split are used for pretraining only; a test split without
labels is left out. A source without any label becomes a dataset for pretraining only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, Source
from mdssl.data.sources.labels import check_labels
from mdssl.errors import InputError, some_of

# The keywords of Hugging Face's datasets.
_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
PARTS = tuple(_KEYWORDS)
_SPLIT_OF_WORD = {word: split for split, words in _KEYWORDS.items() for word in words}
_NAMED = 5
"""Number of classes that a message lists."""
_NOT_SPLITS = " If the names that were read as splits are classes, use --splits none."


def split_of(name: str) -> str | None:
    """Return the split that the name of a folder or file denotes, as ``seg_train`` and ``TrainImages`` train, or None.

    As in Hugging Face's datasets, the keyword must be a word of the name, delimited by non-letters or by a capital.
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
    found = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return found.pop() if len(found) == 1 else None


def one_per_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Split -> name, for those ``names`` that denote a split.

    Raises:
        InputError: two names denote the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is not None and found.setdefault(split, name) != name:
            raise InputError(
                f"{where} has {found[split]!r} and {name!r}, which both denote {split}. Choose one, such as "
                f"--splits {split}='{found[split]}', or use --splits none if they are classes."
            )
    return found


def resolve_splits(
    name: str,
    source: Source,
    *,
    seed: int,
    test_fraction: float,
    train_per_class: int | None = None,
    joins_validation: bool = False,
) -> tuple[dict[str, Part], tuple[str, ...], dict]:
    """Choose the train and test part, and the unlabelled one if there is one, and check their labels.

    A test part is used as it is. A validation part beside it is left out, or belongs to train if ``joins_validation``.
    Without a test part, the validation part is the test split; without both, a stratified random ``test_fraction`` of
    the training images is. With ``train_per_class``, train is a random choice of that many images of each class.
    Classes without any image are dropped. The findings of ``source`` receive what is left out.

    Returns:
        ``{"train": …, "test": …}``, optionally with ``"unlabelled"``; the class names; and the rule for ``meta.json``,
        e.g. ``{"rule": "stratified", "seed": 0, "test_fraction": 0.2}``. If no image has a label, all images are
        unlabelled, the other two parts are empty, and there are no classes.

    Raises:
        InputError: a part is missing, empty or has a single class; a label is out of range; a test class is not in
            train; or a class has too few images.
    """
    if not source.parts.keys() & {"train", "unlabelled"}:
        raise InputError(
            f"dataset {name!r} has no train split in {source.origin}, only {', '.join(source.parts) or 'nothing'}. "
            "Add the training images under the name 'train', or give their place: --splits train=FOLDER_OR_FILE, or "
            "--splits none if no name denotes a split."
        )
    for split, part in source.parts.items():
        if len(part) == 0:
            raise InputError(f"dataset {name!r} has an empty {split} split. Add images, or leave the split out.")
        if split != "unlabelled":
            check_labels(name, split, part, source.classes)
    parts = _separate_unlabelled(source.parts, source.findings)
    if "train" not in parts:
        return _all_unlabelled(parts, source.findings)
    rule: dict = {"rule": "as given"}
    # First, because a class that it alone has would have no training image.
    if "test" in parts and "validation" in parts and not joins_validation:
        left = parts.pop("validation")
        source.findings.splits.pop("validation", None)
        rule["left_out"] = {"validation": len(left)}
        source.findings.leave_out("validation images, because there is a test split", left.where(0), len(left))
    parts, classes = _drop_empty_classes(parts, source.classes, source.findings)
    train, test, validation = parts["train"], parts.get("test"), parts.get("validation")
    if test is not None and validation is not None:
        train, rule = Part.join(train, validation), {"rule": "train and validation joined"}
    elif validation is not None:
        test, rule = validation, {"rule": "validation as test"}
    elif test is None:
        train, test = _stratify(name, train, classes, seed, test_fraction)
        rule = {"rule": "stratified", "seed": seed, "test_fraction": test_fraction}
    if train_per_class is not None:
        train = _take_per_class(name, train, classes, seed, train_per_class)
        rule |= {"train_per_class": train_per_class, "seed": seed}
    _check_classes(name, train, test, classes, hint="" if rule["rule"] == "stratified" else _NOT_SPLITS)
    unlabelled = {"unlabelled": parts["unlabelled"]} if "unlabelled" in parts else {}
    return {"train": train, "test": test, **unlabelled}, classes, rule


def _separate_unlabelled(parts: Mapping[str, Part], findings: Findings) -> dict[str, Part]:
    """Parts in which every image has a label, and an ``unlabelled`` part. Test images without a label are left out."""
    kept: dict[str, Part] = {}
    unlabelled = [parts["unlabelled"]] if "unlabelled" in parts else []
    for split, part in parts.items():
        if split == "unlabelled":
            continue
        has_label = part.labels != NO_LABEL
        if has_label.all():
            kept[split] = part
            continue
        without = part.take(np.flatnonzero(~has_label))
        if split == "train":
            unlabelled.insert(0, without)
        else:
            findings.leave_out(f"{split} images without a label", without.where(0), len(without))
        if has_label.any():
            kept[split] = part.take(np.flatnonzero(has_label))
        elif split != "train":
            findings.splits.pop(split, None)
    if unlabelled:
        kept["unlabelled"] = Part.join(*unlabelled)
    return kept


def _all_unlabelled(parts: dict[str, Part], findings: Findings) -> tuple[dict[str, Part], tuple, dict]:
    for split, part in parts.items():
        if split != "unlabelled":
            findings.leave_out(f"{split} images, because no training image has a label", part.where(0), len(part))
            findings.splits.pop(split, None)
    empty = replace(parts["unlabelled"].take(np.arange(0)), labels=np.empty(0, dtype=np.int64))
    return {"train": empty, "test": empty, "unlabelled": parts["unlabelled"]}, (), {"rule": "no labels"}


def _drop_empty_classes(
    parts: dict[str, Part], classes: tuple[str, ...], findings: Findings
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Drop classes that have no image, because they would lower the chance level of a score."""
    labelled = {split: part for split, part in parts.items() if split != "unlabelled"}
    present = np.unique(np.concatenate([part.labels for part in labelled.values()]))
    if len(present) == len(classes):
        return parts, classes
    absent = [classes[label] for label in np.setdiff1d(np.arange(len(classes)), present)]
    findings.leave_out("classes without an image", absent[0], len(absent))
    number = np.full(len(classes), NO_LABEL)
    number[present] = np.arange(len(present))
    renumbered = {split: replace(part, labels=number[part.labels]) for split, part in labelled.items()}
    return parts | renumbered, tuple(classes[label] for label in present)


def _stratify(name: str, part: Part, classes: tuple[str, ...], seed: int, fraction: float) -> tuple[Part, Part]:
    """Train and test: per class, ``fraction`` of the images for test, at least one and never all, in source order."""
    counts = np.bincount(part.labels, minlength=len(classes))
    if len(single := np.flatnonzero(counts == 1)):
        raise InputError(
            f"dataset {name!r} has no test split and its class {classes[single[0]]!r} has 1 image; a stratified split "
            "needs at least 2. Add images or give a test split; without labels (--classes none) it is a domain for "
            "pretraining."
        )
    in_test = _choose(part, np.clip(np.round(counts * fraction).astype(int), 1, counts - 1), seed)
    return part.take(np.flatnonzero(~in_test)), part.take(np.flatnonzero(in_test))


def _take_per_class(name: str, part: Part, classes: tuple[str, ...], seed: int, per_class: int) -> Part:
    """Return a random choice of ``per_class`` images of each class, in source order."""
    counts = np.bincount(part.labels, minlength=len(classes))
    if len(short := np.flatnonzero(counts < per_class)):
        named = some_of((f"{classes[label]!r} has {counts[label]}" for label in short), _NAMED)
        raise InputError(
            f"{len(short)} of the {len(classes)} classes of {name!r} have fewer than the {per_class} training images "
            f"that are chosen of each: {named}. Complete their folders."
        )
    return part.take(np.flatnonzero(_choose(part, np.full(len(classes), per_class), seed)))


def _choose(part: Part, counts: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: a random choice of ``counts[label]`` images of each class."""
    chosen = np.zeros(len(part), dtype=bool)
    # Sorted by label once, because a search of all images for each class would be slow.
    borders = np.cumsum(np.bincount(part.labels, minlength=len(counts)))[:-1]
    for label, rows in enumerate(np.split(np.argsort(part.labels, kind="stable"), borders)):
        # One generator per class: adding a class does not change the choice within the others.
        chosen[np.random.default_rng([seed, label]).permutation(rows)[: counts[label]]] = True
    return chosen


def _check_classes(name: str, train: Part, test: Part, classes: tuple[str, ...], hint: str) -> None:
    present = {"train": np.unique(train.labels), "test": np.unique(test.labels)}
    for split, labels in present.items():
        if len(labels) < 2:
            raise InputError(
                f"the {split} split of {name!r} has the single class {classes[labels[0]]!r}; a score needs at least 2. "
                "Add images of more classes, or prepare it without labels, for pretraining only: --classes none." + hint
            )
    unseen = np.setdiff1d(present["test"], present["train"])
    if len(unseen):
        raise InputError(
            f"{len(unseen)} of the test classes of {name!r} have no training image: "
            f"{some_of((repr(classes[label]) for label in unseen), _NAMED)}. Add images of them to train, or take only "
            f"the others, with --classes.{hint}"
        )
