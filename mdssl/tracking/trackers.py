"""Log a trial to its trackers.

Trackers run in a separate thread, so that training never waits for a disk or a network. If a tracker raises, the trial
continues without it, with a warning.
"""

from __future__ import annotations

import logging
import pkgutil
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from mdssl.config.trial import TrialConfig
from mdssl.storage.claim import holder_of
from mdssl.storage.location import Location
from mdssl.storage.notes import Notes, read_notes
from mdssl.storage.trial_dir import TRIALS, storage_of

log = logging.getLogger(__name__)

FINISH_SECONDS = 60.0
"""How long a finished trial waits for its trackers."""
CLASSES = {
    "tensorboard": "mdssl.tracking.tensorboard:TensorBoard",
    "wandb": "mdssl.tracking.wandb:WeightsAndBiases",
    "mlflow": "mdssl.tracking.mlflow:MLflowRun",
}
TRACKER_VARIABLES = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
)
"""Variables that a sweep passes on to the machines of a cluster. Each machine needs its own login: Ray shows these
variables to every user of the cluster, so keys are not among them."""


class Tracker(Protocol):
    """Logs a trial to one tool. The constructor's arguments are config, trial_dir and `Trackers.start`'s resumed_at."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Log ``values``, by names such as ``loss/total``, at ``step``."""

    def finish(self, failed: bool) -> None:
        """End the run; no more values follow."""


class Trackers:
    """The trackers of one trial, as a context manager. It does nothing without `start`."""

    def __init__(self, names: Sequence[str], config: TrialConfig, trial_dir: Location):
        self.names, self.config, self.trial_dir = names, config, trial_dir
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False

    def start(self, resumed_at: int | None) -> None:
        """Open the trackers.

        Args:
            resumed_at: the step from which training continues: values of later steps are logged again. None if only
                scores of a trained encoder are logged.
        """
        if self.names:
            self._thread = threading.Thread(target=self._work, args=(resumed_at,), name="trackers", daemon=True)
            self._thread.start()

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Log to all trackers; values of None are left out."""
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
            log.warning("trackers did not finish within %.0f s; they may lack the end of the trial", FINISH_SECONDS)

    def _work(self, resumed_at: int | None) -> None:
        trackers: dict[str, Tracker] = {}
        for name in self.names:
            with _dropped_on_error(trackers, name):
                trackers[name] = pkgutil.resolve_name(CLASSES[name])(self.config, self.trial_dir, resumed_at)
        while (logged := self._queue.get()) is not None:
            for name, tracker in list(trackers.items()):
                with _dropped_on_error(trackers, name):
                    tracker.log(*logged)
        for name, tracker in list(trackers.items()):
            with _dropped_on_error(trackers, name):
                tracker.finish(self._failed)


def tags_of(trial_dir: Location) -> tuple[tuple[str, ...], str]:
    """Return the tags of a trial, and the group of its run: the sweep or command that holds it, if any, else empty.

    Args:
        trial_dir: its folder, in a storage or elsewhere.
    """
    in_storage = trial_dir.parent.name == TRIALS
    notes = read_notes(storage_of(trial_dir)) if in_storage else {}
    owner = holder_of(trial_dir)
    return notes.get(trial_dir.name, Notes()).tags, owner.sweep if owner else ""


@contextmanager
def _dropped_on_error(trackers: dict[str, Tracker], name: str) -> Iterator[None]:
    """Remove the tracker ``name``, with a warning, if the block raises."""
    try:
        yield
    except Exception as error:
        trackers.pop(name, None)
        log.warning("tracker %s failed (%s: %s); the trial continues without it", name, type(error).__name__, error)


def of_report(row: dict[str, Any]) -> dict[str, float | None]:
    """Return the values of a row of ``metrics.parquet``."""
    scores = {name: value for name, value in row.items() if name.startswith("val_linear_top1")}
    terms = {f"loss/{name}": row[name] for name in ("alignment", "within", "across")}
    speed = {name: row[name] for name in ("learning_rate", "views_per_second")}
    return {"loss/total": row["loss"], **terms, **speed, **scores}


def of_clustering(record: dict[str, Any]) -> dict[str, float | None]:
    """Return the values of a row of ``clusters.parquet``."""
    sizes = {f"clusters/size_{number}": size for number, size in enumerate(record["sizes"])}
    names = ("purity", "nmi", "churn", "kept_share", "epsilon", "inertia")
    return sizes | {f"clusters/{name}": record[name] for name in names}


def log_scores(names: Sequence[str], config: TrialConfig, trial_dir: Location, rows: Iterable[dict[str, Any]]) -> None:
    """Log the finished scores among leaderboard ``rows``, at the trial's last step."""
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
