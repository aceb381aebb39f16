"""What contact sheets are drawn with: sizes, inks, thumbnails, and a file that appears whole or not at all."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdssl.errors import InputError
from mdssl.storage import Location

# Pixels of the sheet. A 32x32 image is shown at twice its size, one sheet pixel per image pixel from 64 on.
THUMBNAIL = 64
GAP = 4
MARGIN = 16
TITLE_FONT, LABEL_FONT, SMALL_FONT = 20, 15, 12
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "white"


def blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty sheet, and what draws on it."""
    sheet = Image.new("RGB", (width, height), PAPER)
    return sheet, ImageDraw.Draw(sheet)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


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
    sheet.save(buffer, "PNG", optimize=True)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"{what} {str(path)!r} cannot be written: {error}. Give another path.") from error
