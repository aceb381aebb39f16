"""The splits of a dataset: their names in a source, and the train and test split that come of them.

A source may have images without labels. Those of its train split are for pretraining alone; a test split without any
label is left out. A source without any label becomes a dataset for pretraining alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, Source
from mdssl.errors import InputError

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
"""Classes that a message names."""


def split_of(name: str) -> str | None:
    """The split that the name of a folder or file says, as ``seg_train`` and ``TrainImages`` say train; else None.

    The keyword is a word of the name: it stands between characters that are no letters, as Hugging Face's datasets have
    it, or begins with a capital letter.
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower())
    found = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return found.pop() if len(found) == 1 else None


def one_per_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Split to name, of those ``names`` that say one.

    Raises:
        InputError: two names say the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is not None and found.setdefault(split, name) != name:
            raise InputError(
                f"{where} has {found[split]!r} and {name!r}, and both say {split}. Say which to take, such as "
                f"--splits {split}='{found[split]}'; or --splits none, if they are no splits."
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
    """The checked train and test part, the unlabelled one where there is one, the classes, and how the splits came.

    A test part is used as it is, and a validation part beside it is left out. Where there is none, a validation part is
    the test split, and where there is neither, a seeded stratified choice of ``test_fraction`` of the training images
    is. With ``train_per_class``, a seeded choice of that many training images of each class is the train split. With
    ``joins_validation`` a validation part beside a test part belongs to train. Classes without any image are dropped.

    Returns:
        ``{"train": …, "test": …}``, maybe with ``"unlabelled"``; the class names; and the rule for ``meta.json``, e.g.
        ``{"rule": "stratified", "seed": 0, "test_fraction": 0.2}``. Without any label all images are unlabelled, the
        other two parts are empty, and there are no classes.

    Raises:
        ValueError: a part is missing, empty or has a single class; a label is negative or too large; a test class is
            not in train; a class has too few images to choose from.
    """
    if not source.parts.keys() & {"train", "unlabelled"}:
        raise InputError(
            f"dataset {name!r} has no train split in {source.origin}, only {', '.join(source.parts) or 'nothing'}. "
            "Add the training images under the name 'train', or say where they are: --splits train=FOLDER_OR_FILE, or "
            "--splits none if no name means a split."
        )
    for split, part in source.parts.items():
        if len(part.labels) == 0:
            raise InputError(f"dataset {name!r} has an empty {split} split. Add images, or leave the split out.")
        if split != "unlabelled":
            _check_labels(name, split, part, source.classes)
    parts = _without_labels_apart(source.parts, source.findings)
    unlabelled = {"unlabelled": parts["unlabelled"]} if "unlabelled" in parts else {}
    if "train" not in parts:
        return _all_unlabelled(name, parts, source.findings)
    parts, classes = _without_empty_classes(parts, source.classes, source.findings)
    rule: dict = {"rule": "as given"}
    train, test = parts["train"], parts.get("test")
    if test is not None and "validation" in parts:
        if joins_validation:
            train, rule = Part.join(train, parts["validation"]), {"rule": "train and validation joined"}
        else:
            count = len(parts["validation"].labels)
            rule["left_out"] = {"validation": count}
            source.findings.leave_out(
                "validation images, as there is a test split", parts["validation"].where(0), count
            )
    elif "validation" in parts:
        test, rule = parts["validation"], {"rule": "validation as test"}
    elif test is None:
        train, test = _stratify(name, train, classes, seed, test_fraction)
        rule = {"rule": "stratified", "seed": seed, "test_fraction": test_fraction}
    if train_per_class is not None:
        train = _choose(name, train, classes, seed, train_per_class)
        rule |= {"train_per_class": train_per_class, "seed": seed}
    _check_classes(name, train, test, classes)
    return {"train": train, "test": test, **unlabelled}, classes, rule


def _without_labels_apart(parts: Mapping[str, Part], findings: Findings) -> dict[str, Part]:
    """Parts in which every image has a label, and ``unlabelled`` ones; those of the other splits are left out."""
    kept: dict[str, Part] = {}
    unlabelled = [parts["unlabelled"]] if "unlabelled" in parts else []
    for split, part in parts.items():
        if split == "unlabelled":
            continue
        has_label = part.labels != NO_LABEL
        missing = int((~has_label).sum())
        if missing:
            without = part.take(np.flatnonzero(~has_label))
            if split == "train":
                unlabelled.insert(0, without)
            else:
                findings.leave_out(f"{split} images without a label", without.where(0), missing)
        if has_label.any():
            kept[split] = part.take(np.flatnonzero(has_label)) if missing else part
    if unlabelled:
        first, *others = unlabelled
        for other in others:
            first = Part.join(first, other)
        kept["unlabelled"] = first
    return kept


def _all_unlabelled(name: str, parts: dict[str, Part], findings: Findings) -> tuple[dict[str, Part], tuple, dict]:
    for split, part in parts.items():
        if split != "unlabelled":
            findings.leave_out(f"{split} images, as no training image has a label", part.where(0), len(part.labels))
    empty = parts["unlabelled"].take(np.arange(0)).labelled(np.empty(0, dtype=np.int64))
    return {"train": empty, "test": empty, "unlabelled": parts["unlabelled"]}, (), {"rule": "no labels"}


def _without_empty_classes(
    parts: dict[str, Part], classes: tuple[str, ...], findings: Findings
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Without the classes of which there is no image, which a score would count as possible answers."""
    labelled = {split: part for split, part in parts.items() if split != "unlabelled"}
    present = np.unique(np.concatenate([part.labels for part in labelled.values()]))
    if len(present) == len(classes):
        return parts, classes
    absent = [classes[label] for label in np.setdiff1d(np.arange(len(classes)), present)]
    findings.leave_out("classes without an image", absent[0], len(absent))
    number = np.full(len(classes), NO_LABEL)
    number[present] = np.arange(len(present))
    renumbered = {split: part.labelled(number[part.labels]) for split, part in labelled.items()}
    return parts | renumbered, tuple(classes[label] for label in present)


def _stratify(name: str, part: Part, classes: tuple[str, ...], seed: int, fraction: float) -> tuple[Part, Part]:
    """Per class, ``fraction`` of the images for test, at least one and never all; the order of the source stays."""
    in_test = np.zeros(len(part.labels), dtype=bool)
    for label in np.unique(part.labels):
        rows = np.flatnonzero(part.labels == label)
        if len(rows) < 2:
            raise InputError(
                f"dataset {name!r} has no test split and its class {classes[label]!r} has 1 image; a stratified split "
                "takes at least 2. Add images or give a test split; without labels (--classes none) it is a domain to "
                "train on."
            )
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        # One generator per class: adding a class does not reshuffle the others.
        in_test[np.random.default_rng([seed, label]).permutation(rows)[:count]] = True
    return part.take(np.flatnonzero(~in_test)), part.take(np.flatnonzero(in_test))


def _choose(name: str, part: Part, classes: tuple[str, ...], seed: int, per_class: int) -> Part:
    """Per class, a seeded choice of ``per_class`` images; the order of the source stays."""
    counts = np.bincount(part.labels, minlength=len(classes))
    short = np.flatnonzero(counts < per_class)
    if len(short):
        listed = ", ".join(f"{classes[label]!r} has {counts[label]}" for label in short[:_NAMED])
        raise InputError(
            f"{len(short)} of the {len(classes)} classes of {name!r} have fewer than the {per_class} training images "
            f"that are chosen of each: {listed}. Complete their folders."
        )
    chosen = []
    # By label, so that a class costs a look at its own images and not at all of a million.
    for label, rows in enumerate(np.split(np.argsort(part.labels, kind="stable"), np.cumsum(counts)[:-1])):
        chosen.append(np.random.default_rng([seed, label]).permutation(rows)[:per_class])
    return part.take(np.sort(np.concatenate(chosen)))


def _check_labels(name: str, split: str, part: Part, classes: tuple[str, ...]) -> None:
    labels = part.labels
    wrong = np.flatnonzero((labels < NO_LABEL) | (labels >= len(classes)))
    if len(wrong) == 0:
        return
    label, place = labels[wrong[0]], part.where(int(wrong[0]))
    if label < 0:
        raise InputError(
            f"negative label {label} in {place} ({len(wrong)} such rows in {split}); a label is a class number from 0 "
            f"to {len(classes) - 1}, or {NO_LABEL} where there is none. Correct it, or leave the image out."
        )
    raise InputError(
        f"label {label} in {place} is out of range; {name!r} has {len(classes)} classes, so labels go from 0 to "
        f"{len(classes) - 1}. Correct the label, or name all classes."
    )


def _check_classes(name: str, train: Part, test: Part, classes: tuple[str, ...]) -> None:
    seen = {"train": np.unique(train.labels), "test": np.unique(test.labels)}
    for split, labels in seen.items():
        if len(labels) < 2:
            raise InputError(
                f"the {split} split of {name!r} has the single class {classes[labels[0]]!r}; a score needs at least 2. "
                "Give images of more classes, or prepare it without labels, as a domain to train on: --classes none."
            )
    unseen = np.setdiff1d(seen["test"], seen["train"])
    if len(unseen):
        names = ", ".join(repr(classes[label]) for label in unseen[:_NAMED])
        raise InputError(
            f"{len(unseen)} of the test classes of {name!r} have no training image: {names}. Add images of them to "
            "train, or take only the others, with --classes."
        )
