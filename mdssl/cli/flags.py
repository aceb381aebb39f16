"""What help and configuration files know of a settings class: its flags, their texts, and the groups they belong to."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional, Suppress

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import ClusterSettings, Recipe
from mdssl.sweep.search.settings import SearchSettings

FILE = "FILE.yaml"
_GROUPS = {
    "trial": "method lambda1 lambda2 temperature seed",
    "grid": "lambda1 lambda2 temperature seeds grid",
    "data": "domains evaluate data pretrained input_size",
    "training": "preset",
    "clustered methods": "",
    "probe": "",
    "search": "",
    "where it runs": "workers cpus_per_worker gpus_per_worker executor max_concurrent address device",
    "output": "storage track tag keep_checkpoints dry_run force retry_failed save_config",
}
"""Groups of `mdssl train` and of the sweeps, in the order of their help, and what is in them by name."""
_OWN = ("trial", "grid")
"""The group of what a command has for itself: `mdssl train`, and the sweeps."""
_GROUP_OF_CLASS = {
    Recipe: "training",
    ClusterSettings: "clustered methods",
    ProbeConfig: "probe",
    SearchSettings: "search",
    RunSettings: "where it runs",
}
_COMMON = {
    *("preset", "iterations", "batch_per_domain", "learning_rate", "arch", "num_clusters", "lambda1", "lambda2"),
    *("temperature", "seeds", "seed", "method", "grid", "domains", "evaluate", "data", "probe", "search", "range"),
    *("trials", "scheduler", "workers", "gpus_per_worker", "executor", "address", "device", "storage", "dry_run"),
    *("force", "retry_failed", "save_config"),
}
"""Flags that a short help shows, beside those that a sweep has for itself."""
_METAVARS = {
    "FOLDER": "storage data",
    "PATH": "source output",
    "FILE": "weights pretrained save_config",
    "DATASET": "domains evaluate among name",
    "TRIAL_ID": "trial_id",
    "TRIAL": "chosen",
    "TAG": "tag add remove",
    "TEXT": "note",
    "MIXTURE": "mixtures train_mixture",
    "METHOD": "methods method",
    "CLASS": "classes",
    "COLUMN": "columns pivot sort",
    "CONDITION": "where baseline",
    "IMAGE": "images",
    "EXPERIMENT": "experiments",
    "SETTING VALUE": "grid range",
    "TIME": "time_budget",
    "SEED": "seeds",
}
"""What help calls the value of a flag whose type says less."""
_METAVAR_OF = {name: metavar for metavar, names in _METAVARS.items() for name in names.split()}
_METAVAR_OF_TYPE = {int: "N", float: "X", str: "NAME"}


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One setting of a settings class.

    Attributes:
        hint: its type, without the parser's marks; None stands for a default that the text names.
        metavar: the value in help; empty where the flag has none.
        group: where help shows it; empty in classes without groups.
        common: whether a short help shows it.
    """

    name: str
    hint: Any
    default: Any
    text: str
    metavar: str
    group: str
    common: bool
    positional: bool

    def spelled(self, default: Any) -> str:
        """The flag as it is written: ``--lambda1 X ...``; one that is on by default switches it off."""
        if self.positional:
            return self.metavar
        name = self.name.replace("_", "-")
        return f"--no-{name}" if default is True else f"--{name} {self.metavar}".rstrip()


SAVE_CONFIG = Flag(
    name="save_config",
    hint=str,
    default="",
    text="Save the settings, for the same trials again.",
    metavar=FILE,
    group="output",
    common=True,
    positional=False,
)


def takes_file(settings_class: type) -> bool:
    """Whether the command reads a configuration file, and writes one by ``--save-config``."""
    return issubclass(settings_class, Recipe)


@cache
def flags_of(settings_class: type) -> dict[str, Flag]:
    """The flags of a settings class by name, its own before those that it shares; suppressed ones are left out."""
    hints = get_type_hints(settings_class, include_extras=True)
    texts: dict[str, str] = {}
    owner: dict[str, type] = {}
    for kind in settings_class.__mro__:
        for name, text in _texts(kind).items():
            texts[name] = texts.get(name) or text
            owner.setdefault(name, kind)
    by_name = {field.name: field for field in fields(settings_class)}
    # Dataclasses put inherited fields first.
    own_first = dict.fromkeys(name for base in settings_class.__mro__ for name in vars(base).get("__annotations__", ()))
    own = "grid" if "seeds" in by_name else "trial"
    group_of = {
        name: group for group, names in _GROUPS.items() for name in names.split() if group not in _OWN or group == own
    }
    found = {}
    for name in own_first:
        marks = get_args(hints[name])[1:] if hasattr(hints.get(name), "__metadata__") else ()
        if name not in by_name or Suppress in marks:
            continue
        hint, kind = _unmarked(hints[name]), owner.get(name, settings_class)
        group = group_of.get(name) or _GROUP_OF_CLASS.get(kind, own)
        default = by_name[name].default
        metavar = _metavar(name, hint)
        positional = Positional in marks
        if positional and default is not MISSING:
            metavar = f"[{metavar}]"
        found[name] = Flag(
            name=name,
            hint=hint,
            default=default,
            text=" ".join(texts.get(name, "").split()),
            metavar=metavar,
            group=group if takes_file(settings_class) else "",
            common=name in _COMMON or (kind is settings_class and group == own),
            positional=positional,
        )
    return found | ({"save_config": SAVE_CONFIG} if takes_file(settings_class) else {})


def grouped(flags: list[Flag]) -> dict[str, list[Flag]]:
    """``flags`` by group, in the order of `_GROUPS`."""
    found = {group: [flag for flag in flags if flag.group == group] for group in ("", *_GROUPS)}
    order = [name for names in _GROUPS.values() for name in names.split()]
    # What the groups do not name keeps its order, behind the rest.
    rank = {name: number for number, name in enumerate(dict.fromkeys(order))}
    return {group: sorted(own, key=lambda flag: rank.get(flag.name, len(rank))) if group else own
            for group, own in found.items() if own}  # fmt: skip


def _texts(kind: type) -> dict[str, str]:
    """The docstrings under the fields of one class."""
    if "__annotations__" not in vars(kind):
        return {}
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, [*body.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            says = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[field.target.id] = str(after.value.value) if says else ""  # type: ignore[attr-defined]
    return found


def _unmarked(hint: Any) -> Any:
    """``hint`` without the marks of the parser and without None."""
    hint = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    return get_args(hint)[0] if get_origin(hint) is UnionType else hint


def _metavar(name: str, hint: Any) -> str:
    several = get_origin(hint) is tuple
    kind = get_args(hint)[0] if several else hint
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        text = "{" + ",".join(get_args(kind)) + "}"
    elif get_origin(kind) is tuple:
        text = _METAVAR_OF[name]
    else:
        text = _METAVAR_OF.get(name, _METAVAR_OF_TYPE[kind])
    return f"{text} ..." if several else text
