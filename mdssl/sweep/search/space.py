"""The space of a search: the settings that vary, the values of each, and the trial at a point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args, get_type_hints

import numpy as np

from mdssl.config.field_types import current_name, parse_as
from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.errors import InputError, check_name
from mdssl.sweep.grid import trial_maker
from mdssl.sweep.settings import SweepSettings

Point = dict[str, Any]
"""A value of each axis, by its name."""

ENTRY = "method"
"""The axis of entries of a sweep: a method with settings of its own."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting that a search varies.

    Attributes:
        name: the setting, or `ENTRY`.
        choices: its values, which have no order; empty for a range.
        low, high: the ends of a range, both included.
        step: distance of the values of a range; None: any value, rounded to three digits.
        log: whether values are drawn uniformly in the logarithm.
        whole: whether they are whole numbers.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False

    def rounded(self, value: float) -> float:
        """The nearest value of the range. Few digits make ids readable, and points that are found again the same."""
        if self.step is not None:
            value = float(f"{self.low + round((value - self.low) / self.step) * self.step:.10g}")
        elif not self.whole:
            value = float(f"{value:.3g}")
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def drawn(self, rng: np.random.Generator) -> Any:
        """A value drawn uniformly."""
        if self.choices:
            return self.choices[rng.integers(len(self.choices))]
        if self.step is not None:
            return self.rounded(self.low + rng.integers(self._steps + 1) * self.step)
        if self.log:
            return self.rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.rounded(rng.uniform(self.low, self.high))

    @cached_property
    def values(self) -> tuple[Any, ...] | None:
        """All values in their order; None of a range without steps."""
        if self.choices:
            return self.choices
        if self.step is None:
            return None
        return tuple(self.rounded(self.low + number * self.step) for number in range(self._steps + 1))

    @property
    def _steps(self) -> int:
        assert self.step is not None
        return int((self.high - self.low) / self.step + 1e-9)

    def has(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high and self.rounded(value) == value

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} in {len(self.choices)} values"
        way = " by its logarithm" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.name} from {self.low:g} to {self.high:g}{way}"


class Space:
    """The points that a search chooses from.

    Args:
        entries: methods with settings of their own, such as ``{"method": "mdssl"}``; they are an axis if there are
            several.

    Attributes:
        axes: those with more than one value.

    Raises:
        InputError: a range of no setting, of one without numbers, with another value list, or that training cannot
            have; or settings of which a search has one.
    """

    def __init__(self, settings: SweepSettings, entries: Sequence[Mapping[str, Any]]):
        self.settings, self.entries = settings, [dict(entry) for entry in entries]
        if len(settings.seeds) > 1:
            seeds = ", ".join(map(str, settings.seeds))
            raise InputError(
                f"seeds are {seeds}, but a search compares settings at one seed; give one, and train the best settings "
                "with more --seeds afterwards."
            )
        ranges = {axis.name: axis for axis in map(self._range, settings.range)}
        if len(ranges) < len(settings.range):
            raise InputError("--range names a setting twice; give each once.")
        lists: dict[str, tuple[Any, ...]] = {"temperature": settings.temperature, **settings.grid_axes}
        if any(METHODS[entry["method"]].weighs_domains for entry in self.entries):
            lists |= {"lambda1": settings.lambda1, "lambda2": settings.lambda2}
        for name in ranges:
            if name in settings.grid_axes:
                raise InputError(f"{name} has both --range and --grid; give one of them.")
        self.fixed = {name: values[0] for name, values in lists.items()}
        every = [Axis(name=ENTRY, choices=tuple(range(len(self.entries))))]
        every += [Axis(name=name, choices=values) for name, values in lists.items() if name not in ranges]
        self.axes = [axis for axis in every if len(axis.choices) > 1] + list(ranges.values())
        self._make = trial_maker(settings)
        self._check()

    def _range(self, words: tuple[str, ...]) -> Axis:
        name = current_name(words[0].replace("-", "_")) if words else ""
        types = get_type_hints(TrialConfig)
        numbers = [key for key, kind in types.items() if {int, float} & {kind, *get_args(kind)} and kind is not bool]
        valid = [key for key in numbers if key not in ("seed", "input_size")]
        check_name("range", name, valid, "Other settings can have a list of values, with --grid or their own flag.")
        if name in self.settings.own_axes or (self.entries and all(name in entry for entry in self.entries)):
            raise InputError(f"{name} is set by other flags of the sweep, or by its methods; leave --range {name} out.")
        if not 3 <= len(words) <= 4:
            raise InputError(
                f"range is {' '.join(words)!r}; it must be a setting, its lowest and highest value and, if you want, a "
                f"step or log: --range {name} 0.8 1 0.05"
            )
        whole = int in (types[name], *get_args(types[name]))
        kind = int if whole else float
        low, high = (parse_as(name, text, kind) for text in words[1:3])
        extra = words[3] if len(words) == 4 else ""
        log = extra == "log"
        step = parse_as(f"step of {name}", extra, kind) if extra and not log else (1 if whole and not log else None)
        if not low < high:
            raise InputError(f"range of {name} goes from {low:g} to {high:g}; the second value must be the larger one.")
        if log and low <= 0:
            raise InputError(f"range of {name} starts at {low:g}, which has no logarithm; start above 0.")
        if step is not None and not 0 < step <= (high - low) * (1 + 1e-9):
            raise InputError(f"range of {name} has a step of {step:g}; it must be above 0 and at most {high - low:g}.")
        return Axis(name=name, low=low, high=high, step=step, log=log, whole=whole)

    def _check(self) -> None:
        """Check the trials at both ends of each range before anything starts."""
        settings = [relevant_settings(self.trial(point).to_dict()) for point in self._ends()]
        for axis in self.axes:
            if axis.name != ENTRY and not any(axis.name in of_trial for of_trial in settings):
                methods = ", ".join(dict.fromkeys(entry["method"] for entry in self.entries))
                raise InputError(f"{axis.name} cannot change a trial of {methods}; leave it out of the search.")
        for name in ("lambda1", "lambda2"):
            given, default = getattr(self.settings, name), type(self.settings).__dataclass_fields__[name].default
            if any(axis.name == name and not axis.choices for axis in self.axes) and given != default:
                raise InputError(f"{name} has both --range and --{name}; give one of them.")

    def _ends(self) -> Iterator[Point]:
        first = self._first
        yield first
        for axis in self.axes:
            for end in axis.choices or (axis.high,):
                yield first | {axis.name: end}

    def trial(self, point: Point) -> TrialConfig:
        """The trial at ``point``.

        Raises:
            InputError: training cannot have these settings together.
        """
        entry = self.entries[point.get(ENTRY, 0)]
        values = self.fixed | {name: value for name, value in point.items() if name != ENTRY}
        return self._make(values | entry)

    def point_of(self, config: TrialConfig) -> Point | None:
        """The point of ``config``, or None."""
        values = config.to_dict()
        point = {axis.name: values[axis.name] for axis in self.axes if axis.name != ENTRY}
        if not all(axis.has(point[axis.name]) for axis in self.axes if axis.name != ENTRY):
            return None
        for number, entry in enumerate(self.entries):
            found = point | ({ENTRY: number} if len(self.entries) > 1 else {})
            try:
                if entry["method"] == config.method and self.trial(found).trial_id == config.trial_id:
                    return found
            except InputError:
                continue
        return None

    @property
    def size(self) -> float:
        """The number of points; infinite with a range that has no steps."""
        return math.prod(len(axis.values) if axis.values else math.inf for axis in self.axes)

    @property
    def _first(self) -> Point:
        return {axis.name: axis.choices[0] if axis.choices else axis.low for axis in self.axes}

    def points(self, of: Collection[str] | None = None) -> Iterator[Point]:
        """All points of a finite space, in a fixed order; or one for each combination of values of the axes ``of``."""
        axes = [axis for axis in self.axes if of is None or axis.name in of]
        for values in itertools.product(*(axis.values or (axis.low,) for axis in axes)):
            yield self._first | dict(zip((axis.name for axis in axes), values, strict=True))

    def __str__(self) -> str:
        return "; ".join(map(str, self.axes))
