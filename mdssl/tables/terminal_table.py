"""A table as rich draws it with ``box.SIMPLE_HEAD``, in a hundredth of the time: a leaderboard may have 10,000 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_BOLD = Style(bold=True)


@dataclass(frozen=True)
class TextColumn:
    """A column of a `TextTable`.

    Attributes:
        header: may have several lines, as may each cell.
        cells: the text of each row.
        right: whether to align cells to the right, as numbers.
        bold: numbers of the rows whose cell is bold.
    """

    header: str
    cells: Sequence[str]
    right: bool = True
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class TextTable:
    """Prints ``columns`` side by side, each as wide as its text, whatever the width of the console."""

    columns: Sequence[TextColumn]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tall = [column.cells for column in self.columns if any("\n" in text for text in column.cells)]
        heights = [1 + max(text.count("\n") for text in row) for row in zip(*tall, strict=True)]
        heights = heights or [1] * len(self.columns[0].cells)
        top = 1 + max(column.header.count("\n") for column in self.columns)
        first_line = list(accumulate(heights, initial=top))
        # By line of the output, the columns that are bold in it.
        bold = {line: set(range(len(self.columns))) for line in range(top)}
        columns = []
        last = len(self.columns) - 1
        for number, column in enumerate(self.columns):
            header = column.header.split("\n")
            lines = [""] * (top - len(header)) + header + _lines(column.cells, heights)
            # Spaces behind the last text would make every row as wide as the longest.
            columns.append(lines if number == last and not column.right else _padded(lines, column.right))
            for row in column.bold:
                bold.setdefault(first_line[row], set()).add(number)
        for line, cells in enumerate(zip(*columns, strict=True)):
            if line in bold:
                for number, cell in enumerate(cells):
                    yield Segment(" " if number else "")
                    yield Segment(cell, _BOLD if number in bold[line] else None)
                yield Segment("\n")
            else:
                yield Segment(" ".join(cells) + "\n")
            if line == top - 1:
                yield Segment("─" * (sum(_width(column) for column in self.columns) + last) + "\n")


def side_by_side(columns: Sequence[TextColumn], keys: int, width: int) -> list[TextTable]:
    """Split a table that is wider than ``width`` cells into tables of some of its columns each.

    Each repeats the first ``keys`` columns, or where these leave too little room, the numbers of the rows. A cell stays
    whole: only a column that is wider than that by itself makes a table wider than ``width``.
    """
    widths = [_width(column) for column in columns]
    if sum(widths) + len(columns) - 1 <= width:
        return [TextTable(columns)]
    numbers = TextColumn("row", [str(number) for number in range(1, 1 + len(columns[0].cells))])
    front, others = list(columns[:keys]), list(zip(columns[keys:], widths[keys:], strict=True))
    beside_numbers = width - _width(numbers) - 1
    widest = max((own for _, own in others if own <= beside_numbers), default=width)
    if not front or sum(widths[:keys]) + keys + widest > width:
        front, others = [numbers], list(zip(columns, widths, strict=True))
    taken = sum(_width(column) + 1 for column in front) - 1
    blocks: list[list[TextColumn]] = []
    room = -1
    for column, own in others:
        if not blocks or own + 1 > room:
            blocks.append(list(front))
            room = width - taken
        blocks[-1].append(column)
        room -= own + 1
    return [TextTable(block) for block in blocks]


def wrapped(columns: Sequence[TextColumn], width: int) -> list[TextColumn]:
    """``columns`` with long texts, not numbers, broken into lines that fit into what the others leave of ``width``.

    Each gets at least half of it, so that text stays readable beside many columns; `side_by_side` then splits these.
    """
    columns = list(columns)
    widths = [_width(column) for column in columns]
    for number, column in enumerate(columns):
        room = max(width - sum(widths) - (len(columns) - 1) + widths[number], width // 2)
        if column.right or widths[number] <= room:
            continue
        cells = [_wrapped(text, room) for text in column.cells]
        columns[number] = replace(column, cells=cells)
        widths[number] = _width(columns[number])
    return columns


def _wrapped(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    lines = Text(text).wrap(Console(width=width), width)
    return "\n".join(line.plain.rstrip() for line in lines)


def _width(column: TextColumn) -> int:
    texts = {column.header, *column.cells}
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _lines(texts: Sequence[str], heights: Sequence[int]) -> list[str]:
    """Return the lines of ``texts``, each padded with empty lines to the height of its row."""
    if max(heights, default=1) == 1:
        return list(texts)
    lines = [(text.split("\n"), height) for text, height in zip(texts, heights, strict=True)]
    return [line for own, height in lines for line in own + [""] * (height - len(own))]


def _padded(lines: list[str], right: bool) -> list[str]:
    widths = {line: cell_len(line) for line in set(lines)}
    widest = max(widths.values())
    spaces = {line: " " * (widest - width) for line, width in widths.items()}
    return [spaces[line] + line if right else line + spaces[line] for line in lines]
