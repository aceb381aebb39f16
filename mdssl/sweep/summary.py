"""The printed plan of a sweep before it runs, and its table afterwards."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from mdssl.config.field_types import long_warm_up
from mdssl.config.presets import PRESETS
from mdssl.config.run import VALIDATION_FIT, VALIDATION_SCORED
from mdssl.config.trial import Recipe, TrialConfig
from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local, variants_in
from mdssl.errors import InputError, some_of
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.columns import SCHEMA
from mdssl.leaderboard.names import NAMED, matching_names, mixture_of, name_of, plain_name
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import LEADERBOARD
from mdssl.sweep.grid import Work, plan
from mdssl.sweep.search.settings import rungs
from mdssl.sweep.search.space import Space
from mdssl.sweep.settings import SweepSettings
from mdssl.tables.compare import settings_apart
from mdssl.tables.render import print_table
from mdssl.tables.sweep_table import print_sweep_table, sweep_table
from mdssl.tables.view import view
from mdssl.trials.describe import labels
from mdssl.trials.removal import in_archive

_PLANNED = (
    "finished",
    "stopped",
    "stopped on request",
    "failed",
    "queued to evaluate",
    "queued to resume",
    "queued to train",
)
"""States of planned trials, in the order of display."""


def print_plan(
    console: Console,
    name: str,
    settings: SweepSettings,
    storage: Location,
    works: list[Work],
    *,
    to_choose: int | None = 0,
    space: Space | None = None,
) -> None:
    """Print what is finished and what is left; with ``dry_run`` trial by trial.

    Args:
        to_choose: how many trials a search will choose; None where only its time limits it.
        space: of a search.
    """
    counts = Counter(map(str, works))
    hints = {
        "failed": " (train them again with --retry-failed)",
        "stopped on request": " (`mdssl retry` lets them be trained further)",
    }
    parts = [f"{counts[state]} {state}{hints.get(state, '')}" for state in _PLANNED if counts[state]]
    if to_choose != 0:
        parts.append(f"{'more' if to_choose is None else to_choose} chosen by {settings.search} search as it runs")
    summary = ", ".join(parts)
    variants = variants_in(settings.data, [*settings.domains, *settings.evaluate])
    mixtures = list(dict.fromkeys(work.config.train_mixture for work in works if work.config.domains))
    trained_on = mixture_of(mixtures[0], variants) if len(mixtures) == 1 else f"{len(mixtures)} mixtures"
    head = f"{name}: {len(works)} trials on {trained_on} in {storage.uri}"
    console.print(f"{head}: {summary}", markup=False, soft_wrap=True)
    if space and settings.search != "grid":
        console.print(f"search over {space}", markup=False, soft_wrap=True)
    archived = in_archive(storage, [work.config.trial_id for work in works if work.is_left])
    for note in _notes(settings, variants, archived):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if settings.dry_run:
        shown = {work.config.trial_id: mixture_of(work.config.train_mixture, variants) for work in works}
        names = labels((work.config for work in works), shown)
        width = max(map(len, names.values()), default=0)
        for work in works:
            missing = ", ".join(name_of(dataset, variants.get(dataset, "")) for dataset in work.missing)
            missing = f"; to score: {missing}" if work.is_left else ""
            line = f"  {work.config.trial_id}  {names[work.config.trial_id]:{width}}  {work}{missing}"
            console.print(line, markup=False, soft_wrap=True)


def _notes(settings: SweepSettings, variants: dict[str, str], archived: list[str]) -> list[str]:
    notes = []
    steps = settings.iterations
    every = range(settings.score_every, steps, settings.score_every) if settings.score_every else ()
    if scored := len({*rungs(settings, steps), *every}):
        # A pass through the network for an image to score, six for one to train on: two views, forward and backward.
        data, most = ensure_local(settings.data, settings.evaluate), VALIDATION_FIT + VALIDATION_SCORED
        images = sum(min(len(open_dataset(data, name).split("train").labels), most) for name in settings.evaluate)
        share = scored * images / (6 * settings.batch_per_domain * len(settings.domains) * steps)
        hint = f"; the same number takes 3 % of {steps * share / 0.03:,.0f} steps" if share > 0.03 else ""
        notes.append(f"the {scored} validation scores of a trial take some {100 * share:.2g} % of its time{hint}")
    if archived:
        notes.append(
            f"{some_of(archived, 8)}: archived, and trained anew here; `mdssl archive --undo` brings trials back"
        )
    if variants:
        listed = ", ".join(name_of(name, words) for name, words in variants.items())
        notes.append(
            f"not the published datasets of these names: {listed}; their scores are not comparable with published ones"
        )
    if warm_up := long_warm_up(settings.lr_warmup_iterations, steps):
        notes.append(warm_up)
    if len(settings.domains) == 1 and len(settings.lambda2) > 1:
        notes.append(f"there is one training domain, {settings.domains[0]}: lambda2 pushes no other domain away")
    crops = PRESETS["quick"]["crop_min_area"]
    if settings.preset == "quick" and settings.crop_min_area == crops and set(settings.domains) - set(BUILTIN):
        paper = Recipe.crop_min_area
        notes.append(
            f"preset quick crops no less than {crops:g} of an image, for the built-in domains; photos are usually "
            f"cropped as --crop-min-area {paper:g} does"
        )
    return notes


def print_results(
    console: Console,
    name: str,
    settings: SweepSettings,
    storage: Location,
    configs: list[TrialConfig],
    retry: str = "",
) -> int:
    """Print the sweep's table and its location; returns 0 when every trial has all its scores, 1 when some failed.

    Args:
        retry: what retries the trials that failed; by default the command of this process with --retry-failed.
    """
    rows = leaderboard.read(storage, trial_id=[config.trial_id for config in configs])
    probes = [probe.name for probe in settings.probe_config.each()]
    # Failures of other probes and datasets belong to other sweeps.
    asked_for = rows["eval_dataset"].isin(settings.evaluate) & rows["probe"].isin(probes)
    asked_for |= rows["eval_dataset"].isna() | (rows["status"] == "stopped")
    rows = leaderboard.with_settings(rows[asked_for])
    variants, found = variants_in(settings.data, settings.evaluate), dict.fromkeys(rows["eval_dataset"].dropna())
    marked = [name_of(name, variants.get(name, "")) for name in settings.evaluate]
    # The names in rows, which may be of other images than those that are prepared now.
    datasets = [name if name in found else (*matching_names([plain_name(name)], found), name)[0] for name in marked]
    mixtures = list(dict.fromkeys(config.train_mixture for config in configs if config.domains))
    mixtures = [name for mixture in mixtures for name in matching_names([mixture], rows["train_mixture"].unique())]
    for layer, probe in itertools.product(settings.features, probes):
        table = sweep_table(
            rows,
            mixtures=mixtures,
            datasets=datasets,
            probe=probe,
            features=layer,
        )
        shown = f"top-1 in percent on the test split, {probe} probe on {layer} features"
        console.print(f"\n{name}: {shown}")
        print_sweep_table(table, console=console)
        own = rows[(rows["probe"] == probe) & (rows["features"] == layer)]
        if own["seed"].nunique() > 1:
            console.print(f"\nmeans over seeds: {shown}")
            _print_means(own, console)
    works = plan(storage, configs, replace(settings, force=False, retry_failed=False))
    complete = all(work.state in ("finished", "stopped") for work in works)
    if asked := [work.config.trial_id for work in works if work.on_request]:
        text = f"stopped on request: {some_of(asked, 8)}; after `mdssl retry` the same sweep trains them further"
        console.print(text, markup=False, soft_wrap=True)
    if not complete:
        console.print(f"to retry failed trials and probes: {retry or _retry_command()}", markup=False, soft_wrap=True)
    folder = (storage / LEADERBOARD).uri
    console.print(f"\nleaderboard: {folder}", markup=False, soft_wrap=True)
    console.print(pandas_line(storage), markup=False, soft_wrap=True)
    pages = shlex.join(["mdssl", "report", "--storage", settings.storage])
    console.print(f"report: {pages}", markup=False, soft_wrap=True)
    return 0 if complete else 1


def _print_means(rows: pd.DataFrame, console: Console) -> None:
    baseline = [name for name in ("simclr",) if name in set(rows["method"])]
    try:
        print_table(view(rows, over_seeds=True, baseline=baseline), console)
    except InputError as error:
        console.print(f"note: {error}", markup=False, soft_wrap=True)


def _retry_command() -> str:
    program, *words = (word for word in sys.argv if word not in ("--force", "--retry-failed"))
    is_script = program.endswith(".py") and Path(program).name != "__main__.py"
    return shlex.join([*(["python", program] if is_script else ["mdssl"]), *words, "--retry-failed"])


def pandas_line(storage: Location) -> str:
    """A line that pivots the whole folder without averaging over anything but seeds.

    The folder may hold other sweeps as well, so the index names the settings in which its rows differ. Where the
    folder cannot be read, a note with the reason takes the place of the line.
    """
    index = ["method", "lambda1", "lambda2"]
    try:
        found = leaderboard.read(storage, status="finished")
        # With the plain names of the files that the line reads. Parts and variants differ in fingerprints.
        rows = leaderboard.with_settings(found).assign(**found[list(NAMED)])
        if len(set(rows["train_mixture"]) - {""}) > 1:
            # First, because different domains have different images.
            index.insert(1, "train_mixture")
        mixed = list(settings_apart(rows, [*index, "eval_dataset"]))
    except InputError as error:
        return f"note: {error}"
    index += [name for name in mixed if name in SCHEMA.names]
    if set(mixed) - set(index):
        # Settings that only config_json has.
        index.append("trial_id")
    names = ", ".join(f'"{name}"' for name in index)
    return (
        f'pd.read_parquet("{(storage / LEADERBOARD).uri}").pivot_table(index=[{names}], columns="eval_dataset", '
        'values="top1", dropna=False).dropna(how="all")'
    )
