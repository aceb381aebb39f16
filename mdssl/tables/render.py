"""One table, as text (terminal, Markdown, LaTeX, HTML) or as data (CSV, JSON, Parquet).

Text has one decimal, three in a column of costs below 10, and the best score of each column in bold where there is
bold. Data has all digits, and separate columns for the numbers of a mean over seeds.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mdssl.errors import InputError, check_name
from mdssl.tables.terminal_table import TextColumn, side_by_side, wrapped
from mdssl.terminal import printable

FORMATS = ("table", "markdown", "csv", "parquet", "latex", "json", "html")
SUFFIXES = {
    ".txt": "table", ".md": "markdown", ".csv": "csv", ".parquet": "parquet", ".tex": "latex", ".json": "json",
    ".html": "html"
}  # fmt: skip

WITH_NOTES = ("table", "markdown", "latex", "html")
"""Formats whose text holds the notes of the table as well."""
SIGNIFICANT = 0.05
"""Corrected p-value below which a difference has a star."""
TERMINAL_ROWS = 200
"""Rows of a table that a terminal shows."""
_ROOM = 20
"""Cells that a header may take for the words that mark a part of a dataset, where the terminal is wide enough."""
HEADERS = {"train_mixture": "mixture", "lambda1": "λ1", "lambda2": "λ2"}

_WHOLE = ("views_seen", "step")
_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"
}  # fmt: skip
_MARKDOWN = {character: "\\" + character for character in "\\|*_`<[]~$"} | {"&": "&amp;"}


class Measure(NamedTuple):
    """A column of numbers.

    Attributes:
        header: the text above it.
        of: the leaderboard's column.
        names: columns of the table's frame: the value; or mean, deviation, interval (low, high),
            number, and of a difference its p-value.
        score: whether it is in percent, and more is better.
        difference: whether it is one to a baseline, so that its sign matters.
    """

    header: str
    of: str
    names: tuple[str, ...]
    score: bool
    difference: bool


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        frame: all its values, numbers in full: first ``keys``, the columns that identify a row, then numbers.
        keys: names of columns.
        measures: what is shown of the numbers.
        notes: sentences that a reader needs.
        remarks: names of columns that follow the numbers.
    """

    frame: pd.DataFrame
    keys: tuple[str, ...]
    measures: tuple[Measure, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...] = ()


class _Column(NamedTuple):
    """The texts of a column, whether they are numbers, and which rows are its best."""

    header: str
    cells: list[str]
    number: bool
    best: frozenset[int] = frozenset()


def format_for(output: str | None, asked: str | None) -> str:
    """Return the format ``asked``, or that of the file name ``output``; ``table`` if both are None.

    Raises:
        ValueError: an unknown format; a file name with an unknown suffix, or another format's; Parquet without a file.
    """
    if asked is not None:
        check_name("format", asked, FORMATS)
    if output is None:
        if asked == "parquet":
            raise InputError("format parquet cannot be printed; give --output FILE.parquet.")
        return asked or "table"
    suffix = PurePath(output).suffix.lower()
    if asked is None:
        check_name("suffix of --output", suffix, SUFFIXES, "With --format, any file name is allowed.")
    named = SUFFIXES.get(suffix)
    found = asked or SUFFIXES[suffix]
    if named and named != found:
        raise InputError(
            f"output {output!r} and format {asked} do not match; leave --format out, or give another file name."
        )
    return found


def to_bytes(table: Table, name: str) -> bytes:
    """Return the table in one of `FORMATS`, as the content of a file."""
    frame = table.frame
    if name == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if name == "table":
        printed = io.StringIO()
        print_table(table, Console(file=printed, width=80), rows=None)
        text = printable(printed.getvalue())
    elif name == "csv":
        text = frame.to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%dT%H:%M:%S.%f%z")
    elif name == "json":
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
        text = json.dumps(records, ensure_ascii=False, indent=2, default=lambda time: time.isoformat()) + "\n"
    else:
        text = {"markdown": _to_markdown, "latex": _to_latex, "html": _to_html}[name](table)
    return text.encode(errors="backslashreplace")


def print_table(table: Table, console: Console, *, rows: int | None = TERMINAL_ROWS) -> None:
    """Print the first ``rows`` (all if None), with columns split into parts that fit the width of the console.

    Each part repeats the keys. No number is truncated, and a note gives the number of further rows.
    """
    if table.frame.empty:
        console.print("no rows to show", *table.notes, sep="\n", markup=False, soft_wrap=True)
        return
    whole = _columns(table)
    for room in (_ROOM, 0):
        columns = wrapped([_text_column(column, rows, room) for column in whole], console.width)
        parts = side_by_side(columns, len(table.keys), console.width)
        if len(parts) == 1:
            break
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(part, crop=False)
    total = len(table.frame)
    more = [f"{rows} of {total:,} rows; all with mdssl leaderboard --output FILE"] if rows and total > rows else []
    for note in (*more, *table.notes):
        console.print(Text(note), soft_wrap=True)


def _text_column(column: _Column, rows: int | None, room: int) -> TextColumn:
    """The first ``rows`` of ``column``. A header with words in parentheses may be ``room`` cells wide."""
    # A mixture breaks after each domain, and a mean over seeds before its interval.
    at, broken = ("+", "+\n") if column.header == "mixture" else (" [", "\n[") if column.number else ("", "")
    cells = [text.replace(at, broken) if at else text for text in column.cells[:rows]]
    width = max(cell_len(line) for text in cells for line in text.split("\n"))
    header = _broken(column.header, max(width, room) if "(" in column.header else width)
    best = frozenset(row for row in column.best if row < len(cells))
    return TextColumn(header, cells, right=column.number, bold=best)


def _broken(header: str, width: int) -> str:
    """``header`` in lines of ``width`` cells, or as wide as its longest word where that is wider.

    Words in parentheses, as in "svhn (4,434 of 73,257)", begin a line, and "of" stays with its number.
    """
    parts = [header] if cell_len(header) <= width else re.split(r" (?=\()|(?<=\)) ", header)
    words = [re.split(r"(?<=[-_+ =])(?<!\bof )(?=[^ -])", part) for part in parts]
    width = max(width, *(cell_len(word.rstrip()) for own in words for word in own))
    lines = []
    for first, *others in words:
        lines.append(first)
        for word in others:
            if cell_len((lines[-1] + word).rstrip()) <= width:
                lines[-1] += word
            else:
                lines.append(word)
    return "\n".join(line.rstrip() for line in lines)


# By hand: pandas' to_markdown needs another package, and its to_latex takes 40 seconds for 10,000 rows.
def _to_markdown(table: Table) -> str:
    """Return a table as GitHub reads it, and below it each note as a paragraph."""
    columns, header, lines = _marked_up(table, lambda text: _escaped(text, _MARKDOWN), "**{}**")
    rule = ["---:" if column.number else "---" for column in columns]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))
    return text + "".join(f"\n{_escaped(note, _MARKDOWN)}\n" for note in table.notes)


def _to_latex(table: Table) -> str:
    r"""Return a ``tabular`` for the package booktabs, and below it each note as a comment."""
    columns, header, lines = _marked_up(table, _latex_cell, r"\textbf{{{}}}")
    places = "".join("r" if column.number else "l" for column in columns)
    head, *body = (" & ".join(cells) + " \\\\\n" for cells in (header, *lines))
    text = (
        f"\\begin{{tabular}}{{{places}}}\n\\toprule\n{head}\\midrule\n{''.join(body)}\\bottomrule\n\\end{{tabular}}\n"
    )
    return text + "".join(f"% {_escaped(note, {})}\n" for note in table.notes)


def _to_html(table: Table) -> str:
    """Return a ``table`` element, and below it each note as a paragraph."""
    columns, header, lines = _marked_up(table, lambda text: html.escape(_escaped(text, {})), "<b>{}</b>")
    tags = ['<td style="text-align:right">' if column.number else "<td>" for column in columns]
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = [
        "<tr>" + "".join(f"{tag}{cell}</td>" for tag, cell in zip(tags, cells, strict=True)) + "</tr>\n"
        for cells in lines
    ]
    text = f"<table>\n<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{''.join(body)}</tbody>\n</table>\n"
    return text + "".join(f"<p>{html.escape(_escaped(note, {}))}</p>\n" for note in table.notes)


def _marked_up(
    table: Table, escape: Callable[[str], str], bold: str
) -> tuple[list[_Column], list[str], list[tuple[str, ...]]]:
    """Return the columns, their headers and the rows of cells, escaped; the best in ``bold``."""
    columns = _columns(table)
    cells = [
        [bold.format(escape(text)) if row in column.best else escape(text) for row, text in enumerate(column.cells)]
        for column in columns
    ]
    return columns, [escape(column.header) for column in columns], list(zip(*cells, strict=True))


def _latex_cell(text: str) -> str:
    text = re.sub(r"λ(\d)", r"$\\lambda_\1$", _escaped(text, _LATEX))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)


def _escaped(text: str, characters: dict[str, str]) -> str:
    return "".join(characters.get(character, character) for character in " ".join(printable(text).split()))


def _columns(table: Table) -> list[_Column]:
    keys, remarks = ([_key_column(table.frame, name) for name in names] for names in (table.keys, table.remarks))
    return [*keys, *(_number_column(table.frame, measure) for measure in table.measures), *remarks]


def _key_column(frame: pd.DataFrame, name: str) -> _Column:
    values = frame[name]
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    codes, different = pd.factorize(values, use_na_sentinel=False)
    texts = ["-" if pd.isna(value) else _key(value) for value in different]
    return _Column(HEADERS.get(name, name), [texts[code] for code in codes], number)


def _key(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, pd.Timestamp):
        return value.isoformat(timespec="seconds")
    # On one line and without tabs, whose width is unknown.
    return " ".join(printable(str(value)).split())


def _number_column(frame: pd.DataFrame, measure: Measure) -> _Column:
    numbers = [frame[name].astype(float).to_numpy() for name in measure.names]
    size = np.nanmax(np.abs(numbers[0]), initial=0)
    digits = 0 if measure.of in _WHOLE else 1 if measure.score or size >= 10 else 3
    sign = "+" if measure.difference else ""
    # Python rounds exactly; NumPy first multiplies, which changes the number a little.
    shown = [round(value, digits) for value in numbers[0].tolist()]
    cells = []
    for value, *over_seeds in zip(shown, *numbers[1:], strict=True):
        # Adding 0.0 turns -0.0 into 0.0.
        text = "-" if np.isnan(value) else f"{value + 0.0:{sign}.{digits}f}"
        if over_seeds and text != "-":
            deviation, low, high, seeds, *p = over_seeds
            text += f"{'' if np.isnan(deviation) else f' ± {deviation:.{digits}f}'} ({seeds:.0f})"
            # With its sign, a bound that is rounded to zero tells on which side of zero it lies.
            text += "" if np.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
            text += "*" if p and p[0] < SIGNIFICANT else ""
        cells.append(text)
    most = max((value for value in shown if not np.isnan(value)), default=None)
    best = frozenset(row for row, value in enumerate(shown) if value == most) if measure.score else frozenset()
    return _Column(re.sub(r"^lambda(?=\d=)", "λ", measure.header), cells, True, best)
