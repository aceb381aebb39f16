"""Settings classes as command lines: flags, defaults and help come from the dataclass, presets from `mdssl.config`."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import TypeVar

import tyro

from mdssl.config.presets import PRESETS
from mdssl.errors import InputError, Terminated, check_name
from mdssl.storage.retry import StorageLostError
from mdssl.terminal import printable

Settings = TypeVar("Settings")

_GOES_WITH = {"domains": ("--mixtures",), "evaluate": ("--domains", "--mixtures")}
"""A preset's own domains, and what they are scored on, are nothing that a user with other domains has asked for."""


def parse(settings_class: type[Settings], *, prog: str, description: str, argv: Sequence[str]) -> Settings:
    """Read ``argv`` into ``settings_class``; the defaults are those of the preset that ``argv`` names, if it has one.

    Raises:
        ValueError: a setting that is not allowed, from the class's own checks, or a flag that does not exist or does
            not parse.
        SystemExit: ``--help``.
    """
    _check_values(settings_class, argv)
    # The defaults alone may be incomplete (no domains yet), and tyro would put a message of ours into one of its own;
    # so it fills in a class without checks, and the checks come after.
    unchecked = type(settings_class.__name__, (settings_class,), {"__post_init__": lambda self: None})
    # A command's own flags before those that it shares: dataclasses put inherited fields first, --help should not.
    own_first = dict.fromkeys(name for base in settings_class.__mro__ for name in vars(base).get("__annotations__", ()))
    unchecked.__dataclass_fields__ = {name: settings_class.__dataclass_fields__[name] for name in own_first}
    names = [field.name for field in fields(settings_class)]
    preset = _preset(argv, settings_class.preset) if "preset" in names else None
    values = {"preset": preset, **PRESETS[preset]} if preset else {}
    for name, instead in _GOES_WITH.items():
        if any(_value(argv, flag) is not None for flag in instead):
            values.pop(name, None)
    required = {field.name: tyro.MISSING for field in fields(settings_class) if field.default is MISSING}
    defaults = unchecked(**required | {name: value for name, value in values.items() if name in names})
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed = tyro.cli(
                unchecked,
                prog=prog,
                description=description,
                default=defaults,
                args=list(argv),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise InputError(f"{_without_box(said.getvalue())} `{prog} --help` lists the flags.") from None
    for name in ("data", "storage"):
        _check_is_no_file(name, getattr(parsed, name, ""))
    return settings_class(**{name: getattr(parsed, name) for name in names})


def run(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    saves_progress: Callable[[Sequence[str]], bool] = lambda argv: True,
) -> None:
    """Run a command: a wrong setting is one message and exit code 2, Ctrl-C is 130, SIGTERM 143, a defect shows its
    traceback.

    Args:
        saves_progress: whether the command that is given goes on, when it is interrupted and started again.
    """
    argv = sys.argv[1:] if argv is None else argv
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main(argv)
    except (InputError, StorageLostError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        code = 2
    except BrokenPipeError:
        # Whoever read the output, such as head, has enough; what Python still holds back for it would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt as interrupt:
        word, code = ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
        again = "the same command without --force" if "--force" in argv else "the same command"
        goes_on = f"; {again} goes on from what was saved" if saves_progress(argv) else ""
        if os.environ.get("RANK", "0") == "0":  # of torchrun's workers one says it
            print(f"\n{word}{goes_on}.", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _check_values(settings_class: type, argv: Sequence[str]) -> None:
    """Raise ``ValueError`` where a flag that takes values has none; of the settings only ``track`` may be empty."""
    for field in fields(settings_class):
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, tuple) and field.name != "track":
            value = _value(argv, flag)
            if value is not None and (not value or value.startswith("--")):
                raise InputError(f"{flag} has no value; give at least one, or leave the flag out.")


def _check_is_no_file(name: str, value: str) -> None:
    """Raise ``ValueError`` where a file is in the place of a folder that a command reads or makes."""
    path = Path(value).absolute()
    file = None if "://" in value else next((each for each in (path, *path.parents) if each.is_file()), None)
    if file:
        raise InputError(f"{name} is {value!r}, but {file} is a file; give a folder or a bucket with --{name}.")


def _without_box(text: str) -> str:
    """The parser's complaint, which it frames for a terminal, as one line."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[1:]]
    if lines and not lines[0].strip("─-"):
        lines = lines[1:]
    rule = next((number for number, line in enumerate(lines) if not line.strip("─-╰╯")), len(lines))
    message = " ".join(lines[:rule]).removeprefix("Error parsing ").rstrip(".")
    near = [line.split()[0] for line in lines[rule:] if re.match("--[a-z]", line)] if "Unrecognized" in message else []
    return f"{message}." + (f" Did you mean {' or '.join(near[:2])}?" if near else "")


def _preset(argv: Sequence[str], default: str) -> str:
    found = _value(argv, "--preset")
    name = default if found is None else found
    check_name("preset", name, PRESETS)
    return name


def _value(argv: Sequence[str], flag: str) -> str | None:
    """What follows the last ``flag`` in ``argv``; None where it is not there."""
    found = None
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found
