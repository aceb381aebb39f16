"""What every kind of source hands over: labels known at once, images read one by one when they are wanted.

`mdssl.data.sources.splits.resolve_splits` turns whatever parts a source has into the splits of a prepared dataset.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mdssl.errors import InputError

# An encoded file, its path, or pixels: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
RawImage = bytes | Path | np.ndarray

NO_LABEL = -1
"""In place of a class number: an image that nobody has labelled."""


@dataclass(frozen=True)
class Part:
    """Some images of a source, in order.

    Attributes:
        labels: int64 (N,), not yet checked; ``NO_LABEL`` where there is none.
        where: row -> the file or row that a message names.
        read: ascending rows (M,) -> their M raw images, in that order.
    """

    labels: np.ndarray
    where: Callable[[int], str]
    read: Callable[[np.ndarray], Iterator[RawImage]]

    def take(self, rows: np.ndarray) -> Part:
        """The part that consists of ``rows`` (M,), which ascend."""
        return Part(self.labels[rows], lambda row: self.where(rows[row]), lambda chosen: self.read(rows[chosen]))

    def labelled(self, labels: np.ndarray) -> Part:
        """The same images with other ``labels`` (N,)."""
        return Part(labels, self.where, self.read)

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


@dataclass
class Findings:
    """What a reader took from a source and what it left out, as ``meta.json`` keeps it and a person is told.

    Attributes:
        splits: by part, the folder, files or arrays that it comes from.
        left_out: by reason, the number of files, images or folders that were not taken, and one of them.
        remarks: sentences on what was taken in a way that is not obvious.
    """

    splits: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, example: str, count: int = 1) -> None:
        """Count what is left out. ``reason`` is what it is, such as "files that are no images (.txt)"."""
        # A name that is no UTF-8 cannot be written.
        reason, example = (text.encode(errors="backslashreplace").decode() for text in (reason, example))
        entry = self.left_out.setdefault(reason, {"count": 0, "example": example})
        entry["count"] += count


@dataclass(frozen=True)
class Source:
    """One dataset as it was found.

    Attributes:
        kind: one of ``sources.KINDS``.
        origin: what ``meta.json`` says about where it came from; names only, no folders of the machine.
        classes: the class names; a label is an index into them.
        parts: ``train``, and maybe ``test``, ``validation`` or ``unlabelled``; the labels of the last mean nothing.
        findings: what was taken and what was left out.
    """

    kind: str
    origin: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    findings: Findings = field(default_factory=Findings)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a user wants a source to be read, where it can be read in two ways.

    Attributes:
        splits: the folder or file of each split, relative to the source; None goes by their names. An empty dict means
            that the source has no splits, whatever the names.
        classes: the classes to take, in this order; None takes all. An empty tuple means that there are no labels.
        label_column: the Parquet column that has the labels; None goes by the names of the columns.
    """

    splits: dict[str, str] | None = None
    classes: tuple[str, ...] | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        """Raise ``InputError`` for splits that overlap, and classes that are named twice."""
        if self.splits:
            places = {split: os.path.normpath(place) for split, place in self.splits.items()}
            for (split, place), (other, around) in itertools.permutations(places.items(), 2):
                if place == around or around == "." or place.startswith(f"{around}/"):
                    raise InputError(
                        f"split {split!r} is {place!r}, which lies in {around!r}, the split {other!r}. Give each "
                        "split a folder or file of its own."
                    )
            object.__setattr__(self, "splits", places)
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes are {', '.join(self.classes)}; name each once.")
