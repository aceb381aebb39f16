"""What training reports: step, loss terms and speed."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """A report. Loss terms are means over the steps since the last report, and over all workers."""

    step: int
    iterations: int
    loss: float
    alignment: float
    within: float
    across: float
    learning_rate: float
    views_per_second: float
    eta_seconds: float

    def as_row(self) -> dict[str, Any]:
        """The row of ``metrics.parquet``."""
        return {name: value for name, value in self._asdict().items() if name not in ("iterations", "eta_seconds")}


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
    """The mean of each loss term over the steps."""
    total, alignment, within, across = (sum(column) / len(terms) for column in zip(*terms, strict=True))
    return total, alignment, within, across
