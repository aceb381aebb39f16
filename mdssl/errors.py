"""Errors of users, and the checks of values: one message with the setting, its value, what is allowed, and a hint."""

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """An invalid value from the user. The command line shows the message alone; any other error is a defect."""


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which ends a command as Ctrl-C does."""


class StoppedError(RuntimeError):
    """Work was stopped on request, and can be resumed."""


def some_of(names: Iterable[object], limit: int, *, nouns: str = "") -> str:
    """``a, b, c``, or the first ``limit`` of more names as in ``a, b and 5 more``; ``nouns`` follow, as in ``5 more
    files``."""
    words = [str(name) for name in names]
    more = f" and {len(words) - limit:,} more{nouns and f' {nouns}'}" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def check_name(what: str, value: object, valid: Iterable[str], hint: str = "") -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``valid``; the message names the nearest one.

    Args:
        what: the setting as the user knows it, e.g. ``"dataset"``.
        value: what was given.
        valid: the names that are allowed, in the order in which to list them.
        hint: a last sentence, on other ways to make the value valid.
    """
    valid = list(valid)
    if value in valid:
        return
    close = difflib.get_close_matches(str(value), valid, n=1)
    close = close or [name for name in valid if value and name.startswith(str(value))]
    # Before the names, which may be a hundred.
    allowed = f". Did you mean {close[0]!r}? Allowed: " if close else "; allowed: "
    names = some_of(valid, 100) or "none yet"
    raise InputError(f"unknown {what} {value!r}{allowed}{names}.{' ' + hint if hint else ''}")


def check_number(what: str, value: float, *, low: float, high: float = float("inf"), hint: str = "") -> None:
    """Raise ``ValueError`` unless ``low <= value <= high``; NaN and infinities are refused."""
    if low <= value <= high and value not in (float("inf"), float("-inf")):
        return
    allowed = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
    raise InputError(f"{what} is {value}; it must be {allowed}.{' ' + hint if hint else ''}")


def check_tags(tags: Iterable[str]) -> None:
    """Raise ``ValueError`` for a tag of a trial that W&B, MLflow or ``--where tags=...`` could not take."""
    for tag in tags:
        if not re.fullmatch(r"[\w.:-]{1,50}", tag, re.ASCII):
            raise InputError(f"tag {tag!r} must be 1 to 50 letters, digits or . : _ -, without spaces.")
