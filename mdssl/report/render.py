"""The HTML pages of a report, from the templates beside this file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mdssl.terminal import printable

_LONGEST_LIST, _SHOWN_OF_LONGER = 12, 10


def render(template: str, **values: object) -> bytes:
    """Render the page ``template`` with ``values``, as UTF-8.

    Text is escaped for HTML, and control characters are written as escapes: names and errors never become markup.
    """
    return _TEMPLATES.get_template(template).render(**values).encode()


def listed(names: Iterable[object]) -> str:
    """``a, b and c``; a long list is cut."""
    words = [str(name) for name in names]
    if len(words) > _LONGEST_LIST:
        return f"{', '.join(words[:_SHOWN_OF_LONGER])} and {len(words) - _SHOWN_OF_LONGER} more"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_LOADER = PackageLoader("mdssl.report")
_TEMPLATES = Environment(
    loader=_LOADER,
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_printable,
)
for _name, _files in (("style", ["report.css"]), ("script", ["report.js", "charts.js", "live.js"])):
    _TEMPLATES.globals[_name] = Markup("".join(_LOADER.get_source(_TEMPLATES, file)[0] for file in _files))
_TEMPLATES.globals["live"] = False
_TEMPLATES.filters |= {
    "from_json": json.loads,
    "listed": listed,
    "each": lambda values: values.dropna().sort_values().unique().tolist(),
    "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
}
