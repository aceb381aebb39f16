"""``--help`` and ``--help-all``: flags in groups, as wide as the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from mdssl.cli.flags import FILE, Flag, flags_of, grouped, takes_file

_FLAG_WIDTH = 26
"""Columns for flags. The text of a longer one starts in the next line."""
_COMMAND = re.compile(r"\s+(mdssl|torchrun) ")


def help_text(
    settings_class: type, *, prog: str, description: str, defaults: Mapping[str, Any], everything: bool = False
) -> str:
    """The help of a command.

    Args:
        prog: its name, such as ``mdssl probe``.
        description: what it does, with examples.
        defaults: of the preset; those of the class are used for other settings.
        everything: all flags with their whole texts. Otherwise a command with many flags shows those that most users
            need, with one sentence each, and lists the rest.
            A long description is cut as well.
    """
    width = terminal_width()
    flags = list(flags_of(settings_class).values())
    short = takes_file(settings_class) and not everything
    words = [prog, *[f"[{FILE}]"] * takes_file(settings_class), *(flag.metavar for flag in flags if flag.positional)]
    if short:
        first, *others = description.split("\n\n")
        description = "\n\n".join([first, *(part for part in others if part.startswith(("Example", " ")))])
    usage = _wrapped(f"usage: {' '.join(words)} [flags]", width, first="", indent="         ")
    lines = [*usage, "", *described(description)]
    for group, own in grouped(flags).items():
        lines += ["", f"{group or 'flags'}:"]
        hidden = []
        for flag in own:
            default = defaults.get(flag.name, flag.default)
            if short and not flag.common:
                hidden.append(flag.spelled(default).split(" ")[0])
            else:
                lines += _entry(flag, default, width, short=short)
        if hidden:
            lines += _wrapped(f"also: {' '.join(hidden)}", width, first="  ", indent=" " * 8)
    if short:
        lines += ["", *textwrap.wrap(f"`{prog} --help-all` describes all flags, and these in full.", width)]
    return "\n".join(lines)


def _entry(flag: Flag, default: Any, width: int, *, short: bool) -> list[str]:
    text = _shortened(flag.text) if short else flag.text
    if default is True:
        text = f"Disable (enabled by default): {text}"
    shown = _shown(default)
    if shown and not (short and "default:" in text):
        text = f"{text} (default: {shown})"
    left = f"  {flag.spelled(default)}"
    fits = len(left) < _FLAG_WIDTH or len(left) + 2 + len(text) <= width
    first = f"{left}  ".ljust(_FLAG_WIDTH) if fits else ""
    lines = _wrapped(text, width, first=first or " " * _FLAG_WIDTH, indent=" " * _FLAG_WIDTH)
    return lines or [left] if first else [*_wrapped(left.strip(), width, first="  ", indent=" " * 6), *lines]


def _wrapped(text: str, width: int, *, first: str, indent: str) -> list[str]:
    """``text`` in lines, broken at spaces alone: flags have hyphens."""
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _shortened(text: str) -> str:
    """The first statement of ``text``, without what stands in parentheses."""
    return re.split(r"\. (?=[A-Z])|; (?!default)", re.sub(r" \([^()]*\)", "", text))[0].rstrip(".")


def _shown(default: Any) -> str:
    """A default as it is typed; empty where a flag is only on or off, or its text says what comes without it."""
    if default is MISSING or default is None or isinstance(default, bool):
        return ""
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def described(text: str) -> list[str]:
    """The lines of ``text``: its paragraphs filled, and its commands broken where a shell reads on."""
    width = terminal_width()
    lines: list[str] = []
    paragraph: list[str] = []

    def end_paragraph() -> None:
        if paragraph:
            lines.extend(textwrap.wrap(" ".join(paragraph), width))
            paragraph.clear()

    # A command is one line, however its docstring breaks it.
    for line in re.sub(r" \\\n\s+", " ", text).splitlines():
        if line and not line[0].isspace():
            paragraph.append(line)
            # What ends in a colon stands before lines of its own.
            if line.endswith("s:") or line.startswith("Example: "):
                end_paragraph()
            continue
        end_paragraph()
        if len(line) <= width:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(line.strip(), width - len(indent) - 6, break_on_hyphens=False, break_long_words=False)
        end = " \\" if _COMMAND.match(line) else ""
        lines += [f"{indent}{'    ' * bool(number)}{part}{end * (number < len(parts) - 1)}"
                  for number, part in enumerate(parts)]  # fmt: skip
    end_paragraph()
    return lines


def command_list(commands: Mapping[str, str]) -> list[str]:
    """The commands of a program, each with a line on what it does."""
    width, column = terminal_width(), max(map(len, commands)) + 4
    lines = []
    for name, text in commands.items():
        lines += textwrap.wrap(text, width, initial_indent=f"  {name}".ljust(column), subsequent_indent=" " * column)
    return lines


def terminal_width() -> int:
    return max(shutil.get_terminal_size().columns, 50)
