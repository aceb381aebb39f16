"""Templates to pages. All that goes into one is escaped, and a policy keeps out whatever is not the page's own."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mdssl.terminal import printable

_TEMPLATES = files(__package__) / "templates"


def render(template: str, **values: object) -> bytes:
    """The page ``template`` with ``values``, as UTF-8.

    Text is escaped for HTML, and its control characters are written as their escapes: a name or an error is text and
    no more, whatever is in it.
    """
    style, script = _text("report.css"), _text("report.js")
    own = {"style": Markup(style), "script": Markup(script), "policy": _policy(style, script)}
    return _environment().get_template(template).render(**own, **values).encode()


@cache
def look() -> str:
    """Stands for the templates: pages made from others are out of date."""
    names = sorted(file.name for file in _TEMPLATES.iterdir())
    return hashlib.sha256("".join(_text(name) for name in names).encode()).hexdigest()[:16]


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_control_characters,
    )


def _without_control_characters(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _policy(style: str, script: str) -> str:
    """Of the page's content: its own style and script by their digests, and images beside it."""
    own = {
        "default-src": "'none'",
        "style-src": _by_digest(style),
        "script-src": _by_digest(script),
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {allowed}" for name, allowed in own.items())


def _by_digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
