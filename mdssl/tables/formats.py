"""A view of the leaderboard as text: for a terminal, Markdown, LaTeX; or as data: CSV, JSON, Parquet.

Text has one decimal, three in a column of costs below 10, and the best score of each column in bold where there is
bold. Data has all digits, and of a mean over seeds each number in a column of its own.
"""

from __future__ import annotations

import io
import json
import re
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mdssl.errors import InputError, check_name
from mdssl.tables.drawing import TextColumn, side_by_side, wrapped
from mdssl.tables.spread import Measure
from mdssl.tables.view import View
from mdssl.terminal import printable

FORMATS = ("table", "markdown", "csv", "parquet", "latex", "json")
SUFFIXES = {
    ".txt": "table", ".md": "markdown", ".csv": "csv", ".parquet": "parquet", ".tex": "latex", ".json": "json"
}  # fmt: skip

WITH_NOTES = ("table", "markdown", "latex")
"""Formats whose text holds the notes of the view as well."""

_WHOLE = ("views_seen",)
_HEADERS = {"train_mixture": "mixture", "lambda1": "λ1", "lambda2": "λ2"}
_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"
}  # fmt: skip
_MARKDOWN = {character: "\\" + character for character in "\\|*_`<[]~$"} | {"&": "&amp;"}


class Column(NamedTuple):
    """The texts of a column, whether they are numbers, and which rows are its best."""

    header: str
    cells: list[str]
    number: bool
    best: frozenset[int]


def format_for(output: str | None, asked: str | None) -> str:
    """The format of a file by its name, or of what is printed where ``output`` is None, if not ``asked`` for by name.

    Raises:
        ValueError: there is no such format; the name says none, or another one; Parquet cannot be printed.
    """
    if asked is not None:
        check_name("format", asked, FORMATS)
    if output is None:
        if asked == "parquet":
            raise InputError("format parquet is not text; say in which file with --output FILE.parquet.")
        return asked or "table"
    suffix = next((suffix for suffix in SUFFIXES if output.lower().endswith(suffix)), None)
    if asked is None and suffix is None:
        raise InputError(
            f"output {output!r} does not say its format; end it in {', '.join(SUFFIXES)}, or add --format."
        )
    if asked and suffix and SUFFIXES[suffix] != asked:
        raise InputError(
            f"output {output!r} and format {asked} do not agree; leave --format out, or name another file."
        )
    return asked or SUFFIXES[suffix]


def to_bytes(view: View, name: str) -> bytes:
    """The view in one of `FORMATS`, as the content of a file."""
    frame = view.frame
    if name == "parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if name == "table":
        console = Console(file=io.StringIO(), width=80)
        print_view(view, console)
        text = printable(console.file.getvalue())
    elif name == "csv":
        text = frame.to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%dT%H:%M:%S.%f%z")
    elif name == "json":
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
        text = json.dumps(records, ensure_ascii=False, indent=2, default=lambda time: time.isoformat()) + "\n"
    else:
        text = {"markdown": to_markdown, "latex": to_latex}[name](view)
    return text.encode(errors="backslashreplace")


def print_view(view: View, console: Console) -> None:
    """Print it in as many parts side by side as the console is narrow; each part repeats the keys."""
    if view.frame.empty:
        console.print("no rows to show", *view.notes, sep="\n", markup=False, soft_wrap=True)
        return
    columns = []
    for column in _columns(view):
        cells = [text.replace("+", "+\n") if column.header == "mixture" else text for text in column.cells]
        header = _broken(column.header, max((cell_len(line) for text in cells for line in text.split("\n")), default=0))
        columns.append(TextColumn(header, cells, right=column.number, bold=column.best))
    columns = wrapped(columns, console.width)
    for number, part in enumerate(side_by_side(columns, len(view.keys), console.width)):
        if number:
            console.print()
        console.print(part, crop=False)
    for note in view.notes:
        console.print(Text(note), soft_wrap=True)


def _broken(header: str, width: int) -> str:
    """``header`` in lines of ``width`` cells, or as wide as its longest word where that is wider."""
    words = re.split(r"(?<=[-_+ =])(?=[^ -])", header)
    width = max(width, *(cell_len(word.rstrip()) for word in words))
    lines = [words[0]]
    for word in words[1:]:
        if cell_len((lines[-1] + word).rstrip()) <= width:
            lines[-1] += word
        else:
            lines.append(word)
    return "\n".join(line.rstrip() for line in lines)


def to_markdown(view: View) -> str:
    """A table as GitHub reads it, and below it each note as a paragraph."""
    lines = []
    columns = _columns(view)
    lines.append([_escaped(column.header, _MARKDOWN) for column in columns])
    lines.append(["---:" if column.number else "---" for column in columns])
    for number in range(len(view.frame)):
        cells = [(_escaped(column.cells[number], _MARKDOWN), number in column.best) for column in columns]
        lines.append([f"**{cell}**" if best else cell for cell, best in cells])
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return table + "".join(f"\n{_escaped(note, _MARKDOWN)}\n" for note in view.notes)


def to_latex(view: View) -> str:
    r"""A ``tabular`` for the package booktabs, and below it each note as a comment."""
    columns = _columns(view)
    lines = [_latex_line([(column.header, False) for column in columns])]
    for number in range(len(view.frame)):
        lines.append(_latex_line([(column.cells[number], number in column.best) for column in columns]))
    places = "".join("r" if column.number else "l" for column in columns)
    head, body = lines[0], "".join(lines[1:])
    table = f"\\begin{{tabular}}{{{places}}}\n\\toprule\n{head}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    return table + "".join(f"% {_escaped(note, {})}\n" for note in view.notes)


def _latex_line(cells: list[tuple[str, bool]]) -> str:
    texts = []
    for text, best in cells:
        text = re.sub(r"λ(\d)", r"$\\lambda_\1$", _escaped(text, _LATEX))
        text = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)
        texts.append(f"\\textbf{{{text}}}" if best else text)
    return " & ".join(texts) + " \\\\\n"


def _escaped(text: str, characters: dict[str, str]) -> str:
    return "".join(characters.get(character, character) for character in " ".join(printable(text).split()))


def _columns(view: View) -> list[Column]:
    keys = [
        Column(_HEADERS.get(name, name), *_key_cells(view.frame[name]), frozenset()) for name in view.keys
    ]  # fmt: skip
    return keys + [_measured(view.frame, measure) for measure in view.measures]


def _key_cells(values: pd.Series) -> tuple[list[str], bool]:
    """Texts, and whether they are numbers."""
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return ["-" if pd.isna(value) else _key(value) for value in values.tolist()], number


def _key(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, pd.Timestamp):
        return value.isoformat(timespec="seconds")
    # A tab is as wide as the terminal likes, and an error may have lines.
    return " ".join(printable(str(value)).split())


def _measured(frame: pd.DataFrame, measure: Measure) -> Column:
    numbers = [frame[name].astype(float).to_numpy() for name in measure.names]
    size = np.nanmax(np.abs(numbers[0]), initial=0)
    digits = 1 if measure.score or size >= 10 else 3
    if measure.of in _WHOLE:
        digits = 0
    signed = "+" if measure.difference else ""
    # Python rounds the number that there is, NumPy one that is a little beside it.
    shown = [round(value, digits) for value in numbers[0].tolist()]
    cells = []
    for value, *over_seeds in zip(shown, *numbers[1:], strict=True):
        # Adding 0.0 turns -0.0 into 0.0.
        text = "-" if np.isnan(value) else f"{value + 0.0:{signed}.{digits}f}"
        if over_seeds and text != "-":
            deviation, seeds = over_seeds
            text += f"{'' if np.isnan(deviation) else f' ± {deviation:.{digits}f}'} ({seeds:.0f})"
        cells.append(text)
    most = max((value for value in shown if not np.isnan(value)), default=None)
    best = [row for row, value in enumerate(shown) if value == most] if measure.score else []
    header = re.sub(r"^lambda(?=\d=)", "λ", measure.header)
    return Column(header, cells, True, frozenset(best))
