"""A contact sheet of a prepared dataset, one row per class, and the drawing functions that other sheets share."""

import io
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mdssl.data.dataset import Dataset
from mdssl.errors import InputError, check_name, check_number
from mdssl.storage.location import Location
from mdssl.storage.ownership import MADE_BY, check_file
from mdssl.terminal import printable

# Pixels of the sheet. A 32x32 image is shown at twice its size, one sheet pixel per image pixel from 64 on.
THUMBNAIL = 64
GAP = 4
MARGIN = 16
TITLE_FONT, LABEL_FONT, SMALL_FONT = 20, 15, 12
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "white"
_ASCII = frozenset(map(chr, range(32, 127))) | {"…"}
_UNLABELLED_ROWS = 8
_LONGEST_NAME = 40
"""Longer class names are cut off after this number of characters."""


def contact_sheet(
    dataset: Dataset, split: str, path: str | Path, *, per_class: int = 10, max_classes: int = 20, seed: int = 0
) -> None:
    """Write a PNG with ``per_class`` random images of each of the first ``max_classes`` classes.

    The folder of ``path`` is created if necessary. In a dataset without labels, all rows have random images.

    Raises:
        InputError: unknown split, a count below 1, a damaged dataset, or a path that cannot be written or is a file
            that mdssl did not write.
    """
    check_file(Location.of(path))
    check_number("images per class", per_class, low=1)
    check_number("number of classes", max_classes, low=1)
    rng = np.random.default_rng(seed)
    if dataset.is_labelled:
        images, labels = dataset.split(split).images, dataset.split(split).labels
        names: Sequence[str] = dataset.classes[:max_classes]
    else:
        check_name("split of a dataset without labels", split, ("train",))
        images = dataset.pretraining_images()
        names = ("",) * min(max_classes, _UNLABELLED_ROWS, -(-len(images) // per_class))
        labels = rng.permutation(len(images)) // per_class
    rows = [np.sort(rng.permutation(np.flatnonzero(labels == label))[:per_class]) for label in range(len(names))]

    title, subtitle = _titles(dataset, split, len(names))
    title_font, label_font = font(TITLE_FONT, [title]), font(LABEL_FONT, [subtitle, *map(printable, names)])
    names = [legible(printable(name), label_font) for name in names]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
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


def _titles(dataset: Dataset, split: str, shown: int) -> tuple[str, str]:
    size, total = dataset.image_size, len(dataset.classes)
    count = dataset.counts[split] if total else dataset.pretraining_count
    classes = f"{total} classes" if shown == total else f"the first {shown} of {total} classes"
    name = f"{dataset.name} ({dataset.variant})" if dataset.variant else dataset.name
    title = f"{name}, {split}: {count:,} images of {size}x{size} pixels, {classes if total else 'without labels'}"
    return title, dataset.description


def blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Create an empty sheet, and the object that draws on it."""
    sheet = Image.new("RGB", (width, height), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def font(size: int, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """Return a font that has the characters of ``texts``.

    It is Pillow's default font for ASCII, otherwise DejaVu Sans of matplotlib, which has the Latin, Greek, Cyrillic,
    Hebrew and Arabic scripts, or a font of the system.
    """
    characters = frozenset("".join(texts)) - _ASCII
    found = ImageFont.truetype(_font_file(characters), size) if characters else ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # load_default returns one if a size is given
    return found


def legible(text: str, text_font: ImageFont.FreeTypeFont) -> str:
    """``text`` with ``\\u…`` for each character that ``text_font`` lacks and would draw as a box."""
    has = _characters_of(text_font.path) if isinstance(text_font.path, str) else _ASCII
    return "".join(char if char in has else char.encode("unicode_escape").decode() for char in text)


@cache
def _font_file(characters: frozenset[str]) -> str:
    """Find the first font with all ``characters``, else the one with the most of them."""
    from matplotlib import font_manager

    files = [font_manager.findfont("DejaVu Sans"), *sorted(font_manager.findSystemFonts())]
    complete = (file for file in files if characters <= _characters_of(file))
    return next(complete, None) or max(files, key=lambda file: len(characters & _characters_of(file)))


@cache
def _characters_of(file: str) -> frozenset[str]:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as opened:
            return frozenset(map(chr, opened.getBestCmap() or ()))
    except (TTLibError, OSError):
        return frozenset()


def enlarged(image: np.ndarray) -> Image.Image:
    """Enlarge ``image``, uint8 (S, S, 3), to a thumbnail without interpolation."""
    scale = magnification(image.shape[0])
    return Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def magnification(image_size: int) -> int:
    """Sheet pixels per image pixel, at least one."""
    return max(1, THUMBNAIL // image_size)


def write_png(sheet: Image.Image, path: Location, what: str = "contact sheet") -> None:
    """Write ``sheet`` to the PNG file ``path``; the same sheet gives the same bytes.

    Raises:
        InputError: the path cannot be written; the message calls the picture ``what``.
    """
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text("Software", MADE_BY)
    sheet.save(buffer, "PNG", optimize=True, pnginfo=mark)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"{what} {str(path)!r} cannot be written: {error}. Give another path.") from error
