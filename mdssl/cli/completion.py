"""``mdssl --print-completion``: completions of commands, flags and choices for a shell, as tyro makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from mdssl.cli.flags import flags_of
from mdssl.errors import InputError, check_name

SHELLS = ("bash", "zsh", "tcsh")


def print_completion(commands: Mapping[str, tuple[type, Callable[[Any], Any]]], argv: Sequence[str]) -> None:
    """Print the script for the shell that ``argv`` names.

    Raises:
        InputError: it names none, or one without completions.
    """
    if len(argv) != 1:
        raise InputError(f"--print-completion takes one shell: {', '.join(SHELLS)}.")
    check_name("shell", argv[0], SHELLS)
    groups: dict[str, Any] = {}
    for name, (settings_class, function) in commands.items():
        *first, last = name.split()
        of_group = groups.setdefault(first[0], {}) if first else groups
        of_group[last] = (_flags_alone(settings_class), (inspect.getdoc(function) or "").partition("\n")[0])
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    tyro.cli(_union(groups), prog="mdssl", args=["--tyro-print-completion", argv[0]], config=config)


def _union(commands: Mapping[str, Any]) -> Any:
    found = []
    for name, entry in commands.items():
        if isinstance(entry, dict):
            entry = make_dataclass(name, [("command", _union(entry))]), f"{name} {' | '.join(entry)}"
        kind, text = entry
        found.append(Annotated[kind, tyro.conf.subcommand(name, description=text)])
    return reduce(or_, found)


def _flags_alone(settings_class: type) -> type:
    found: list[Any] = []
    for flag in flags_of(settings_class).values():
        hint = Annotated[flag.hint, Positional] if flag.positional else flag.hint
        # None is no value of the hint.
        default = field() if flag.default is None else field(default=flag.default)
        found.append((flag.name, hint, default))
    return make_dataclass(settings_class.__name__, found, kw_only=True)
