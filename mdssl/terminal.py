"""Safe output: untrusted names and errors may contain sequences that control the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tabs and line ends, marks that reverse the direction of text, and lone surrogates."""


def printable(text: str) -> str:
    """``text`` with each control character written as its escape, as in ``\\x1b[2J``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(console: Console, *lines: str) -> None:
    """Print ``lines`` without markup, highlighting or wrapping."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


class Terminal(Console):
    """A console for untrusted text: only rich's styles produce control sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            safe = segment.control or not _CONTROL.search(segment.text)
            yield segment if safe else segment._replace(text=printable(segment.text))
