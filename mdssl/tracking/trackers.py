"""What a trial tells its trackers, and that no tracker can do it harm.

Trackers work in a thread of their own: training never waits for a disk or a network. What one of them raises is a
warning, after which the trial goes on without that one.
"""

from __future__ import annotations

import importlib
import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mdssl.config.trial import TrialConfig
from mdssl.storage.location import Location

log = logging.getLogger(__name__)

FINISH_SECONDS = 60.0
"""How long the end of a trial waits for trackers that have not said all."""
_CLASSES = {
    "tensorboard": ("mdssl.tracking.tensorboard", "TensorBoard"),
    "wandb": ("mdssl.tracking.weights_and_biases", "WeightsAndBiases"),
    "mlflow": ("mdssl.tracking.mlflow_run", "MLflowRun"),
}


class Tracker(Protocol):
    """One trial in one tool. The constructor takes what `Tracks.start` has: config, trial_dir and resumed_at."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Show ``values``, by names such as ``loss/total``, at ``step``."""

    def finish(self, failed: bool) -> None:
        """Nothing comes any more."""


class Trackers:
    """The trackers of one trial. A context manager; without `start` it does nothing."""

    def __init__(self, names: Sequence[str], config: TrialConfig, trial_dir: Location):
        self.names, self.config, self.trial_dir = names, config, trial_dir
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False

    def start(self, resumed_at: int | None) -> None:
        """Open the trackers.

        Args:
            resumed_at: the step after which training goes on: what was told of later ones before a kill is told again.
                None where there is nothing but scores to tell of a trained encoder.
        """
        if self.names:
            self._thread = threading.Thread(target=self._work, args=(resumed_at,), name="trackers", daemon=True)
            self._thread.start()

    def log(self, step: int, values: dict[str, float | None]) -> None:
        """Tell all trackers; what is None is not known and is left out."""
        if self._thread:
            self._queue.put((step, {name: value for name, value in values.items() if value is not None}))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if not self._thread:
            return
        self._failed = kind is not None
        self._queue.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            log.warning("trackers did not finish within %.0f s; they may miss the end of the trial", FINISH_SECONDS)

    def _work(self, resumed_at: int | None) -> None:
        trackers = {}
        for name in self.names:
            module, class_name = _CLASSES[name]
            with _Harmless(trackers, name):
                tracker = getattr(importlib.import_module(module), class_name)
                trackers[name] = tracker(self.config, self.trial_dir, resumed_at)
        while (told := self._queue.get()) is not None:
            for name, tracker in list(trackers.items()):
                with _Harmless(trackers, name):
                    tracker.log(*told)
        for name, tracker in list(trackers.items()):
            with _Harmless(trackers, name):
                tracker.finish(self._failed)


class _Harmless:
    """What goes wrong in this context costs the trial the tracker ``name``, and nothing else."""

    def __init__(self, trackers: dict[str, Tracker], name: str):
        self.trackers, self.name = trackers, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.trackers.pop(self.name, None)
            log.warning("tracker %s failed (%s: %s); the trial goes on without it", self.name, kind.__name__, error)
        return isinstance(error, Exception)


def of_report(row: dict[str, Any]) -> dict[str, float]:
    """The values of a row of ``metrics.parquet``."""
    terms = {f"loss/{name}": row[name] for name in ("alignment", "within", "across")}
    return {"loss/total": row["loss"], **terms, **{name: row[name] for name in ("learning_rate", "views_per_second")}}


def of_clustering(record: dict[str, Any]) -> dict[str, float | None]:
    """The values of a row of ``clusters.parquet``."""
    sizes = {f"clusters/size_{number}": size for number, size in enumerate(record["sizes"])}
    names = ("purity", "nmi", "churn", "kept_share", "epsilon", "inertia")
    return sizes | {f"clusters/{name}": record[name] for name in names}


def tell_scores(names: Sequence[str], config: TrialConfig, trial_dir: Location, rows: Iterable[dict[str, Any]]) -> None:
    """Tell trackers the finished scores among ``rows`` of the leaderboard, at the trial's last step."""
    values = {
        f"{score}/{row['eval_dataset']}/{row['features']}/{row['probe']}": row[score]
        for row in rows
        if row["status"] == "finished"
        for score in ("top1", "knn_top1")
    }
    if values:
        with Trackers(names, config, trial_dir) as trackers:
            trackers.start(resumed_at=None)
            trackers.log(config.iterations, values)
