"""One image of any kind in, RGB uint8 of the wanted size out.

What becomes of the less usual kinds, so that nobody has to guess:

- alpha, palettes and colour keys with transparency: composited on white;
- 16-bit grey: scaled from 0..65535 to 0..255, not clipped; 16-bit colour: the high byte, as Pillow reads it;
- CMYK, YCbCr, 1-bit, palette: as Pillow converts them; grey is repeated three times;
- EXIF orientation: applied; several frames: the first.
"""

import io
import warnings
from collections import Counter

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from mdssl.data.sources.base import RawImage
from mdssl.errors import InputError

SMALLEST_SIZE, LARGEST_SIZE = 8, 1024
"""Of prepared images, in pixels."""
SEVERAL_FRAMES = "images with several frames or pages, of which the first is taken"
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# Pillow refuses whole photographs of microscopes and satellites, and PNG with long texts or profiles, as attacks.
LARGEST_PIXELS = 2**30
Image.MAX_IMAGE_PIXELS = LARGEST_PIXELS // 2  # It warns from here on, and refuses twice as many.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def convert(raw: RawImage, size: int, resize_filter: str, where: str, notes: Counter[str] | None = None) -> np.ndarray:
    """Decode ``raw`` and bring it to uint8 (size, size, 3).

    Both sides are resized to ``size`` directly, without keeping the aspect ratio, as the paper does; Pillow's filters
    widen when they shrink, so nothing aliases. An RGB image that has the size already stays bit for bit as it is.

    Args:
        notes: counts images of which not all is taken, by what is not.

    Raises:
        ValueError: it cannot be decoded; the message names ``where``.
    """
    try:
        image = _open(raw)
        if notes is not None and getattr(image, "is_animated", False):
            notes[SEVERAL_FRAMES] += 1
        # Neither this nor _to_rgb copies a photograph that is as it should be: two copies were a quarter of the time.
        ImageOps.exif_transpose(image, in_place=True)
        image = _to_rgb(image)
        if image.size != (size, size):
            image = image.resize((size, size), FILTERS[resize_filter])
        return np.asarray(image)
    except FileNotFoundError as error:
        raise InputError(f"image {where} is missing now. Put it back, or prepare without it.") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"image {where} has more than {LARGEST_PIXELS:,} pixels, which would take gigabytes of memory. Make it "
            "smaller, or cut it up."
        ) from error
    # Pillow's decoders raise nearly anything on broken bytes, SyntaxError and struct.error among them.
    except Exception as error:
        raise InputError(f"image {where} cannot be decoded: {error}. Replace it or take it out.") from error


def _open(raw: RawImage) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.shape[2:] == (1,) else raw)
    # Bytes for a path, too: Pillow keeps the file of a lazily read image open until it is collected.
    data = raw if isinstance(raw, bytes) else raw.read_bytes()
    if not data:
        raise InputError("it is empty")
    if data.startswith(b"version https://git-lfs.github.com"):
        raise InputError("it is a pointer of Git LFS; run `git lfs pull` where it is from")
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        # Pillow names the object in memory, which says nothing, and is another one each time.
        raise InputError("it is of no kind that Pillow knows") from None
    image.load()
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise InputError("its pixels are floats without a known range; save it as 8 or 16 bit integers")
    if image.has_transparency_data:
        # White, as the page that logos, drawings and cut-out objects are made for; black would swallow dark lines.
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns nearly every 16-bit image white.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"its values go from {values.min()} to {values.max()}; 16-bit ones go from 0 to 65535")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
