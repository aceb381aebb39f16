"""What a gallery holds: figures that can be drawn, with their words, and reasons why others cannot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mdssl.figures.style import Figure


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A figure that can be drawn.

    Attributes:
        figure: which kind, such as ``lambda-heatmap``.
        name: of its file, without a suffix; no other entry of the gallery has it.
        title: one line.
        caption: what it shows, of which settings, over how many seeds: plain text.
        alt: what is to be seen, in words with numbers, for those who do not see it.
        draw: makes it; ``draw(width=3.3)`` at another width in inches.
    """

    figure: str
    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[..., Figure]


@dataclass(frozen=True)
class Gallery:
    """Attributes:
    entries: figures that can be drawn.
    absent: by kind of figure, the reason why it cannot be drawn.
    """

    entries: list[Entry] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def file_name(*parts: str) -> str:
    """A name that every file system and every web page takes, from ``parts`` of which some may be of others."""
    return "-".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.")[:60] for part in parts if part)
