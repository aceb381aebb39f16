"""The reports of a run: the steps of each, and what they cost.

A GPU executes steps asynchronously. To read the loss of the last step, the host would wait until the GPU is idle.
Therefore, on a GPU, each report is made one report later, when its losses have been copied to the host.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mdssl.config.field_types import long_warm_up
from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import Mixture
from mdssl.device import Fetched
from mdssl.errors import some_of
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.pretrained import Pretrained
from mdssl.pretrain.progress import Answer, Progress, check_finite, means_of
from mdssl.tracking.trackers import Trackers, of_report

log = logging.getLogger(__name__)


class _Window(NamedTuple):
    """The steps of one report, up to ``step``.

    ``earlier`` are the loss terms of those before a stop, ``terms`` the (n, 4) others, and ``views`` those of this run.
    """

    step: int
    earlier: list[list[float]]
    terms: Fetched
    views: int
    steps: int
    learning_rate: float
    is_scored: bool
    is_due: bool


@dataclass
class Reports:
    """Collects the loss terms of steps, and makes reports of them, with the rows of ``state.metrics``.

    Attributes:
        state: of the run; its terms are those of steps before a stop.
        gpus: number of GPUs that the trial occupies, or its share of one.
        report: called with each report.
        score: the validation scores of the model as it is, by dataset.
        lag: number of reports by which reports are delayed.
    """

    state: LoopState
    iterations: int
    device: str
    gpus: float
    trackers: Trackers
    report: Callable[[Progress], Answer]
    score: Callable[[int], dict[str, float]]
    lag: int
    scores: dict[str, float] = field(default_factory=dict)
    _last: Fetched = field(init=False)

    def __post_init__(self) -> None:
        self._earlier, self._terms = self.state.terms, list[torch.Tensor]()
        self._windows: deque[_Window] = deque()
        self._from = (self.state.step, self.state.views)
        self._mark()

    def add(self, terms: torch.Tensor) -> None:
        """Take the (4,) loss terms of one step, which need not be computed yet."""
        self._terms.append(terms)

    @property
    def steps(self) -> int:
        """Steps since the last report."""
        return len(self._earlier) + len(self._terms)

    def close(self, learning_rate: float, *, is_scored: bool, is_due: bool) -> None:
        """End a report after the present step; `make` makes it."""
        step, views = self._from
        self._from = (self.state.step, self.state.views)
        own = (self.state.views - views, self.state.step - step, learning_rate, is_scored, is_due)
        self._windows.append(_Window(self.state.step, self._earlier, Fetched(torch.stack(self._terms)), *own))
        self._earlier, self._terms = [], []

    def make(self, *, up_to_now: bool) -> set[Answer]:
        """Make the reports that are due, or all ``up_to_now``. If none is left, the state is as a checkpoint needs it.

        Raises:
            NonFiniteLossError: a loss term is not finite.
        """
        answers = set()
        while len(self._windows) > (0 if up_to_now else self.lag):
            answers.add(self._make(self._windows.popleft()))
        if not self._windows:
            new = torch.stack(self._terms).tolist() if self._terms else []
            self.state.terms = self._earlier + new
            check_finite(self.state.terms, self.state.step)
            self._pay()
        return answers

    def _make(self, window: _Window) -> Answer:
        terms = window.earlier + window.terms.tolist()
        check_finite(terms, window.step)
        self._pay()
        seconds = window.terms.seconds_since(self._last)
        self._last, score = window.terms, None
        if window.is_scored:
            self.scores = self.score(window.step)
            self.state.score_seconds += self._pay()
            self._mark()
            score = sum(self.scores.values()) / len(self.scores) if self.scores else None
        progress = Progress(
            window.step,
            self.iterations,
            *means_of(terms),
            window.learning_rate,
            views_per_second=window.views / seconds,
            eta_seconds=(self.iterations - window.step) * seconds / window.steps,
            val_linear_top1=score,
            score_seconds=self.state.score_seconds,
            is_due=window.is_due,
        )
        self.state.metrics.append(progress.as_row(self.scores if window.is_scored else {}))
        self.trackers.log(window.step, of_report(self.state.metrics[-1]))
        answer = self.report(progress)
        is_last = window.step == self.iterations
        assert answer != "end" or window.is_scored or is_last, "a trial can end early only after a scored step"
        return answer

    def _mark(self) -> None:
        """Measure the next report from now on."""
        self._last = Fetched(torch.zeros((), device=self.device))
        self._paid_at = time.perf_counter()

    def _pay(self) -> float:
        """Add the time since the last call to the costs, and return it."""
        now = time.perf_counter()
        spent, self._paid_at = now - self._paid_at, now
        self.state.seconds += spent
        self.state.gpu_seconds += spent * self.gpus
        return spent


def log_start(config: TrialConfig, mixture: Mixture, device: str, workers: int, state: LoopState) -> None:
    """Log what a run trains, on what, and from which step on."""
    sizes = ", ".join(f"{name} {len(images):,}" for name, images in zip(mixture.names, mixture.images, strict=True))
    batch = f"{config.batch_per_domain} images per domain"
    if config.sampling == "proportional":
        batch = f"{mixture.batch} images in proportion"
    log.info(
        "%s %s on %s (%s images): steps %d to %d of %s, %d worker(s) on %s",
        config.trial_id, config.method, config.train_mixture, sizes, state.step, config.iterations,
        batch, workers, device,
    )  # fmt: skip
    if warm_up := long_warm_up(config.lr_warmup_iterations, config.iterations):
        log.info("%s", warm_up)
    if mixture.on_host:
        size = sum(images.nbytes for images in mixture.images) / 1e9
        log.info("%.3g GB of images stay on the host; batches are copied to %s while it trains", size, device)


def log_weights(start: Pretrained) -> None:
    """Log which weights an encoder starts from, and what of their file is not used."""
    log.info("encoder: %d tensors of %s (%s)", len(start.encoder), start.arch, start.source)
    if start.unmatched:
        log.info("tensors of the file that the encoder does not have: %s", some_of(start.unmatched, 8))
