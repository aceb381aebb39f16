import io
import re

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdssl.tables.terminal_table import TextColumn, TextTable

COLUMNS = {
    "flat": [TextColumn("method", ["a", "longer"], right=False), TextColumn("λ1", ["0.9", "-"], bold=frozenset({0}))],
    "high": [
        TextColumn("train_\nmixture", ["cifar10+\nsvhn", "one", "a+\nb+\nc"], right=False),
        TextColumn("vs\nsimclr", ["+1.0", "-12.5", "-"], bold=frozenset({0, 2})),
        TextColumn("字", ["漢字", "x", "λ"], bold=frozenset({1})),
    ],
    "text last": [TextColumn("λ1", ["0.9", "-"]), TextColumn("the\nerror", ["a", "longer\nthan"], right=False)],
    "without rows": [TextColumn("a", []), TextColumn("b\nc", [])],
}


def as_rich_draws(columns: list[TextColumn]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in columns:
        table.add_column(column.header, justify="right" if column.right else "left", no_wrap=True)
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        styles = ["bold" if number in column.bold else "" for column in columns]
        table.add_row(*(Text(text, style=style) for text, style in zip(row, styles, strict=True)))
    return table


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("case", COLUMNS)
def test_a_table_is_printed_as_by_rich(case, terminal):
    texts = []
    for drawn in (TextTable(COLUMNS[case]), as_rich_draws(COLUMNS[case])):
        console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system="standard")
        console.print(drawn, crop=False)
        texts.append(console.file.getvalue())
    # rich prints trailing spaces after the last column; on a terminal, these spaces are bold in the header.
    plain = [re.sub(" +(\x1b\\[0m)?$", r"\1", text, flags=re.MULTILINE) for text in texts]
    assert plain[0] == plain[1]
    if case == "text last":
        assert len(texts[0]) < len(texts[1])
    else:
        assert texts[0] == texts[1]
