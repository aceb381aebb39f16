"""The trials of a search, and the choice of the next one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mdssl.config.field_types import current_name
from mdssl.config.methods import METHODS
from mdssl.config.presets import check_used
from mdssl.config.trial import TrialConfig
from mdssl.errors import InputError
from mdssl.pretrain.pretrained import starts_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import extension, stop_request, trial_dir_in
from mdssl.sweep.grid import Work, each_once, plan, trials
from mdssl.sweep.search.history import History
from mdssl.sweep.search.sampler import check_sampler, next_point
from mdssl.sweep.search.settings import rungs
from mdssl.sweep.search.space import ENTRY, Space
from mdssl.sweep.settings import SweepSettings

_MOST_OF_A_GRID = 100_000
_START = (ENTRY, "init", "arch", "stem", "norm", "patch_size")
"""Axes that decide from which weights a trial starts, or that it cannot; of timm also by the domains' image size."""


class Trials:
    """The trials of a sweep: those of a grid, or those that a search has chosen and will choose.

    Args:
        methods: names of methods, or settings that differ, e.g. ``{"method": "mdssl-robust", "epsilon": 0.5}``. Those
            with λ1 and λ2, or where there are none those that train, are searched and may end early; the others are
            baselines.

    Attributes:
        history: their earlier results in the storage; None for a grid whose trials all train to the end.
        started: those that were given to Tune in this process.
        space: of a search, or of a grid with ranges.

    Raises:
        InputError: settings that training or a search cannot have.
    """

    def __init__(self, storage: Location, settings: SweepSettings, methods: Sequence[str | Mapping[str, Any]]):
        self.storage, self.settings = storage, settings
        entries = settings.entries(*methods)
        varied = {current_name(axis[0].replace("-", "_")) for axis in (*settings.grid, *settings.range) if axis}
        named = dict.fromkeys((*(entry["method"] for entry in entries), *settings.methods_left_out))
        check_used(settings, list(named), varied)
        searched = [entry for entry in entries if METHODS[entry["method"]].weighs_domains]
        searched = searched or [entry for entry in entries if METHODS[entry["method"]].weighs_negatives]
        searched = searched or [entry for entry in entries if METHODS[entry["method"]].trains]
        self.searched_methods = {entry["method"] for entry in searched}
        self.space: Space | None = None
        self.history: History | None = None
        self.started: list[TrialConfig] = []
        self.extended: set[str] = set()
        self.rungs = rungs(settings, settings.iterations)
        if settings.search == "grid" and not settings.range:
            self.fixed = trials(settings, settings.expand(*methods))
        else:
            baselines = [entry for entry in entries if entry not in searched]
            at_first = replace(settings, temperature=settings.temperature[:1], grid=())
            self.fixed = trials(at_first, at_first.expand(*baselines))
            self.space = self._space(searched)
            self.fixed = each_once([*self.fixed, *starts_of(map(self.space.trial, self.space.points(of=_START)))])
        if settings.search != "grid":
            check_sampler(settings.search)
            space = self.space
            assert space is not None
            self.history = History(storage, settings, lambda config: space.point_of(config) is not None)
        elif self.space:
            self.fixed += [self.space.trial(point) for point in self.space.points()]
        self._check_rungs(entries)
        if settings.search == "grid" and settings.skips_stopped:
            own = {config.trial_id for config in self.fixed if self.may_end_early(config)}
            self.history = History(storage, settings, lambda config: config.trial_id in own)
        self.extended = self._extended()

    def _space(self, searched: list[dict[str, Any]]) -> Space:
        settings, space = self.settings, Space(self.settings, searched)
        if not space.axes:
            raise InputError(
                f"search {settings.search!r} has no setting to vary: give --range, such as --range learning_rate 0.5 8 "
                "log, or several values, such as --temperature 0.1 0.2."
            )
        if settings.search == "grid" and space.size > _MOST_OF_A_GRID:
            many = f"{space.size:,.0f}" if math.isfinite(space.size) else "infinitely many"
            raise InputError(
                f"a grid over {space} has {many} trials; give each --range a step, or use --search optuna or random."
            )
        return space

    def _check_rungs(self, entries: list[dict[str, Any]]) -> None:
        """Refuse rungs that compare trials of different length, or by default clustered ones before they cluster."""
        if not self.rungs:
            return
        names = [axis.name for axis in self.space.axes] if self.space else self.settings.grid_axes
        if "iterations" in names:
            raise InputError(
                f"scheduler {self.settings.scheduler!r} compares trials of one length, but iterations varies; give one "
                "value, or use --scheduler none."
            )
        clustered = [entry for entry in entries if METHODS[entry["method"]].finds_domains]
        name, ranges = "warmup_iterations", self.space.axes if self.space else ()
        varied = [*self.settings.grid_axes.get(name, ()), *(axis.high for axis in ranges if axis.name == name)]
        usual = getattr(self.settings, name, TrialConfig.warmup_iterations)
        warm_up = max((entry.get(name, max(varied, default=usual)) for entry in clustered), default=0)
        if self.settings.grace_steps is None and self.rungs[0] <= warm_up:
            halfway = (warm_up + self.settings.iterations) // 2
            raise InputError(
                f"scheduler {self.settings.scheduler!r} ends trials from step {self.rungs[0]} on, but "
                f"{clustered[0]['method']} is SimCLR until step {warm_up}; give --grace-steps, such as {halfway}, "
                "or use --scheduler none."
            )

    def _extended(self) -> set[str]:
        """The best trials that a scheduler ended early. Those of an earlier command count, also where they are finished
        now, so that the same command again extends no others."""
        wanted = self.settings.extend
        if not wanted:
            return set()
        own = self.history.ordered() if self.history else []
        folders = {each.config.trial_id: trial_dir_in(self.storage, each.config.trial_id) for each in own}
        before = {trial_id for trial_id, folder in folders.items() if extension(folder).exists()}
        ended = [each for each in own if each.status == "stopped" and each.config.trial_id not in before]
        stopped = [each for each in ended if not stop_request(folders[each.config.trial_id]).exists()]
        if wanted > (most := len(before) + len(stopped)):
            raise InputError(
                f"extend is {wanted}, but {most} of this sweep's trials ended early; lower --extend, or give the "
                "--search or --scheduler with which more did."
            )
        stopped.sort(key=lambda each: each.last_score, reverse=True)
        return before | {each.config.trial_id for each in stopped[: max(0, wanted - len(before))]}

    def record_extended(self) -> None:
        """Record which trials ``--extend`` has chosen, before they are trained."""
        for trial_id in self.extended:
            extension(trial_dir_in(self.storage, trial_id)).write_bytes(b"{}")

    def may_end_early(self, config: TrialConfig) -> bool:
        """Whether a scheduler may end this trial: baselines, and trials that are extended, train to the end."""
        is_searched = config.method in self.searched_methods
        return bool(self.rungs) and is_searched and config.trial_id not in self.extended

    @property
    def configs(self) -> list[TrialConfig]:
        """All trials so far, baselines first."""
        own = [each.config for each in self.history.ordered()] if self.space and self.history else []
        return each_once([*self.fixed, *own])

    def works(self, configs: Sequence[TrialConfig] | None = None) -> list[Work]:
        """The work that is left of each trial; see `mdssl.sweep.grid.plan`."""
        works = plan(self.storage, list(configs or self.configs), self.settings)
        return [
            replace(work, state="queued", to_do="resume") if self._extends(work) else work
            for work in (replace(work, may_end_early=self.may_end_early(work.config)) for work in works)
        ]

    def begun_elsewhere(self) -> list[Work]:
        """The work left of the trials of a search that another process has begun and this one has not."""
        begun = {config.trial_id for config in self.started}
        elsewhere = [config for config in self.configs if config.trial_id not in begun]
        if self.settings.search == "grid" or not elsewhere:
            return []
        return [work for work in self.works(elsewhere) if work.is_left]

    def _extends(self, work: Work) -> bool:
        return work.state == "stopped" and not work.on_request and work.config.trial_id in self.extended

    @property
    def to_choose(self) -> int | None:
        """How many trials a search may still choose; None if only its time limits it."""
        if self.settings.search == "grid":
            return 0
        assert self.history is not None
        wanted = self.settings.trials
        return None if wanted is None else max(0, wanted - len(self.history.trials))

    def choose(self) -> Work | None:
        """The next trial of a search; None when it has all its trials, or its space is exhausted."""
        if self.settings.search == "grid":
            return None
        assert self.history is not None and self.space is not None
        self.history.refresh()
        if self.to_choose == 0:
            return None
        seed = self.settings.seeds[0]
        point = next_point(self.space, self.history.ordered(), kind=self.settings.search, seed=seed)
        if point is None:
            return None
        config = self.space.trial(point)
        self.history.begin(config)
        return self.works([config])[0]

    def scores(self) -> dict[str, dict[int, float]]:
        """The validation scores that the storage has of all trials at the steps where they may end, by id and step."""
        assert self.history is not None
        return {
            trial_id: {step: score for step, score in known.scores.items() if step in self.rungs}
            for trial_id, known in self.history.trials.items()
        }

    def ended(self, trial_id: str) -> None:
        """Note a trial that has ended, here or in another sweep."""
        if self.history and trial_id in self.history.trials:
            self.history.update(trial_id)
