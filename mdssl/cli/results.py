"""The commands that read results: ``mdssl leaderboard``, ``figures``, ``report`` and ``dashboard``.

What takes long to import is imported inside the functions, because ``--help`` should not wait for it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import tyro

from mdssl.cli.places import RowsFlag, StorageFlag
from mdssl.errors import InputError, check_number


@dataclass(frozen=True, kw_only=True)
class Leaderboard(RowsFlag):
    method: tuple[str, ...] = ()
    """Only these methods."""
    train_mixture: tuple[str, ...] = ()
    """Only these training mixtures, written cifar10+svhn."""
    evaluate: tuple[str, ...] = ()
    """Only these evaluation datasets."""
    probe: str | None = None
    """Scores of this probe; default: of each that has been run."""
    features: str | None = None
    """Scores of this layer: encoder | projection; default: encoder."""
    where: tuple[str, ...] = ()
    """Only rows that meet all of these, on any column or setting: lambda1=0.9,1.0 seed!=0 "top1>40" error=null. Quotes
    keep > and < from the shell."""
    columns: tuple[str, ...] = ()
    """A row per score with these columns, or all (but config_json). Default: trial, settings that differ, and top1 by
    dataset."""
    pivot: str | None = None
    """A row for each combination of the other columns, and a column for each value of this one, such as eval_dataset or
    lambda2."""
    over_seeds: bool = False
    """Mean, standard deviation, 95 % interval and number of seeds, of rows that differ in nothing else."""
    baseline: tuple[str, ...] = ()
    """Also the difference to the trial of the same mixture, seed and other settings that is this: a method, conditions
    as in --where, or a trial: its id, the first digits of it, or best."""
    sort: tuple[str, ...] = ()
    """Columns to sort by, smallest first; name:desc is largest first."""
    pareto: tuple[str, ...] | None = None
    """Only trials on the Pareto front of two objectives, which no other trial beats in both: seen unseen, average hours
    or names of evaluation datasets. Default where none are given: seen unseen."""
    format: str | None = None
    """table | markdown | csv | parquet | latex | json | html; default: as --output ends, else table."""
    output: str | None = None
    """Write the table to this file, whole or not at all: .txt, .md, .csv, .parquet, .tex, .json or
    .html."""
    compact: bool = False
    """First copy all rows into one file, leaderboard-compacted.parquet, from which thousands of trials are read in a
    moment. The files of the trials stay the truth: what changes later is still read from them."""


def leaderboard(settings: Leaderboard) -> None:
    """Print what storage holds: for each training mixture and probe a table, one row a trial, top-1 in percent.

    With any of --where, --columns, --pivot, --over-seeds, --baseline, --sort, --pareto, --format, --output it is one
    table, as these say. They go together; docs/leaderboard.md shows what comes out.

    Examples:
      mdssl leaderboard --method mdssl simclr --evaluate cifar10
      mdssl leaderboard --where arch=resnet18 --sort average:desc
      mdssl leaderboard --over-seeds --baseline simclr --output table.tex
      mdssl leaderboard --pareto average hours
      mdssl leaderboard --columns method lambda1 top1 --pivot lambda2 --where eval_dataset=svhn
      mdssl leaderboard --columns all --output leaderboard.csv
      mdssl leaderboard --compact
    """
    from mdssl.leaderboard.compacted import compact
    from mdssl.tables.printing import print_leaderboard, print_one_table
    from mdssl.tables.trial_name import find_trial, is_trial_name

    own = (settings.where, settings.columns, settings.pivot, settings.over_seeds, settings.baseline, settings.sort)
    one_table = any((*own, settings.pareto is not None, settings.format, settings.output))
    if settings.compact:
        print(compact(settings.storage), file=sys.stderr if one_table else sys.stdout)
    if not one_table:
        print_leaderboard(
            settings.storage,
            method=settings.method,
            train_mixture=settings.train_mixture,
            evaluate=settings.evaluate,
            probe=settings.probe,
            features=settings.features or "encoder",
        )
        return
    choice = {
        "method": settings.method,
        "train_mixture": settings.train_mixture,
        "eval_dataset": settings.evaluate,
        "probe": (settings.probe,) if settings.probe else (),
        "features": (settings.features,) if settings.features else (),
    }
    print_one_table(
        settings.storage,
        choice=choice,
        where=[_with_ids(settings.storage, text) for text in settings.where],
        columns=settings.columns,
        pivot=settings.pivot,
        over_seeds=settings.over_seeds,
        baseline=[find_trial(settings.storage, word) if is_trial_name(word) else word for word in settings.baseline],
        sort=settings.sort,
        pareto=() if settings.pareto is None else settings.pareto or ("seen", "unseen"),
        format=settings.format,
        output=settings.output,
    )


def _with_ids(storage: str, condition: str) -> str:
    """``condition`` with whole ids, if it is ``trial_id=`` or ``trial_id!=`` and trials as they are named."""
    from mdssl.tables.trial_name import find_trial, is_trial_name

    found = re.fullmatch(r"(\s*trial_id\s*!?=)(.*)", condition)
    if not found:
        return condition
    names = (name.strip() for name in found[2].split(","))
    return found[1] + ",".join(find_trial(storage, name) if is_trial_name(name) else name for name in names)


@dataclass(frozen=True, kw_only=True)
class Figures(RowsFlag):
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which figures: kinds, such as lambda-heatmap, or names of single files; default: all. A trial among them, as in
    `mdssl figures best`, asks for those of this trial while it trained."""
    output: str = "figures"
    """Folder or bucket to write them to."""
    formats: tuple[str, ...] = ("svg",)
    """svg (text that can be selected) | png (200 dots an inch) | pdf (fonts embedded); several give several files."""
    width: float | None = None
    """Of each figure, in inches: 3.3 is a column of print, 7 a page; default: what suits the figure."""
    style: tuple[str, ...] = ("report",)
    """report | paper (without notes such as "One seed" below the panels; the caption is printed), then styles of
    matplotlib or .mplstyle files, which set font and size of text."""
    trial_id: str | None = None
    """The same: a trial, whose figures are drawn instead of those of the leaderboard."""


def figures(settings: Figures) -> None:
    """Draw the figures that the leaderboard can give, those of the paper among them, or those of one trial.

    Each file is named as it is written, with its title and caption, then the figures that cannot be drawn, and why.

    Examples:
      mdssl figures --formats svg pdf
      mdssl figures lambda-heatmap --output paper/figures --formats pdf --width 3.3 --style paper serif.mplstyle
      mdssl figures 0123456789ab
    """
    from mdssl.figures.saving import write_figures
    from mdssl.tables.trial_name import find_trial, is_trial_name

    if settings.width is not None:
        check_number("width of figures in inches", settings.width, low=2, high=40)
    named = [name for name in settings.names if is_trial_name(name)]
    named += [settings.trial_id] if settings.trial_id else []
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} are several trials; figures are of one.")
    write_figures(
        settings.storage,
        settings.output,
        names=[name for name in settings.names if not is_trial_name(name)],
        formats=settings.formats,
        width=settings.width,
        styles=settings.style,
        trial_id=find_trial(settings.storage, named[0]) if named else None,
    )


@dataclass(frozen=True, kw_only=True)
class Report(StorageFlag):
    output: str = "report"
    """Folder or bucket for the report: new, empty, or with an earlier one, of which only what changed is written."""
    watch: bool = False
    """Bring it up to date every 30 seconds, or every few minutes where there is much to draw, until Ctrl-C; its first
    page then renews itself in the browser."""


def report(settings: Report) -> None:
    """Write a folder of HTML that opens without a network: a page for all trials, one for each, and the paper's claims.

    Examples:
      mdssl report --output report
      mdssl report --storage s3://bucket/results --watch
    """
    from mdssl.report.build import watch_report, write_report

    if settings.watch:
        watch_report(settings.storage, settings.output)
    else:
        print(write_report(settings.storage, settings.output, progress=True))


@dataclass(frozen=True, kw_only=True)
class Dashboard(StorageFlag):
    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address requires the token that the command prints."""
    port: int = 8099
    """Port to listen on; 0 takes a free one."""
    token: bool = False
    """Require the token from this machine as well, as where others have accounts on it."""


def dashboard(settings: Dashboard) -> None:
    """Serve the report as a page that follows the storage, until Ctrl-C. It is read-only.

    On a cluster, run it on the head and open it through SSH; docs/reports.md shows how.

    Examples:
      mdssl dashboard
      mdssl dashboard --storage s3://bucket/results --port 8100
      mdssl dashboard --host 0.0.0.0
    """
    from mdssl.report.server import serve

    serve(
        settings.storage,
        host=settings.host,
        port=settings.port,
        token=settings.token,
        say=lambda line: print(line, flush=True),
    )
