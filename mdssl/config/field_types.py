"""Check values from Python, JSON or a command line against the annotations of the settings, and convert them;
and checks that several settings classes share."""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mdssl.errors import InputError, check_name, check_number

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
    tuple[tuple[str, ...], ...]: "a list of lists of strings, or in YAML such as {learning_rate: [2, 4]}",
}


def current_name(name: str) -> str:
    """Return the current name of a setting or command that may have its former spelling: ``knn_neighbours``."""
    for before, now in _SPELLINGS.items():
        name = name.replace(before, now)
    return name


def pick(config_class: type[Settings], settings: Any) -> Settings:
    """Return a ``config_class`` with the values of its fields in ``settings``, which has all of them."""
    return config_class(**{field.name: getattr(settings, field.name) for field in fields(config_class)})  # type: ignore[arg-type]


def choices(config_class: type, field: str) -> tuple[str, ...]:
    """Return the allowed values of a ``Literal`` field, or of a tuple of them."""
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
    """Convert ``text`` from a command line to the type ``expected`` of the setting ``name``.

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
    # Who has a scalar of numpy, as from np.linspace, has imported it.
    if (numpy := sys.modules.get("numpy")) and isinstance(value, numpy.generic):
        value = value.item()
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


def check_lambda1(value: float) -> None:
    """Raise ``ValueError`` unless ``value`` lies in (0, 1]."""
    if 0 < value <= 1:
        return
    hint = "The paper stays at 0.9 or above."
    if -1 <= value < 0:
        hint = f"The paper's figures label this axis -lambda1: what they call {value:g} is lambda1 = {-value:g}."
    raise InputError(f"lambda1 is {value:g}; it must lie in (0, 1]. {hint}")


def check_mixture(domains: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a domain is in ``domains`` twice or a name cannot be part of ``a+b``."""
    for name in domains:
        if domains.count(name) > 1:
            raise InputError(
                f"domain {name!r} is {domains.count(name)} times in {'+'.join(domains)!r}; name each once."
            )
        if "+" in name:
            raise InputError(f"domain {name!r} contains a '+', which joins domains; give them as separate names.")


def long_warm_up(warmup: int, iterations: int) -> str:
    """Describe a learning-rate warm-up that takes the whole training; an empty string for a shorter one."""
    if warmup < iterations:
        return ""
    return (
        f"the learning rate warms up over {warmup:,} iterations, but a trial has {iterations:,} and ends at the peak "
        "rate; give a shorter --lr-warmup-iterations"
    )


def check_schedule(schedule: str, decay_fraction: float, usual: float, iterations: int, warmup: int) -> None:
    """Raise ``ValueError`` unless ``decay_fraction`` fits the schedule, and leaves the warm-up its ``warmup`` steps."""
    if schedule == "cosine":
        if decay_fraction != usual:
            raise InputError(
                f"decay_fraction is {decay_fraction:g}, but schedule 'cosine' has no separate decay; use --schedule "
                "wsd, or leave it out."
            )
        return
    check_number("decay_fraction", decay_fraction, low=0, high=1, hint="It is a share of the iterations.")
    stable = iterations - round(decay_fraction * iterations)
    if warmup > stable:
        raise InputError(
            f"lr_warmup_iterations is {warmup}, but schedule 'wsd' decays after step {stable} of {iterations}; shorten "
            "the warm-up, or lower decay_fraction."
        )
