"""What contact sheets are drawn with: sizes, inks, thumbnails, and a file that appears whole or not at all."""

import io
from collections.abc import Iterable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import MADE_BY

# Pixels of the sheet. A 32x32 image is shown at twice its size, one sheet pixel per image pixel from 64 on.
THUMBNAIL = 64
GAP = 4
MARGIN = 16
TITLE_FONT, LABEL_FONT, SMALL_FONT = 20, 15, 12
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "white"
_ASCII = frozenset(map(chr, range(32, 127))) | {"…"}


def blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet, and what draws on it."""
    sheet = Image.new("RGB", (width, height), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def font(size: int, texts: Iterable[str] = ()) -> ImageFont.FreeTypeFont:
    """A font for ``texts``: Pillow's own for ASCII, else matplotlib's, else one of this machine that has more of them.

    Matplotlib's has the Latin, Greek, Cyrillic, Hebrew and Arabic scripts.
    """
    signs = frozenset("".join(texts)) - frozenset(_ASCII)
    return ImageFont.truetype(_font_file(signs), size) if signs else ImageFont.load_default(size)


def legible(text: str, its_font: ImageFont.FreeTypeFont) -> str:
    """``text`` with ``\\u…`` for each character that ``its_font`` does not have, which it would draw as a box."""
    has = _signs_of(its_font.path) if isinstance(its_font.path, str) else _ASCII
    return "".join(sign if sign in has else sign.encode("unicode_escape").decode() for sign in text)


@cache
def _font_file(signs: frozenset[str]) -> str:
    from matplotlib import font_manager

    files = [font_manager.findfont("DejaVu Sans"), *sorted(font_manager.findSystemFonts())]
    best, most = files[0], -1
    for file in files:
        has = len(signs & _signs_of(file))
        if has > most:
            best, most = file, has
        if has == len(signs):
            break
    return best


@cache
def _signs_of(file: str) -> frozenset[str]:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(file, fontNumber=0, lazy=True) as opened:
            return frozenset(map(chr, opened.getBestCmap() or ()))
    except (TTLibError, OSError):
        return frozenset()


def enlarged(image: np.ndarray) -> Image.Image:
    """A thumbnail of uint8 (S, S, 3) with each pixel as a square, so that it shows what an encoder gets."""
    scale = magnification(image.shape[0])
    return Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def magnification(image_size: int) -> int:
    """Sheet pixels per image pixel. At least one: a sheet of larger images shows them whole."""
    return max(1, THUMBNAIL // image_size)


def write_png(sheet: Image.Image, path: Location, what: str = "contact sheet") -> None:
    """Write ``sheet``; the same one gives the same bytes.

    Args:
        sheet: the picture.
        path: a PNG file in a folder or a bucket.
        what: it is, for the message.

    Raises:
        ValueError: the path cannot be written.
    """
    buffer = io.BytesIO()
    mark = PngInfo()
    mark.add_text("Software", MADE_BY)
    sheet.save(buffer, "PNG", optimize=True, pnginfo=mark)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"{what} {str(path)!r} cannot be written: {error}. Give another path.") from error
