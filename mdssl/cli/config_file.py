"""Settings from a YAML file, and to one. Its keys are the names of flags: ``batch-per-domain: 512``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import mdssl
from mdssl.cli.flags import FILE, Flag, flags_of, grouped
from mdssl.config.field_types import current_name, value_as
from mdssl.errors import InputError, check_name

SWEEP = "sweep"
"""The key that names the sweep, as in ``sweep: lambda-grid``."""
_ACTIONS = {"save_config", "dry_run", "force", "retry_failed", "list"}
"""Flags that say what one run does: a saved file does not have them."""
_PLACES = {"storage", "data"}
"""Saved only if they are not the defaults, which are those of the machine."""


def is_config_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) and not word.startswith("-")


def read(file: str) -> dict[str, Any]:
    """The content of a configuration file.

    Raises:
        InputError: it does not exist, is not YAML, or is not a mapping with each key once.
    """
    import yaml

    from mdssl.storage.location import Location

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if not isinstance(key, str):
                    raise InputError(f"{file}: key {key!r} is not a string; write the name of a flag.")
                if keys.count(key) > 1:
                    raise InputError(f"{file}: key {key!r} appears {keys.count(key)} times; give each once.")
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1 takes 1e-3 for a string; YAML 1.2, and users, for a number.
    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    try:
        content = yaml.load(Location.of(file).read_bytes(), Loader)
    except FileNotFoundError:
        raise InputError(f"file {file!r} does not exist; give the path of a YAML file of settings.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no settings; write a line for each, such as `iterations: 500`.")
    return content


def sweep_of(file: str, sweeps: list[str]) -> str:
    """The sweep that a file is of.

    Raises:
        InputError: it names none, or one that does not exist.
    """
    content = read(file)
    if SWEEP not in content:
        raise InputError(f"{file} does not say which sweep it is of; add `{SWEEP}: NAME`, one of {', '.join(sweeps)}.")
    name = str(content[SWEEP]).replace("_", "-")
    check_name(f"{SWEEP} in {file}", name, sweeps)
    return name


def settings_in(file: str, settings_class: type, prog: str) -> dict[str, Any]:
    """The settings of a file by name of the field, in their types.

    Raises:
        InputError: a key that is no flag of the command ``prog``, or a value of another type.
    """
    content, flags = read(file), flags_of(settings_class)
    sweep = content.pop(SWEEP, None)
    if sweep is not None and prog != f"mdssl sweep {str(sweep).replace('_', '-')}":
        raise InputError(f"{file} is of sweep {sweep!r}, not for `{prog}`; use `mdssl sweep {file}`.")
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = current_name(key.replace("-", "_"))
        valid = [known for known in flags if known not in ("save_config",)]
        check_name(f"key in {file}", name.replace("_", "-"), [known.replace("_", "-") for known in valid])
        if name in found:
            raise InputError(f"{file}: {name.replace('_', '-')} appears twice, in two spellings; give it once.")
        try:
            found[name] = _typed(flags[name], value)
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    return found


def _typed(flag: Flag, value: Any) -> Any:
    if value is None and flag.default is None:
        return None
    if _is_axes(flag) and isinstance(value, dict):
        value = [[name, *(values if isinstance(values, list) else [values])] for name, values in value.items()]
        value = [[_as_text(item) for item in axis] for axis in value]
    return value_as(flag.name, value, flag.hint)


def _is_axes(flag: Flag) -> bool:
    """Whether the flag is one like ``--grid NAME VALUE ...``, given several times."""
    return get_origin(flag.hint) is tuple and get_origin(get_args(flag.hint)[0]) is tuple


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def save(file: str, settings: Any, values: Mapping[str, Any], prog: str) -> None:
    """Write ``values``, the settings by name of the field, so that the file gives the same trials, also on another
    machine, and with presets that have changed.

    Raises:
        InputError: the file exists and holds something else, or is no regular file.
    """
    from mdssl.storage.location import Location
    from mdssl.storage.ownership import check_regular

    values = {name: value for name, value in values.items() if name not in _ACTIONS}
    if getattr(settings, "evaluates_domains", False):
        # Not the domains: those without labels are left out.
        values["evaluate"] = ()
    command = f"mdssl {'sweep' if prog.startswith('mdssl sweep ') else prog.removeprefix('mdssl ')} {FILE}"
    lines = [f"# Settings of mdssl {mdssl.__version__}, for `{command}`."]
    if prog.startswith("mdssl sweep "):
        lines.append(f"{SWEEP}: {prog.removeprefix('mdssl sweep ')}")
    settings_class: type = type(settings)
    for group, flags in grouped(list(flags_of(settings_class).values())).items():
        own = [
            f"{flag.name.replace('_', '-')}: {_written(flag, values[flag.name])}"
            for flag in flags
            if flag.name in values and not (flag.name in _PLACES and values[flag.name] == flag.default)
        ]
        lines += ["", f"# {group}", *own] if own else []
    data, location = ("\n".join(lines) + "\n").encode(), Location.of(file)
    check_regular(location, "Give another --save-config.")
    if location.exists() and location.read_bytes() != data:
        raise InputError(f"save_config is {file!r}, which exists and holds other settings; delete it, or name another.")
    location.write_bytes(data)


def _written(flag: Flag, value: Any) -> str:
    import yaml

    if _is_axes(flag):
        value = {name: list(values) for name, *values in value}
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").rstrip()
