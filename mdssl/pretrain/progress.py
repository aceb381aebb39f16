"""Progress reports of training: step, loss terms, speed and validation scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from math import isfinite
from typing import Any, Literal, NamedTuple

from torch import nn

from mdssl.errors import InputError

log = logging.getLogger(__name__)

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Scores a model while it trains: top-1 in percent by dataset, as `mdssl.evaluate.validation.Validation` does."""
Answer = Literal["save", "end"] | None
"""The answer to a report: save a checkpoint at once, or end training early, with a checkpoint."""


class Progress(NamedTuple):
    """A report. Loss terms are means over the steps since the last report, and over all workers.

    On rank 0, ``val_linear_top1`` is the mean validation score over the datasets, in percent; None in a report without
    one. ``score_seconds`` is the time that all validation scores of the trial have taken.

    ``is_due`` is true for the last report, for reports after scored steps, at checkpoints and stops, and for one about
    every second, the same on all workers. Slow receivers may ignore the others.
    """

    step: int
    iterations: int
    loss: float
    alignment: float
    within: float
    across: float
    learning_rate: float
    views_per_second: float
    eta_seconds: float
    val_linear_top1: float | None = None
    score_seconds: float = 0.0
    is_due: bool = True

    def as_row(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Return the row of ``metrics.parquet``, with the validation ``scores`` by dataset."""
        left_out = ("iterations", "eta_seconds", "score_seconds", "is_due")
        row = {name: value for name, value in self._asdict().items() if name not in left_out}
        return row | {f"val_linear_top1/{name}": score for name, score in scores.items()}


def is_scored(step: int, score_every: int | None, rungs: Collection[int] = ()) -> bool:
    """Whether a validation score is due after ``step``: every ``score_every`` steps, and at the ``rungs``."""
    return step in rungs or bool(score_every and step % score_every == 0)


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite at ``step``. A retry would end at the same step."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


def check_finite(terms: list[list[float]], last_step: int) -> None:
    """Raise `NonFiniteLossError` if a loss term of the steps up to ``last_step`` is not finite."""
    for step, row in enumerate(terms, last_step - len(terms) + 1):
        if not all(map(isfinite, row)):
            total, alignment, within, across = row
            raise NonFiniteLossError(
                step,
                f"the loss is not finite at step {step}: total {total}, alignment {alignment}, within {within}, across "
                f"{across}. A lower learning rate, a longer warm-up or a higher temperature may help.",
            )


def means_of(terms: list[list[float]]) -> tuple[float, float, float, float]:
    """Return the mean of each loss term over the steps."""
    total, alignment, within, across = (sum(column) / len(terms) for column in zip(*terms, strict=True))
    return total, alignment, within, across


def validation_scores(validate: Validate, model: nn.Module, step: int) -> dict[str, float]:
    """Return validation scores by dataset; none of a model whose features are not finite, which may still recover."""
    try:
        return dict(validate(model))
    except InputError as error:
        log.warning("no validation score at step %d: %s", step, error)
        return {}
