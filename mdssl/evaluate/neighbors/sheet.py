"""The sheet of neighbors: a row for each query, with its nearest images beside it, framed in their domain's color."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdssl.data.contact_sheet import (
    FAINT,
    GAP,
    INK,
    LABEL_FONT,
    MARGIN,
    SMALL_FONT,
    THUMBNAIL,
    TITLE_FONT,
    blank,
    enlarged,
    font,
    legible,
)
from mdssl.evaluate.neighbors.search import Match, Picture
from mdssl.terminal import printable

COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
"""Okabe and Ito's, for any color vision. A ninth domain has the first color again; names are below the images."""

_OTHER, _GREY = "not searched", "#c8c8c8"
_FRAME = 4
_CELL = 92
"""Width of a column: names of about 14 letters."""
_LINE = SMALL_FONT + 3


def neighbor_sheet(matches: Sequence[Match], domains: Sequence[str], *, title: str, subtitle: str) -> Image.Image:
    """Draw a row for each of ``matches``.

    Args:
        domains: of the candidates, in the order of the legend.
        title, subtitle: text above the rows.
    """
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(domains)}
    pictures = [picture for match in matches for picture in (match.query, *match.neighbors)]
    title_font, label_font = font(TITLE_FONT, [title]), font(LABEL_FONT, [subtitle, *map(printable, domains)])
    small = font(SMALL_FONT, [printable(picture.source + picture.label) for picture in pictures])
    if any(match.query.source not in colors for match in matches):
        colors[_OTHER] = _GREY
    legend = [legible(printable(name), label_font) for name in colors]
    legend_width = sum(LABEL_FONT + GAP + int(label_font.getlength(name)) + MARGIN for name in legend)
    columns = max(len(match.neighbors) for match in matches)
    row_width = _CELL + MARGIN + columns * _CELL
    texts = (title_font.getlength(title), label_font.getlength(subtitle), legend_width)
    head = MARGIN + TITLE_FONT + 3 * (LABEL_FONT + 2 * GAP) + MARGIN
    row_height = THUMBNAIL + 2 * _FRAME + 3 * _LINE + MARGIN
    sheet, draw = blank(int(max(row_width, *texts)) + 2 * MARGIN, head + len(matches) * row_height)

    top = MARGIN
    draw.text((MARGIN, top), title, INK, title_font)
    top += TITLE_FONT + 2 * GAP
    draw.text((MARGIN, top), subtitle, FAINT, label_font)
    top += LABEL_FONT + 2 * GAP
    _draw_legend(draw, top, legend, colors.values(), label_font)
    top += LABEL_FONT + 3 * GAP
    draw.text((MARGIN, top), "query", FAINT, small)
    draw.text((MARGIN + _CELL + MARGIN, top), "nearest first, with cosine similarity", FAINT, small)
    for number, match in enumerate(matches):
        top = head + number * row_height
        _draw_cell(sheet, draw, (MARGIN, top), match.query, "", colors, small)
        line = MARGIN + _CELL + MARGIN // 2
        draw.line((line, top, line, top + row_height - MARGIN), "#d0d0d0")
        for column, (picture, similarity) in enumerate(zip(match.neighbors, match.similarities, strict=True)):
            left = MARGIN + _CELL + MARGIN + column * _CELL
            _draw_cell(sheet, draw, (left, top), picture, f"{similarity:.2f}", colors, small)
    return sheet


def _draw_legend(
    draw: ImageDraw.ImageDraw, top: int, names: Sequence[str], colors: Iterable[str], label_font: ImageFont.FreeTypeFont
) -> None:
    left = MARGIN
    for name, color in zip(names, colors, strict=True):
        draw.rectangle((left, top + 2, left + LABEL_FONT - 2, top + LABEL_FONT), color)
        draw.text((left + LABEL_FONT + GAP, top), name, INK, label_font)
        left += LABEL_FONT + GAP + int(label_font.getlength(name)) + MARGIN


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    picture: Picture,
    similarity: str,
    colors: dict[str, str],
    small: ImageFont.FreeTypeFont,
) -> None:
    """A thumbnail in its domain's color, gray if that domain is not searched, above its class and source."""
    left, top = corner
    side = THUMBNAIL + 2 * _FRAME
    draw.rectangle((left, top, left + side - 1, top + side - 1), colors.get(picture.source, _GREY))
    sheet.paste(_thumbnail(picture.image), (left + _FRAME, top + _FRAME))
    # The end of a file's path is the informative part.
    source = picture.source if picture.split else picture.source.rsplit("/", 1)[-1]
    lines = [(picture.label, INK), (source, FAINT), (similarity, FAINT)]
    for number, (text, ink) in enumerate((text, ink) for text, ink in lines if text):
        text = _shortened(legible(printable(text), small), small, _CELL - 2 * GAP)
        draw.text((left, top + side + GAP + number * _LINE), text, ink, small)


def _thumbnail(image: np.ndarray) -> Image.Image:
    """All thumbnails have one size."""
    thumbnail = enlarged(image)
    if thumbnail.size == (THUMBNAIL, THUMBNAIL):
        return thumbnail
    return thumbnail.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)


def _shortened(text: str, small: ImageFont.FreeTypeFont, width: int) -> str:
    if small.getlength(text) <= width:
        return text
    while text and small.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
