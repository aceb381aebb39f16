"""The flags of a search, the same in every sweep."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from mdssl.errors import InputError, check_number

_GRACE_SHARE = 9
"""Rungs of asha begin at this part of the iterations."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How the trials of a sweep are chosen, and which of them may end early."""

    search: Literal["grid", "random", "optuna"] = "grid"
    """grid (every combination of values) | random | optuna (multivariate TPE: chooses by validation scores so far).
    Methods without λ1 and λ2 are baselines, trained beside the search."""
    range: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """A setting to search between two values, both included: --range lambda1 0.8 1 (with a step --range lambda2 0 0.4
    0.05, or in the logarithm --range learning_rate 0.5 8 log). Without a step, values have three digits."""
    trials: int | None = None
    """Number of trials of a search; those in the storage, from any sweep, count."""
    time_budget: str | None = None
    """Time after which no trial begins, and those that train save a checkpoint and stop: 90m, 8h or 2d."""
    scheduler: Literal["none", "asha", "median"] = "none"
    """Ends trials early by their validation scores: asha (asynchronous successive halving: only the best of those that
    reached a rung continue) | median (a trial ends if its best score is below the median of the others). A trial that
    ended early has a checkpoint, and a sweep without a scheduler trains it to the end."""
    grace_steps: int | None = None
    """With a scheduler: the first step at which a trial may end; default: a ninth of the iterations.
    Required where that is before the first clustering of a clustered method."""
    reduction_factor: int = 3
    """asha: one in so many trials continues at each rung; the next rung is at so many times the steps."""
    extend: int = 0
    """Train so many trials that ended early to the end, the best first, by validation score."""

    def __post_init__(self) -> None:
        if self.trials is not None:
            check_number("trials", self.trials, low=1, hint="A search needs a trial.")
        if self.grace_steps is not None:
            check_number("grace_steps", self.grace_steps, low=1)
        check_number("reduction_factor", self.reduction_factor, low=2)
        check_number("extend", self.extend, low=0)
        _ = self.budget_seconds
        searches = self.search != "grid"
        if searches and self.trials is None and self.time_budget is None:
            raise InputError(
                f"search {self.search!r} needs a limit; give --trials, such as --trials 20, or --time-budget."
            )
        if self.trials is not None and not searches:
            raise InputError(
                f"trials is {self.trials}, but search 'grid' has one for each combination of values; use --search "
                "optuna or random, or leave --trials out."
            )
        if self.grace_steps is not None and self.scheduler == "none":
            raise InputError(f"grace_steps is {self.grace_steps}, but no scheduler ends trials; add --scheduler asha.")
        if self.reduction_factor != SearchSettings.reduction_factor and self.scheduler != "asha":
            raise InputError(
                f"reduction_factor is {self.reduction_factor}, but scheduler {self.scheduler!r} has none; leave it "
                "out, or use --scheduler asha."
            )

    @property
    def budget_seconds(self) -> float | None:
        """``time_budget`` in seconds.

        Raises:
            InputError: it is not a time.
        """
        if self.time_budget is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", self.time_budget)
        if not found or float(found[1]) == 0:
            raise InputError(f"time_budget is {self.time_budget!r}; it must be a time above 0 such as 90m, 8h or 2d.")
        return float(found[1]) * _UNITS[found[2]]

    @property
    def needs_validation(self) -> bool:
        """Whether trials are compared by validation scores, so that a finished trial needs one."""
        return self.search != "grid"

    @property
    def skips_stopped(self) -> bool:
        """Whether this sweep leaves trials that ended early as they are."""
        return self.needs_validation or self.scheduler != "none"


def rungs(settings: SearchSettings, iterations: int) -> tuple[int, ...]:
    """The steps after which a trial of ``iterations`` steps may end early.

    Raises:
        InputError: none is before its last step.
    """
    if settings.scheduler == "none":
        return ()
    # Rounded up: rounded down, a third rung would be just before the last step.
    first = settings.grace_steps or math.ceil(iterations / _GRACE_SHARE)
    if first >= iterations:
        raise InputError(
            f"grace_steps is {first}, but a trial has {iterations} steps, so none could end early; use fewer "
            "--grace-steps, or --scheduler none."
        )
    if settings.scheduler == "median":
        return tuple(range(first, iterations, first))
    found = [first]
    while found[-1] * settings.reduction_factor < iterations:
        found.append(found[-1] * settings.reduction_factor)
    return tuple(found)
