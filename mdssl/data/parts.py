"""What every kind of source hands over: labels known at once, images read one by one when they are wanted.

``resolve_splits`` turns whatever parts a source has into the train and test split of a prepared dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdssl.errors import InputError

# An encoded file, its path, or pixels: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
RawImage = bytes | Path | np.ndarray

SPLIT_NAMES = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}


@dataclass(frozen=True)
class Part:
    """Some images of a source, in order.

    Attributes:
        labels: int64 (N,), not yet checked.
        where: row -> the file or row that a message names.
        read: ascending rows (M,) -> their M raw images, in that order.
    """

    labels: np.ndarray
    where: Callable[[int], str]
    read: Callable[[np.ndarray], Iterator[RawImage]]

    def take(self, rows: np.ndarray) -> Part:
        """The part that consists of ``rows`` (M,), which ascend."""
        return Part(self.labels[rows], lambda row: self.where(rows[row]), lambda chosen: self.read(rows[chosen]))

    @classmethod
    def join(cls, first: Part, second: Part) -> Part:
        """The images of ``first``, then those of ``second``."""
        border = len(first.labels)

        def read(rows: np.ndarray) -> Iterator[RawImage]:
            yield from first.read(rows[rows < border])
            yield from second.read(rows[rows >= border] - border)

        return cls(
            np.concatenate([first.labels, second.labels]),
            lambda row: first.where(row) if row < border else second.where(row - border),
            read,
        )


@dataclass(frozen=True)
class Source:
    """One dataset as it was found.

    Attributes:
        kind: one of ``sources.KINDS``.
        origin: what ``meta.json`` says about where it came from; names only, no folders of the machine.
        classes: the class names; a label is an index into them.
        parts: ``train``, and maybe ``test``, ``validation`` or ``unlabelled``; the labels of the last mean nothing.
    """

    kind: str
    origin: str
    classes: tuple[str, ...]
    parts: dict[str, Part]


def resolve_splits(
    name: str, source: Source, *, seed: int, test_fraction: float, train_per_class: int | None = None
) -> tuple[dict[str, Part], dict]:
    """The checked train and test part, the unlabelled one where there is one, and how they came about.

    A test part is used as it is, and a validation part beside it is left out. Where there is none, a validation part is
    the test split, and where there is neither, a seeded stratified choice of ``test_fraction`` of the training images
    is. With ``train_per_class``, a seeded choice of that many training images of each class is the train split.

    Returns:
        ``{"train": …, "test": …}``, maybe with ``"unlabelled"``, and the rule for ``meta.json``, e.g.
        ``{"rule": "stratified", "seed": 0, "test_fraction": 0.2}``.

    Raises:
        ValueError: a part is missing, empty or has a single class; a label is negative or too large; a test class is
            not in train; a class has too few images to choose from.
    """
    parts = source.parts
    if "train" not in parts:
        raise InputError(
            f"dataset {name!r} has no train split in {source.origin}, only {', '.join(parts) or 'nothing'}. "
            "Add the training images under the name 'train'."
        )
    labelled = {split: part for split, part in parts.items() if split != "unlabelled"}
    for split, part in labelled.items():
        _check_labels(name, split, part, source.classes)
    rule: dict = {"rule": "as given"}
    train, test = parts["train"], parts.get("test")
    if test is not None and "validation" in parts:
        rule["left_out"] = {"validation": len(parts["validation"].labels)}
    elif "validation" in parts:
        test, rule = parts["validation"], {"rule": "validation as test"}
    elif test is None:
        train, test = _stratify(name, train, source.classes, seed, test_fraction)
        rule = {"rule": "stratified", "seed": seed, "test_fraction": test_fraction}
    if train_per_class is not None:
        train = _choose(name, train, source.classes, seed, train_per_class)
        rule |= {"train_per_class": train_per_class, "seed": seed}
    _check_classes(name, train, test, source.classes)
    unlabelled = {"unlabelled": parts["unlabelled"]} if "unlabelled" in parts else {}
    return {"train": train, "test": test, **unlabelled}, rule


def _stratify(name: str, part: Part, classes: tuple[str, ...], seed: int, fraction: float) -> tuple[Part, Part]:
    """Per class, ``fraction`` of the images for test, at least one and never all; the order of the source stays."""
    in_test = np.zeros(len(part.labels), dtype=bool)
    for label in np.unique(part.labels):
        rows = np.flatnonzero(part.labels == label)
        if len(rows) < 2:
            raise InputError(
                f"dataset {name!r} has no test split and its class {classes[label]!r} has 1 image; a stratified split "
                "takes at least 2. Add images or give a test split."
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
        listed = ", ".join(f"{classes[label]!r} has {counts[label]}" for label in short[:5])
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
    if len(labels) == 0:
        raise InputError(f"dataset {name!r} has an empty {split} split. Add images, or leave the split out.")
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong) == 0:
        return
    label, place = labels[wrong[0]], part.where(int(wrong[0]))
    if label < 0:
        raise InputError(
            f"negative label {label} in {place} ({len(wrong)} such rows in {split}); a label is a class number from 0 "
            f"to {len(classes) - 1}. Leave out images without a label."
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
                "Give images of more classes."
            )
    unseen = np.setdiff1d(seen["test"], seen["train"])
    if len(unseen):
        names = ", ".join(repr(classes[label]) for label in unseen[:5])
        raise InputError(
            f"{len(unseen)} of the test classes of {name!r} have no training image: {names}. Add images of them to "
            "train, or take them out of test."
        )
