"""The command ``mdssl``: a settings class and a function for each of its commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mdssl
from mdssl.cli import data, encoders, results, trials
from mdssl.cli.parse import command, parse
from mdssl.config.field_types import current_name
from mdssl.errors import check_name

COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "data list": (data.DataList, data.data_list),
    "data prepare": (data.DataPrepare, data.data_prepare),
    "data show": (data.DataShow, data.data_show),
    "train": (trials.Train, trials.train),
    "probe": (trials.Probe, trials.probe),
    "status": (trials.Status, trials.status),
    "log": (trials.Log, trials.log),
    "leaderboard": (results.Leaderboard, results.leaderboard),
    "figures": (results.Figures, results.figures),
    "report": (results.Report, results.report),
    "neighbors": (encoders.Neighbours, encoders.neighbours),
    "export": (encoders.Export, encoders.export),
    "embed": (encoders.Embed, encoders.embed),
}

_SAVE_PROGRESS = {"train", "probe", "embed"}
"""Commands that continue where they were interrupted."""


@partial(command, saves_progress=lambda argv: bool(_SAVE_PROGRESS.intersection(argv[:1])))
def main(argv: Sequence[str]) -> None:
    """The command ``mdssl``; see `mdssl.cli.parse.command` for what it returns."""
    words = argv[:2] if argv[:1] == ["data"] else argv[:1]
    if words == ["--version"]:
        print(f"mdssl {mdssl.__version__}")
        return
    if not words or "--help" in words or "-h" in words or words == ["data"]:
        print(_usage())
        return
    name = current_name(" ".join(words))
    check_name("command", name, COMMANDS, "`mdssl --help` says what each does.")
    settings_class, function = COMMANDS[name]
    description = inspect.getdoc(function)
    function(parse(settings_class, prog=f"mdssl {name}", description=description, argv=argv[len(words) :]))


def _usage() -> str:
    lines = ["usage: mdssl COMMAND [flags]; `mdssl COMMAND --help` lists the flags, defaults and an example", ""]
    lines += [f"  {name:14} {(inspect.getdoc(run) or '').splitlines()[0]}" for name, (_, run) in COMMANDS.items()]
    lines += ["", "Sweeps are scripts of their own: python sweeps/lambda_grid.py --help"]
    return "\n".join(lines)
