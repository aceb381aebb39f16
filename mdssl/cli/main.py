"""The command ``mdssl``: a settings class and a function for each of its commands."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mdssl
from mdssl.cli import control, data, encoders, results, trials
from mdssl.cli.completion import print_completion
from mdssl.cli.config_file import is_config_file, sweep_of
from mdssl.cli.help import command_list, described
from mdssl.cli.parse import Main, command, parse
from mdssl.cli.places import DataFlag
from mdssl.cli.sweeps.clustering import Clustering, clustering
from mdssl.cli.sweeps.lambda_grid import LambdaGrid, lambda_grid
from mdssl.cli.sweeps.mixtures import Mixtures, mixtures
from mdssl.cli.sweeps.paper import Paper, paper
from mdssl.cli.sweeps.search import Search, search
from mdssl.config.field_types import current_name
from mdssl.errors import check_name

COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "data list": (DataFlag, data.data_list),
    "data prepare": (data.DataPrepare, data.data_prepare),
    "data show": (data.DataShow, data.data_show),
    "sweep lambda-grid": (LambdaGrid, lambda_grid),
    "sweep mixtures": (Mixtures, mixtures),
    "sweep clustering": (Clustering, clustering),
    "sweep search": (Search, search),
    "sweep paper": (Paper, paper),
    "train": (trials.Train, trials.train),
    "probe": (trials.Probe, trials.probe),
    "status": (trials.Status, trials.status),
    "log": (trials.Log, trials.log),
    "stop": (control.Chosen, control.stop),
    "retry": (control.Chosen, control.retry),
    "tag": (control.Tag, control.tag),
    "archive": (control.Archive, control.archive),
    "delete": (control.Asks, control.delete),
    "clean": (control.Asks, control.clean),
    "leaderboard": (results.Leaderboard, results.leaderboard),
    "figures": (results.Figures, results.figures),
    "report": (results.Report, results.report),
    "dashboard": (results.Dashboard, results.dashboard),
    "neighbors": (encoders.Neighbors, encoders.neighbors),
    "export": (encoders.Export, encoders.export),
    "embed": (encoders.Embed, encoders.embed),
}

_FIRST_WORDS = ("data", "sweep")
"""First words of commands with two."""
_SAVE_PROGRESS = {"sweep", "train", "probe", "embed", "data prepare"}
"""Commands that continue where they were interrupted, or their first words."""


@partial(
    command,
    saves_progress=lambda argv: bool(_SAVE_PROGRESS & {*argv[:1], " ".join(argv[:2])}) and "--dry-run" not in argv,
)
def main(argv: Sequence[str]) -> int | None:
    """The command ``mdssl``; see `mdssl.cli.parse.command` for what it returns."""
    group = argv[0] if argv and argv[0] in _FIRST_WORDS else ""
    words = list(argv[: 2 if group else 1])
    if words == ["--version"]:
        print(f"mdssl {mdssl.__version__}")
        return None
    if words == ["--print-completion"]:
        print_completion(COMMANDS, argv[1:])
        return None
    if not words or words == [group] or {"--help", "-h", "--help-all"}.intersection(words):
        print(_usage(group))
        return None
    rest = argv[len(words) :]
    if group == "sweep" and is_config_file(words[1]):
        sweeps = [name.removeprefix("sweep ") for name in COMMANDS if name.startswith("sweep ")]
        rest, words[1] = [words[1], *rest], sweep_of(words[1], sweeps)
    name = current_name(" ".join(words))
    check_name("command", name, COMMANDS, "`mdssl --help` says what each does.")
    settings_class, function = COMMANDS[name]
    return function(parse(settings_class, prog=f"mdssl {name}", description=inspect.getdoc(function), argv=rest))


def as_script(*words: str) -> Main:
    """The command ``mdssl WORDS`` as the main function of a script."""
    return lambda argv=None: main([*words, *(sys.argv[1:] if argv is None else argv)])


def _usage(group: str) -> str:
    """The list of all commands, or of those that begin with the word ``group``."""
    shown = {
        name: (inspect.getdoc(run) or "").splitlines()[0]
        for name, (_, run) in COMMANDS.items()
        if not group or name.startswith(f"{group} ")
    }
    if not group:
        shown |= _OPTIONS
    head = f"usage: mdssl {f'{group} ' if group else ''}COMMAND [flags]; --help after it shows its flags and examples"
    return "\n".join([*described(head), "", *command_list(shown), *described(_SWEEP_FILES if group == "sweep" else "")])


_OPTIONS = {
    "--version": "Print the version.",
    "--print-completion SHELL": 'Print completions for bash, zsh or tcsh, for: eval "$(mdssl --print-completion bash)"',
}
_SWEEP_FILES = """

`mdssl sweep FILE.yaml [flags]` runs the sweep of a file, which --save-config writes. Its keys are names of flags, which
override it:

  sweep: lambda-grid
  domains: [cifar10, svhn]
  lambda2: [0, 0.1, 0.2]"""
