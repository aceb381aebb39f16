"""The command ``mdssl``: which commands there are. What each takes and does is in `mdssl.commands`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from mdssl.cli import data, encoders, results, trials
from mdssl.cli.parse import parse, run
from mdssl.errors import check_name

COMMANDS: dict[str, tuple[type, Callable]] = {
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
    "neighbors": (encoders.Neighbors, encoders.neighbors),
    "export": (encoders.Export, encoders.export),
    "embed": (encoders.Embed, encoders.embed),
}
ALIASES = {"neighbours": "neighbors"}


def _main(argv: Sequence[str]) -> None:
    words = argv[:2] if argv[:1] == ["data"] else argv[:1]
    if not argv or "--help" in words or "-h" in words or words == ["data"]:
        print(_usage())
        return
    command = " ".join(words)
    command = ALIASES.get(command, command)
    check_name("command", command, COMMANDS, "`mdssl --help` says what each does.")
    settings_class, function = COMMANDS[command]
    description = inspect.cleandoc(function.__doc__)
    settings = parse(settings_class, prog=f"mdssl {command}", description=description, argv=argv[len(words) :])
    function(settings)


def _usage() -> str:
    lines = ["usage: mdssl COMMAND [flags]; `mdssl COMMAND --help` lists the flags, defaults and an example", ""]
    lines += [f"  {name:14} {function.__doc__.strip().splitlines()[0]}" for name, (_, function) in COMMANDS.items()]
    lines += ["", "Sweeps are scripts of their own: python sweeps/lambda_grid.py --help"]
    return "\n".join(lines)


def main() -> None:
    """Entry point of the command ``mdssl``."""
    run(_main)
