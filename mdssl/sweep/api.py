"""Start a sweep from Python, with the same trials as ``mdssl sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from mdssl.config.field_types import current_name
from mdssl.config.presets import preset_values
from mdssl.config.trial import ClusterSettings, TrialConfig
from mdssl.data.remote import ensure_local
from mdssl.errors import check_name
from mdssl.leaderboard.board import read
from mdssl.storage.location import Location
from mdssl.sweep.launch import run_sweep
from mdssl.sweep.search.search import Trials
from mdssl.sweep.settings import SweepSettings


@dataclass(frozen=True, kw_only=True)
class _Settings(SweepSettings, ClusterSettings):
    """The settings of all methods: a trial ignores settings that its method does not have; a sweep refuses those that
    none of its methods has."""


class Sweep:
    """A grid of trials: every seed and temperature, every method, and every pair of λ1 and λ2 for those that have them.
    With ``search`` the trials are chosen one by one instead: see docs/search.md.

    A trial that this storage has finished, from a script or another sweep, is not trained again.

    Args:
        methods: names of methods, or settings such as ``{"method": "mdssl-robust", "epsilon": 0.5}``.
        name: the leaderboard's column ``sweep``.
        preset: the defaults of settings that are not given: quick, cifar, vit, convnext, or paper.
        settings: any flag of ``mdssl sweep lambda-grid --help-all`` or setting of clustering, with underscores:
            ``domains``, ``evaluate``, ``lambda1``, ``lambda2``, ``seeds``, ``grid``, ``iterations``, ``executor``,
            ``storage``, ``data``, ….

    Raises:
        ValueError: an unknown setting (the nearest valid one is named), or a value that is not allowed.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str | Mapping[str, Any]] = ("random", "simclr", "mdssl"),
        name: str = "sweep",
        preset: str = "quick",
        **settings: Any,
    ):
        usual = {field.name: field.default for field in fields(_Settings)}
        given = {current_name(key): value for key, value in settings.items()}
        for key in given:
            check_name("setting", key, usual)
        self.name = name
        self.settings = _Settings(**preset_values(preset, given, usual) | given)
        self.methods = self.settings.entries(*methods)

    def trials(self) -> list[TrialConfig]:
        """The trials of the grid, or those that a search has so far, whether finished or not.

        Raises:
            ValueError: a domain that is not prepared, or settings that training cannot have.
        """
        ensure_local(self.settings.data, self.settings.domains)
        return Trials(Location.of(self.settings.storage), self.settings, self.methods).configs

    def run(self) -> pd.DataFrame:
        """Train and score what is missing, with Ray, and print progress and tables; returns the rows of these trials.

        A trial that failed is a row with its ``error``. With ``dry_run=True`` it prints the plan and runs nothing.

        Raises:
            ValueError: settings, data, storage or resources that cannot work; nothing has been started then.
        """
        run_sweep(self.name, self.settings, self.methods, retry="Sweep(…, retry_failed=True).run(), without force")
        return read(self.settings.storage, trial_id=[config.trial_id for config in self.trials()])
