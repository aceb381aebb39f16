"""Settings classes as command lines: flags, defaults and help come from the dataclass, presets from `mdssl.config`."""

from __future__ import annotations

import functools
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import tyro

from mdssl.cli.config_file import is_config_file, save, settings_in
from mdssl.cli.flags import SAVE_CONFIG, flags_of, takes_file
from mdssl.cli.help import help_text
from mdssl.cli.places import RowsFlag
from mdssl.config.field_types import current_name
from mdssl.config.presets import preset_values
from mdssl.errors import InputError, Terminated
from mdssl.storage.retry import StorageLostError, retrying
from mdssl.terminal import printable

Settings = TypeVar("Settings")

TYRO = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


class Main(Protocol):
    """The main function of a command: takes the arguments, by default those of the process; returns the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(
    body: Callable[[Sequence[str]], int | None],
    *,
    saves_progress: Callable[[Sequence[str]], bool] = lambda argv: True,
) -> Main:
    """Make a main function of ``body``: errors of users are one message and exit code 2, Ctrl-C is 130, SIGTERM 143.

    Any other exception is a defect, and is raised.

    Args:
        saves_progress: whether the command with these arguments continues where it was interrupted.
    """

    @functools.wraps(body)
    def main(argv: Sequence[str] | None = None) -> int:
        argv = sys.argv[1:] if argv is None else argv
        try:
            with _signals_raise():
                return body(argv) or 0
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except (InputError, StorageLostError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            # The reader of the output, such as head, has enough. What Python still buffers for it would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt as interrupt:
            word, code = ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
            again = "the same command without --force" if "--force" in argv else "the same command"
            resumes = f"; {again} resumes from what was saved" if saves_progress(argv) else ""
            # Of the workers of torchrun one prints it.
            if os.environ.get("RANK", "0") == "0":
                print(f"\n{word}{resumes}.", file=sys.stderr)
            return code

    return main


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Within the context, SIGTERM raises `Terminated` and Ctrl-C KeyboardInterrupt, and either ends retries of requests
    to the storage. Threads other than the main one cannot handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signalled = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        signalled.set()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    # Where SIGINT is ignored, as in a shell's background jobs, it still is.
    numbers = [signal.SIGTERM] + [signal.SIGINT] * (signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        with retrying(0, stop_requested=signalled.is_set):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def parse(settings_class: type[Settings], *, prog: str, description: str | None, argv: Sequence[str]) -> Settings:
    """Read ``argv`` into ``settings_class``.

    What a flag does not say comes from the configuration file that ``argv`` begins with, if it does, then from the
    preset, then from the class.

    Raises:
        ValueError: a setting that is not allowed, from the class's own checks, or a flag or key that does not exist or
            cannot be parsed.
        SystemExit: ``--help``.
    """
    argv = _with_trial_first(settings_class, [_current_flag(word) for word in argv])
    _check_values(settings_class, argv)
    names: dict[str, Any] = {field.name: field.default for field in fields(settings_class)}  # type: ignore[arg-type]
    of_file: dict[str, Any] = {}
    wants_help = {"-h", "--help", "--help-all"}.intersection(argv)
    if takes_file(settings_class) and argv and is_config_file(argv[0]):
        file, *argv = argv
        of_file = _beside_flags(settings_in(file, settings_class, prog), argv)
    values: dict[str, Any] = {}
    if "preset" in names:
        named = [name for name in names if name in of_file or _value(argv, name) is not None]
        preset = _value(argv, "preset")
        values = preset_values(of_file.get("preset", names["preset"]) if preset is None else preset, named, names)
    defaults = names | values | of_file
    if wants_help:
        print(
            help_text(
                settings_class,
                prog=prog,
                description=description or "",
                defaults=defaults,
                everything="--help-all" in wants_help,
            )
        )
        raise SystemExit(0)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed: Any = tyro.cli(
                _to_fill_in(settings_class, defaults), prog=prog, args=argv, config=TYRO, add_help=False
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise InputError(f"{_without_box(said.getvalue())} `{prog} --help` lists the flags.") from None
    for name in ("data",) if issubclass(settings_class, RowsFlag) else ("data", "storage"):
        _check_is_no_file(name, getattr(parsed, name, ""))
    settings = settings_class(**{name: getattr(parsed, name) for name in names})
    # Of the workers of torchrun one writes it.
    if getattr(parsed, "save_config", "") and os.environ.get("RANK", "0") == "0":
        save(parsed.save_config, settings, {name: getattr(settings, name) for name in names}, prog)
    return settings


def _beside_flags(of_file: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The settings of a file that no flag overrides. A flag that is only on or off can be given either way."""
    words = {word.partition("=")[0] for word in argv}
    found = {}
    for name, value in of_file.items():
        on, off = _flag(name), f"--no-{_flag(name).removeprefix('--')}"
        if not {on, off} & words:
            found[name] = value
        elif isinstance(value, bool):
            found[name] = off in words
    return found


def _to_fill_in(settings_class: type, defaults: Mapping[str, Any]) -> type:
    """The class that tyro fills in: with these defaults, without checks, as defaults alone may be incomplete (no
    domains yet), and with choices as words, because our message on a wrong one names the nearest."""
    hints = get_type_hints(settings_class, include_extras=True)
    filled = [(name, _word_of(hints[name]), field(default=default)) for name, default in defaults.items()]
    if takes_file(settings_class):
        filled.append((SAVE_CONFIG.name, SAVE_CONFIG.hint, field(default=SAVE_CONFIG.default)))
    return make_dataclass(settings_class.__name__, filled, frozen=True, kw_only=True)


def _word_of(hint: Any) -> Any:
    """What tyro is to read: words for a ``Literal``, or a tuple of them."""
    if get_origin(hint) is Literal:
        return str
    return tuple[str, ...] if get_origin(hint) is tuple and get_origin(get_args(hint)[0]) is Literal else hint


def _current_flag(word: str) -> str:
    """``word`` with American spelling, if it is a flag: ``--knn-neighbours=5`` was its name before."""
    flag, equals, value = word.partition("=")
    return current_name(flag) + equals + value if flag.startswith("--") else word


def _with_trial_first(settings_class: type, argv: Sequence[str]) -> list[str]:
    """``argv`` with the trial as a positional argument, which ``--trial-id`` and ``--trial`` were before."""
    trial = flags_of(settings_class).get("trial_id")
    if not trial:
        return list(argv)
    words = iter([re.sub(r"^--trial(?==|$)", "--trial-id", word) for word in argv])
    if not trial.positional:
        return list(words)
    first, others = "", []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--trial-id":
            others.append(word)
            continue
        found = value if equals else next(words, None)
        if found is None:
            raise InputError("--trial-id has no value; give a trial, or leave the flag out.")
        first = found
    return [first, *others] if first else others


def _check_values(settings_class: type, argv: Sequence[str]) -> None:
    """Raise ``ValueError`` where a flag that takes values has none; of the settings only ``track`` may be empty."""
    for each in fields(settings_class):
        if isinstance(each.default, tuple) and each.name != "track":
            value = _value(argv, each.name)
            if value is not None and (not value or value.startswith("--")):
                raise InputError(f"{_flag(each.name)} has no value; give at least one, or leave the flag out.")


def _check_is_no_file(name: str, value: str) -> None:
    """Raise ``ValueError`` where a file is in the place of a folder that a command reads or makes."""
    path = Path(value).absolute()
    file = None if "://" in value else next((each for each in (path, *path.parents) if each.is_file()), None)
    if file:
        raise InputError(f"{name} is {value!r}, but {file} is a file; give a folder or a bucket with --{name}.")


_PARSER_MESSAGES = {
    r"(--\S+): could not convert string to float: (.*)": r"\1 is \2; it must be a number",
    r"(--\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 is \2; it must be a whole number",
    r"(--\S+): no type matching .*FLOAT.* from \[(.*)\]": r"\1 is \2; it must be a number",
    r"(--\S+): no type matching .*INT.* from \[(.*)\]": r"\1 is \2; it must be a whole number",
    r"(--\S+): Could not find valid parse for arguments: \[(.*)\]": r"\1 has the values \2; one has the wrong type",
    r"Missing value for argument '(--\S+)'.*": r"\1 has no value; give one, or leave the flag out",
}
"""Messages of the parser on values, and the same in words for users."""


def _without_box(text: str) -> str:
    """The parser's complaint, which it frames for a terminal, as one line."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()[1:]]
    if lines and not lines[0].strip("─-"):
        lines = lines[1:]
    rule = next((number for number, line in enumerate(lines) if not line.strip("─-╰╯")), len(lines))
    message = " ".join(lines[:rule]).removeprefix("Error parsing ").rstrip(".")
    near = [line.split()[0] for line in lines[rule:] if re.match("--[a-z]", line)] if "Unrecognized" in message else []
    has_commas = re.search(r"\['[^' ]*,[^' ]*'\]", message)
    for pattern, words_for_users in _PARSER_MESSAGES.items():
        message = re.sub(pattern, words_for_users, message)
    if unknown := re.fullmatch("Unrecognized options: (.*)", message):
        words = unknown[1].split(", ")
        # A value that follows an unknown flag is unknown as well.
        names = [word for word in words if word.startswith("-")]
        message = f"unknown flag {', '.join(names)}" if names else f"unknown argument {' '.join(words)}"
    hint = f" Did you mean {' or '.join(near[:2])}?" if near else ""
    if has_commas:
        hint = " Separate values by spaces, not commas."
    return f"{message}.{hint}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _value(argv: Sequence[str], name: str) -> str | None:
    """The word after the last flag of the setting ``name``; None if ``argv`` does not have it."""
    flag, found = _flag(name), None
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found
