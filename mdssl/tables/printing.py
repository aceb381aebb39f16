"""One table of the leaderboard, printed or written to a file: what ``mdssl leaderboard`` does with its flags."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.opening import results_in
from mdssl.storage.location import Location
from mdssl.tables import formats
from mdssl.tables.conditions import Condition, parse_condition
from mdssl.tables.view import view
from mdssl.terminal import Terminal, printable


def print_one_table(
    storage: str | Location,
    *,
    choice: Mapping[str, Sequence[str]],
    where: Sequence[str],
    format: str | None,
    output: str | None,
    **asked: Any,
) -> None:
    """Print a view of the leaderboard, or write it to ``output``.

    Args:
        storage: where results live.
        choice: by column, values of which a row must have one; any where there are none.
        where: conditions as texts, see `mdssl.tables.conditions`.
        format: one of `mdssl.tables.formats.FORMATS`; None: as ``output`` ends.
        output: file to write, here or in a bucket; None: print it.
        asked: the other arguments of `mdssl.tables.view.view`.

    Raises:
        ValueError: what cannot be meant, or with ``format`` or ``output`` no rows; nothing has been written then.
    """
    name = formats.format_for(output, format)
    conditions = [Condition(column, "=", tuple(values)) for column, values in choice.items() if values]
    conditions += [parse_condition(text) for text in where]
    rows = leaderboard.read(results_in(storage))
    if rows.empty:
        message = f"the leaderboard in {storage} is empty: run a sweep, or give another --storage"
        if format is not None or output is not None:
            # A script that goes on would read what an earlier run wrote, or nothing.
            raise InputError(message)
        print(message, file=sys.stderr)
        return
    rows = leaderboard.with_settings(rows)
    if not any(condition.name == "features" for condition in conditions) and "encoder" in set(rows["features"]):
        # Trials that failed before they were scored have no layer.
        conditions.append(Condition("features", "=", ("encoder", "null")))
    shown = view(rows, where=conditions, **asked)
    if output is None and name == "table":
        formats.print_view(shown, Terminal())
        return
    data = formats.to_bytes(shown, name)
    if output is not None or name not in formats.WITH_NOTES:
        for note in shown.notes:
            print(printable(note), file=sys.stderr)
    if output is not None:
        file = Location.of(output)
        file.parent.check_writable("--output")
        file.write_bytes(data)
        print(f"{output}: {len(shown.frame):,} rows", file=sys.stderr)
        return
    text = data.decode()
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
