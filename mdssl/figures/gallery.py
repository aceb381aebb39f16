"""All figures of a leaderboard with titles and captions, and the reasons why others cannot be drawn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pandas as pd

from mdssl.data.builtin import BUILTIN
from mdssl.errors import InputError
from mdssl.figures import (
    contours,
    cost,
    curves,
    domains,
    heatmaps,
    importance,
    latent_space,
    measured,
    methods,
    pareto,
    progress,
    rungs,
    scores,
    slices,
)
from mdssl.figures.kind import Entry, Gallery, Storage, file_name
from mdssl.figures.scores import settings_groups

KINDS = {
    kind.name: kind
    for kind in (
        heatmaps.HEATMAPS,
        curves.CURVES,
        measured.MEASURED,
        methods.BARS,
        domains.GROWTH,
        latent_space.SIMILARITIES,
        latent_space.EMBEDDING,
        domains.HOURS,
        cost.COST,
        pareto.PARETO,
        progress.PROGRESS,
        rungs.RUNGS,
        slices.SLICES,
        contours.CONTOURS,
        importance.IMPORTANCE,
    )
}
"""All kinds of figures of a leaderboard, in the order of a gallery."""
MOST_GROUPS = 3
"""Number of groups of settings that are drawn, each in separate figures."""


def gallery(board: pd.DataFrame, storage: Storage = None) -> Gallery:
    """List all figures of ``board``, without drawing them.

    Trials that differ in settings which figures do not show are never averaged. Each of the largest groups of trials
    with the same settings is drawn in separate figures, and the caption names the settings.

    Args:
        board: as `mdssl.leaderboard.board.read` returns it.
        storage: where its trials are; required for figures of representations.
    """
    by_settings = settings_groups(board)
    if not by_settings:
        return Gallery(
            absent=dict.fromkeys(KINDS, "the leaderboard has no scores of a trained encoder yet: run a sweep.")
        )
    found = Gallery()
    reasons: dict[str, str] = {}
    for kind in KINDS.values():
        groups = by_settings if kind.groups is settings_groups else kind.groups(board)
        for number, group in enumerate(groups[:MOST_GROUPS], start=1):
            caption = f"{group.description}."
            if kind.groups is settings_groups and len(groups) > 1:
                caption += f" Number {number} of {len(groups)} combinations of settings, with {group.trials} trials."
            if kind.by_mixture and (several := len(scores.mixtures(group.rows))) > scores.MOST_MIXTURES:
                caption += f" Drawn: at most {scores.MOST_MIXTURES} of {several} training mixtures."
            if group.name and len(groups) > MOST_GROUPS:
                caption += f" Drawn: at most {MOST_GROUPS} of {len(groups)} sweeps."
            if set(group.rows["eval_dataset"]) & set(BUILTIN):
                caption += " The built-in domains are synthetic images."
            try:
                for data, words in kind.find(group, storage):
                    name = file_name(
                        f"{kind.name}-{words.name}", f"settings{number}" if number > 1 and not group.name else ""
                    )
                    # Names of datasets may differ in characters that no file name can have.
                    same = sum(entry.name.split("~")[0] == name for entry in found.entries)
                    name += f"~{same + 1}" if same else ""
                    words = replace(words, name=name, caption=f"{words.caption} {caption}")
                    found.entries.append(Entry(figure=kind.name, draw=partial(kind.draw, data), **vars(words)))
            except InputError as error:
                reasons.setdefault(kind.name, str(error))
    drawn = {entry.figure for entry in found.entries}
    found.absent.update({name: reason for name, reason in reasons.items() if name not in drawn})
    return found
