"""`FigureKind`, which describes a kind of figure, and `Gallery`, the figures of a leaderboard or of a trial."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mdssl.errors import InputError
from mdssl.figures.scores import SettingsGroup, settings_groups
from mdssl.figures.style import Figure
from mdssl.leaderboard.files import is_file_of_rows
from mdssl.storage.location import Location

Storage = str | Location | None


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts of a figure.

    Attributes:
        title: one line.
        caption: what the figure shows, of which settings, over how many seeds, as plain text.
        alt: alternative text: what can be seen, with numbers.
        name: distinguishes its file from those of other figures of the same kind.
    """

    title: str
    caption: str
    alt: str
    name: str = ""


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure of a leaderboard.

    Attributes:
        name: such as ``lambda-heatmap``.
        find: ``find(group, storage)`` yields the data and the `Words` of each figure of this kind. If there is none, it
            raises `InputError` with the reason.
        draw: ``draw(data)`` or ``draw(data, width=3.3)`` draws one of them.
        groups: ``groups(board)`` returns the groups of trials that are drawn in separate figures.
        by_mixture: whether it has a figure for each training mixture, of at most `mdssl.figures.scores.MOST_MIXTURES`.
    """

    name: str
    find: Callable[[SettingsGroup, Storage], Iterator[tuple[Any, Words]]]
    draw: Callable[..., Figure]
    groups: Callable[[pd.DataFrame], list[SettingsGroup]] = settings_groups
    by_mixture: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry(Words):
    """A figure that can be drawn; ``name`` is that of its file without suffix, unique in the gallery.

    Attributes:
        figure: its kind, such as ``lambda-heatmap``.
        draw: draws it; ``draw(width=3.3)`` sets the width in inches.
    """

    figure: str
    draw: Callable[..., Figure]


@dataclass(frozen=True)
class Gallery:
    """The figures that can be drawn, and by kind the reason why there is no figure."""

    entries: list[Entry] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def with_trials(storage: Storage, what: str) -> Location:
    """Return ``storage`` if it can hold the files of trials.

    Args:
        what: the content of the files that a figure needs, in the plural, for the message.

    Raises:
        ValueError: there is no storage, or it is a Parquet file of rows.
    """
    if storage is None:
        raise InputError(f"{what} of trials need a storage; call gallery(board, storage).")
    storage = Location.of(storage)
    if is_file_of_rows(storage):
        raise InputError(
            f"{what} of trials are not in a file of rows such as {storage.name}: give the folder or bucket of the "
            "results with --storage."
        )
    return storage


def file_name(*parts: str) -> str:
    """``parts`` joined to a name that is safe in file systems and in web addresses."""
    return "-".join(re.sub(r"[^A-Za-z0-9._+-]+", "-", part).strip("-.")[:60] for part in parts if part)
