"""The result of every reader of a source: all labels at once, and images one by one on demand.

`mdssl.data.splits.resolve_splits` turns the parts of a source into the splits of a prepared dataset.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from mdssl.errors import InputError

# An encoded file, its path, or pixels: uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
RawImage = bytes | Path | np.ndarray

NO_LABEL = -1
"""Label of an image without a class."""


def count_of(count: int, noun: str) -> str:
    """``"1 image"``, ``"2,000 images"``, ``"3 classes"``"""
    plural = f"{noun}{'es' if noun.endswith(('s', 'x')) else 's'}"
    return f"{count:,} {noun if count == 1 else plural}"


@dataclass(frozen=True)
class Part:
    """Images of a source in a fixed order.

    Attributes:
        labels: int64 (N,), not yet checked; ``NO_LABEL`` for images without a label.
        where: row -> the file or row that messages name.
        read: ascending rows (M,) -> their M raw images, in that order.
    """

    labels: np.ndarray
    where: Callable[[int], str]
    read: Callable[[np.ndarray], Iterator[RawImage]]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Part:
        """Return the images of ascending ``rows`` (M,)."""
        return Part(self.labels[rows], lambda row: self.where(rows[row]), lambda chosen: self.read(rows[chosen]))

    @classmethod
    def join(cls, *parts: Part) -> Part:
        """Return the images of all ``parts``, in this order."""
        borders = np.cumsum([0, *map(len, parts)])

        def where(row: int) -> str:
            index = int(np.searchsorted(borders, row, side="right")) - 1
            return parts[index].where(row - borders[index])

        def read(rows: np.ndarray) -> Iterator[RawImage]:
            for part, first, last in zip(parts, borders, borders[1:], strict=False):
                yield from part.read(rows[(rows >= first) & (rows < last)] - first)

        return cls(np.concatenate([part.labels for part in parts]), where, read)


class LeftOut(TypedDict):
    """Files, images or folders that were left out for one reason: their number, one of them, and all damaged images."""

    count: int
    example: str
    all: NotRequired[list[str]]


@dataclass
class Findings:
    """The files that a reader used and left out. Stored in ``meta.json`` and printed once.

    Attributes:
        splits: split -> the folder, files or arrays it comes from.
        left_out: reason -> how many files, images or folders were left out, and one of them as an example.
        remarks: sentences about choices that are not obvious.
    """

    splits: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, example: str, count: int = 1) -> None:
        """Count files that are left out. ``reason`` describes them, such as "files that are not images (.txt)"."""
        # Names that are not valid UTF-8 cannot be written.
        reason, example = (text.encode(errors="backslashreplace").decode() for text in (reason, example))
        entry = self.left_out.setdefault(reason, {"count": 0, "example": example})
        entry["count"] += count

    def left_out_in_words(self) -> str:
        """Return all reasons with their counts on one line; empty if nothing was left out."""
        return "; ".join(f"{reason}: {left['count']:,}" for reason, left in self.left_out.items())


@dataclass(frozen=True)
class Source:
    """A dataset as a reader found it.

    Attributes:
        kind: one of ``open.KINDS``.
        origin: name of the file or folder, without its path, for ``meta.json``.
        classes: class names; a label is an index into them.
        parts: ``train`` and optionally ``test``, ``validation`` and ``unlabelled``; labels of the last are ignored.
        findings: the files that were used and left out.
        state: see `mdssl.data.sources.open.source_state`.
    """

    kind: str
    origin: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    findings: Findings = field(default_factory=Findings)
    state: str = ""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The user's choices for a source that can be read in several ways.

    Attributes:
        splits: split -> folder or file relative to the source. None detects splits by name; an empty dict means that
            the source has none.
        classes: the classes to use, in this order; None for all, an empty tuple to ignore labels.
        label_column: the Parquet column with the labels; None detects it by name.
    """

    splits: dict[str, str] | None = None
    classes: tuple[str, ...] | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        """Raise ``InputError`` for splits that overlap, classes that are named twice, and a label column to ignore."""
        if self.splits:
            places = {split: os.path.normpath(place) for split, place in self.splits.items()}
            for (split, place), (other, outer) in itertools.permutations(places.items(), 2):
                if place == outer or outer == "." or place.startswith(f"{outer}/"):
                    raise InputError(
                        f"split {split!r} is {place!r}, which lies in {outer!r}, the split {other!r}. Give each "
                        "split a separate folder or file."
                    )
            object.__setattr__(self, "splits", places)
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise InputError(f"classes are {', '.join(self.classes)}; give each class once.")
        if self.classes == () and self.label_column is not None:
            raise InputError(
                f"label column is {self.label_column!r}, but --classes none reads no labels. Leave one of them out."
            )
