"""Settings hold what their annotations say: values from Python, JSON or a command line, checked and converted."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mdssl.errors import InputError, check_name

Settings = TypeVar("Settings")

_SPELLINGS = {"neighbours": "neighbors", "normalised": "normalized"}

_TYPE_NAMES = {
    float: "a number",
    int: "a whole number",
    str: "a string",
    bool: "true or false",
    tuple[str, ...]: "a list of strings",
    tuple[float, ...]: "a list of numbers",
    tuple[int, ...]: "a list of whole numbers",
}


def current_name(name: str) -> str:
    """The name of a setting or command today, for one that may be spelled as before: ``knn_neighbours``."""
    for before, now in _SPELLINGS.items():
        name = name.replace(before, now)
    return name


def pick(config_class: type[Settings], settings: Any) -> Settings:
    """A ``config_class`` with those fields of ``settings``, an object that has them all."""
    return config_class(**{field.name: getattr(settings, field.name) for field in fields(config_class)})  # type: ignore[arg-type]


def choices(config_class: type, field: str) -> tuple[str, ...]:
    """The values that a ``Literal`` field, or a tuple of them, can have."""
    expected = _hints(config_class)[field]
    return get_args(get_args(expected)[0] if get_origin(expected) is tuple else expected)


@cache
def _hints(config_class: type) -> dict[str, Any]:
    return get_type_hints(config_class)


def check_types(config: Any) -> None:
    """Check every field against its annotation and convert it, so that a typo in a JSON file is named before training.

    Args:
        config: a dataclass; in ``types_instead`` it may have other types by name of a field.

    Raises:
        ValueError: a value of another type, or none of the choices of a ``Literal``.
    """
    config_class: type = type(config)
    hints = _hints(config_class) | getattr(config, "types_instead", {})
    for field in fields(config):
        object.__setattr__(config, field.name, value_as(field.name, getattr(config, field.name), hints[field.name]))


def value_as(name: str, value: Any, expected: Any) -> Any:
    """``value`` as the setting ``name`` holds it, of the type ``expected``: lists become tuples, whole numbers floats.

    Raises:
        ValueError: a value of another type, or none of the choices of a ``Literal``.
    """
    try:
        return _as_type(value, expected, name)
    except TypeError:
        plain = get_args(expected)[0] if get_origin(expected) is UnionType else expected
        allowed = _TYPE_NAMES.get(plain, "a list of strings" if get_origin(plain) is tuple else str(plain))
        raise InputError(f"{name} is {value!r} ({type(value).__name__}); it must be {allowed}.") from None
    except OverflowError as error:
        raise InputError(f"{name} is {error}; it must be a finite number.") from None


def parse_as(name: str, text: str, expected: Any) -> Any:
    """The value that ``text`` from a command line is for the setting ``name``, of type ``expected``.

    Raises:
        ValueError: it is not of that type.
    """
    if get_origin(expected) is UnionType:
        expected = get_args(expected)[0]
    if get_origin(expected) is Literal:
        return _as_type(text, expected, name)
    try:
        if expected is bool:
            return {"true": True, "false": False}[text.lower()]
        return expected(text)
    except (ValueError, KeyError):
        raise InputError(f"{name} is {text!r}; it must be {_TYPE_NAMES[expected]}.") from None


def _as_type(value: Any, expected: Any, name: str) -> Any:
    """``value`` as ``expected``: lists become tuples and whole numbers floats.

    Raises:
        TypeError: another type.
        OverflowError: a number that is not finite.
    """
    if get_origin(expected) is Literal:
        check_name(name.replace("_", " "), value, get_args(expected))
        return value
    if get_origin(expected) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_as_type(item, get_args(expected)[0], name) for item in value)
    if get_origin(expected) is UnionType:
        return None if value is None else _as_type(value, get_args(expected)[0], name)
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise TypeError
    if expected is float and not math.isfinite(value):
        raise OverflowError(value)
    return value
