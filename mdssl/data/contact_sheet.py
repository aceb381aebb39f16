"""A picture of a prepared dataset: one row per class, so that a person sees at a glance what a number is about."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdssl.data.prepared import Dataset
from mdssl.errors import InputError, check_number
from mdssl.storage import Location

# Pixels of the sheet. A 32x32 image is shown at twice its size, one sheet pixel per image pixel from 64 on.
THUMBNAIL = 64
GAP = 4
MARGIN = 16
TITLE_FONT, LABEL_FONT = 20, 15
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "white"


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
        ValueError: no such split, a count below 1, a damaged dataset, or a path that cannot be written.
    """
    check_number("images per class", per_class, low=1)
    check_number("number of classes", max_classes, low=1)
    images, labels = dataset.split(split).images, dataset.split(split).labels
    names = dataset.classes[:max_classes]
    rng = np.random.default_rng(seed)
    rows = [_choose(rng, labels, label, per_class) for label in range(len(names))]

    title, subtitle = _titles(dataset, split, len(names))
    title_font, label_font = ImageFont.load_default(TITLE_FONT), ImageFont.load_default(LABEL_FONT)
    # At least the pixels that there are: a sheet of larger images shows them whole.
    scale = max(1, THUMBNAIL // dataset.image_size)
    side = dataset.image_size * scale
    label_width = max(int(label_font.getlength(name)) for name in names) + MARGIN
    head = MARGIN + TITLE_FONT + LABEL_FONT + 2 * GAP + MARGIN
    text_width = max(int(title_font.getlength(title)), int(label_font.getlength(subtitle)))
    width = max(label_width + per_class * (side + GAP), text_width) + 2 * MARGIN
    sheet = Image.new("RGB", (width, head + len(rows) * (side + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    draw.text((MARGIN, MARGIN + TITLE_FONT + 2 * GAP), subtitle, FAINT, label_font)
    for index, (name, chosen) in enumerate(zip(names, rows, strict=True)):
        top = head + index * (side + GAP)
        draw.text((MARGIN, top + side // 2), name, INK, label_font, anchor="lm")
        for column, row in enumerate(chosen):
            thumbnail = Image.fromarray(images[row].repeat(scale, axis=0).repeat(scale, axis=1))
            sheet.paste(thumbnail, (MARGIN + label_width + column * (side + GAP), top))
    _save(sheet, Path(path))


def _choose(rng: np.random.Generator, labels: np.ndarray, label: int, count: int) -> np.ndarray:
    rows = rng.permutation(np.flatnonzero(labels == label))
    return np.sort(rows[:count])


def _titles(dataset: Dataset, split: str, shown: int) -> tuple[str, str]:
    size, total = dataset.image_size, len(dataset.classes)
    classes = f"{total} classes" if shown == total else f"the first {shown} of {total} classes"
    title = f"{dataset.name}, {split}: {dataset.counts[split]:,} images of {size}x{size} pixels, {classes}"
    return title, dataset.description


def _save(sheet: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        Location.of(path).write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"contact sheet {str(path)!r} cannot be written: {error}. Give another path.") from error
