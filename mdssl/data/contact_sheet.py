"""A picture of a prepared dataset: one row per class, so that a person sees at a glance what a number is about."""

from pathlib import Path

import numpy as np

from mdssl.data.dataset import Dataset
from mdssl.data.sheet import (
    FAINT,
    GAP,
    INK,
    LABEL_FONT,
    MARGIN,
    TITLE_FONT,
    blank,
    enlarged,
    font,
    legible,
    magnification,
    write_png,
)
from mdssl.errors import check_name, check_number
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_file
from mdssl.terminal import printable

_UNLABELLED_ROWS = 8
_LONGEST_NAME = 40
"""Characters of a class name."""


def contact_sheet(
    dataset: Dataset, split: str, path: str | Path, *, per_class: int = 10, max_classes: int = 20, seed: int = 0
) -> None:
    """Write a PNG with ``per_class`` random images of each of the first ``max_classes`` classes.

    Args:
        dataset: what to show; made-up domains are labelled as such.
        split: ``train`` or ``test``.
        path: the PNG file; its folder is made if need be.
        per_class: images in a row; a class that has fewer shows what it has.
        max_classes: rows; the title says when there are more classes.
        seed: of the choice of images.

    Raises:
        ValueError: no such split, a count below 1, a damaged dataset, or a path that cannot be written, or has
            a file of another.
    """
    check_file(Location.of(path))
    check_number("images per class", per_class, low=1)
    check_number("number of classes", max_classes, low=1)
    rng = np.random.default_rng(seed)
    if dataset.is_labelled:
        images, labels = dataset.split(split).images, dataset.split(split).labels
        names = dataset.classes[:max_classes]
    else:
        # Without labels the rows are just more images.
        check_name("split of a dataset without labels", split, ("train",))
        images = dataset.pretraining_images()
        names = ("",) * min(max_classes, _UNLABELLED_ROWS, -(-len(images) // per_class))
        labels = rng.permutation(len(images)) // per_class
    rows = [_choose(rng, labels, label, per_class) for label in range(len(names))]

    title, subtitle = _titles(dataset, split, len(names))
    title_font, label_font = font(TITLE_FONT, [title]), font(LABEL_FONT, [subtitle, *map(printable, names)])
    names = [_shortened(legible(printable(name), label_font)) for name in names]
    side = dataset.image_size * magnification(dataset.image_size)
    label_width = max(int(label_font.getlength(name)) for name in names) + MARGIN
    head = MARGIN + TITLE_FONT + LABEL_FONT + 2 * GAP + MARGIN
    text_width = max(int(title_font.getlength(title)), int(label_font.getlength(subtitle)))
    width = max(label_width + per_class * (side + GAP), text_width) + 2 * MARGIN
    sheet, draw = blank(width, head + len(rows) * (side + GAP) + MARGIN)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    draw.text((MARGIN, MARGIN + TITLE_FONT + 2 * GAP), subtitle, FAINT, label_font)
    for index, (name, chosen) in enumerate(zip(names, rows, strict=True)):
        top = head + index * (side + GAP)
        draw.text((MARGIN, top + side // 2), name, INK, label_font, anchor="lm")
        for column, row in enumerate(chosen):
            sheet.paste(enlarged(images[row]), (MARGIN + label_width + column * (side + GAP), top))
    write_png(sheet, Location.of(path))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _choose(rng: np.random.Generator, labels: np.ndarray, label: int, count: int) -> np.ndarray:
    rows = rng.permutation(np.flatnonzero(labels == label))
    return np.sort(rows[:count])


def _titles(dataset: Dataset, split: str, shown: int) -> tuple[str, str]:
    size, total = dataset.image_size, len(dataset.classes)
    count = dataset.counts[split] if total else dataset.pretraining_count
    classes = f"{total} classes" if shown == total else f"the first {shown} of {total} classes"
    name = f"{dataset.name} ({dataset.variant})" if dataset.variant else dataset.name
    title = f"{name}, {split}: {count:,} images of {size}x{size} pixels, {classes if total else 'without labels'}"
    return title, dataset.description
