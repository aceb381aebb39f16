"""Settings hold what their annotations say: values from Python, JSON or a command line, checked and converted."""

from __future__ import annotations

import math
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mdssl.errors import InputError


def check_types(config: Any) -> None:
    """Hold every field to its annotation, so that a typo in a JSON file is named here and not deep in training."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, expected = getattr(config, field.name), hints[field.name]
        try:
            object.__setattr__(config, field.name, _as_type(value, expected))
        except TypeError:
            allowed = _TYPE_NAMES.get(expected, str(expected))
            raise InputError(f"{field.name} is {value!r} ({type(value).__name__}); it must be {allowed}.") from None
        except OverflowError as error:
            raise InputError(f"{field.name} is {error}; it must be a finite number.") from None


_TYPE_NAMES = {
    float: "a number",
    int: "a whole number",
    str: "a string",
    bool: "true or false",
    tuple[str, ...]: "a list of strings",
    tuple[float, ...]: "a list of numbers",
    tuple[int, ...]: "a list of whole numbers",
}


def parse_as(name: str, text: str, expected: Any) -> Any:
    """What ``text`` from a command line means as the setting ``name``, of type ``expected``.

    Raises:
        ValueError: it is not of that type.
    """
    if get_origin(expected) is UnionType:
        expected = get_args(expected)[0]
    try:
        if expected is bool:
            return {"true": True, "false": False}[text.lower()]
        return expected(text)
    except (ValueError, KeyError):
        raise InputError(f"{name} is {text!r}; it must be {_TYPE_NAMES[expected]}.") from None


def _as_type(value: Any, expected: Any) -> Any:
    """``value`` as ``expected``: lists become tuples and whole numbers floats. Raises TypeError, or OverflowError for
    what is not finite."""
    if get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_as_type(item, get_args(expected)[0]) for item in value)
    if get_origin(expected) is UnionType:
        return None if value is None else _as_type(value, get_args(expected)[0])
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise TypeError
    if expected is float and not math.isfinite(value):
        raise OverflowError(value)
    return value
