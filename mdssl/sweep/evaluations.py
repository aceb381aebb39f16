"""The queue of trained encoders to score, in the sweep's driver. A trial that waits here holds no slot.

Each evaluation has a thread of the driver, which takes the trial's claim, waits for its turn, and has an actor score
the encoder and write the rows (`mdssl.sweep.evaluator`). While trials train in all slots, one encoder is scored at a
time, or one on each node; as slots become free, more are. The actor is where the trial trained, as the node has the
data and the device. It requests no CPU and no GPU, so the next trial trains beside it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from threading import Condition
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mdssl.errors import StoppedError
from mdssl.storage.claim import Claim, ClaimLostError, holder_of
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.evaluator import Evaluator
from mdssl.sweep.grid import Work
from mdssl.sweep.progress import SweepProgress
from mdssl.sweep.resources import Share
from mdssl.sweep.restarts import TRIAL_RESTARTS, record_death
from mdssl.sweep.search.queue import WorkQueue
from mdssl.sweep.training import TrialRun
from mdssl.sweep.waiting import report_of
from mdssl.trials.describe import Report

log = logging.getLogger(__name__)

_MOST_CLAIMED = 64
"""Trials in the queue that are claimed; each has a thread, and its claim another."""
_LOOK_SECONDS = 5.0
_POLL_SECONDS = 0.1
_IDLE_SECONDS = 60.0
"""An actor takes seconds to start, and on a cluster keeps its node from being terminated."""
_BEGINS: Report = {"state": "evaluating"}
"""In the queue of reports: a trial's turn has come."""


class Evaluations(tune.Callback):
    """Scores trained encoders. As a callback of Tune it learns of trained trials; `poll` passes on results.

    Args:
        slots: trials that train at a time.
        progress: is told of evaluations that begin and that are done, by `poll`.
        ended: called with the id of each trial that is done.
        keeps_actors: whether idle actors wait for more until the end, in place of a minute.

    Attributes:
        left: works whose trials turned out to be claimed elsewhere.
    """

    def __init__(
        self,
        run: TrialRun,
        share: Share,
        slots: int,
        progress: SweepProgress,
        ended: Callable[[str], None],
        *,
        keeps_actors: bool,
    ):
        self.run, self.share, self.slots, self.keeps_actors = run, share, slots, keeps_actors
        self.progress, self.ended = progress, ended
        self.storage = Location.of(run.storage)
        self.left: list[Work] = []
        self.pending = 0
        self._queue: WorkQueue | None = None
        self._has_more: Callable[[], bool] = bool
        self._nodes: dict[str, str] = {}
        self._reports: SimpleQueue[tuple[Work, Report]] = SimpleQueue()
        self._pool = ThreadPoolExecutor(_MOST_CLAIMED, thread_name_prefix="evaluation")
        self._changed = Condition()
        # Guarded by it: the works in turn, actors that score and that idle, with their nodes and since when.
        self._turns: list[Work] = []
        self._busy: Counter[str] = Counter()
        self._idle: list[tuple[str, Any, float]] = []
        self._actors: set[Any] = set()
        self._training = 0
        self._closed = False
        self._places: list[str] = []
        self._looked = float("-inf")

    def __getstate__(self) -> dict:
        # Tune pickles its callbacks for a restore that this project does not use.
        return {}

    def __enter__(self) -> Evaluations:
        if self.keeps_actors:
            # It is ready when the first trial has been trained.
            self._set_training(self.slots)
            node = self._places[0]
            self._idle.append((node, self._actor_on(node), time.monotonic()))
        return self

    def __exit__(self, *exception: object) -> None:
        """End what runs, and release the claims."""
        with self._changed:
            self._closed = True
            for actor in self._actors:
                ray.kill(actor)
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def follow(self, queue: WorkQueue, has_more: Callable[[], bool]) -> None:
        """Expect the trials of ``queue`` from Tune. ``has_more``: whether more than it has planned will follow."""
        self._queue, self._has_more = queue, lambda: queue.has_planned or has_more()

    def add(self, work: Work, node: str = "") -> None:
        """Put a trained trial at the end of the queue; ``node``: the id of the one where it has trained."""
        self.pending += 1
        self._pool.submit(self._run, replace(work, to_do="evaluate"), node)

    def poll(self) -> None:
        """Pass on what has happened since the last call, and end actors that have idled for long."""
        with self._changed:
            for _, actor, since in self._idle if not self.keeps_actors else []:
                if time.monotonic() - since > _IDLE_SECONDS:
                    self._discard(actor)
        while not self._reports.empty():
            work, report = self._reports.get()
            if report is _BEGINS:
                self.progress.evaluate(work.config.trial_id)
                continue
            self.pending -= 1
            self.progress.tell(work.config.trial_id, report)
            self.ended(work.config.trial_id)
            if report["state"] == "queued":
                self.left.append(work)

    def wait(self, stopped: Callable[[], bool], look: Callable[[], None]) -> list[Work]:
        """Wait until the queue is empty, or ``stopped``; returns and clears `left`. ``look`` is called meanwhile."""
        self._set_training(0)
        while self.pending and not stopped():
            self.poll()
            look()
            time.sleep(_POLL_SECONDS)
        self.poll()
        left, self.left = self.left, []
        return left

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        assert self._queue is not None  # Tune runs
        self._set_training(self.slots if self._has_more() else self._queue.running)
        self.poll()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "node" in result:
            self._nodes[trial.trial_id] = result["node"]

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        # Now the trial's own process has released the claim.
        node = self._nodes.pop(trial.trial_id, "")
        if self._queue and trial.last_result.get("state") == "evaluating":
            self.add(self._queue.work_of(trial.trial_id), node)
        # Tune keeps its trials, each with the averages and last values of all numbers that it reported.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()

    def _set_training(self, trials: int) -> None:
        with self._changed:
            if trials != self._training or time.monotonic() - self._looked > _LOOK_SECONDS:
                self._training = trials
                self._look()

    def _look(self) -> None:
        """List the nodes that have what trials train on."""
        need = "GPU" if self.share.gpus else "CPU"
        with self._changed:
            self._looked = time.monotonic()
            self._places = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(need)]
            self._changed.notify_all()

    def _run(self, work: Work, node: str) -> None:
        """Do one evaluation, in a thread of its own; an error is a report."""
        try:
            with retrying(stop_requested=lambda: self._closed):
                report = self._claimed(work, node)
        except StoppedError:
            report = {"state": "stopped"}
        except Exception as error:
            # The storage is away, so there is no row: the same command scores the trial.
            log.exception("trial %s could not be evaluated", work.config.trial_id)
            report = {"state": "failed", "error": f"{type(error).__name__}: {error}"}
        self._reports.put((work, report))

    def _claimed(self, work: Work, node: str) -> Report:
        trial_dir = trial_dir_in(self.storage, work.config.trial_id)
        with Claim(trial_dir, self.run.context["sweep"]) as claim:
            try:
                owner = claim.take(dead=work.dead)
                return report_of(trial_dir, owner) if owner else self._scored(work, node, claim)
            except ClaimLostError:
                return report_of(trial_dir, holder_of(trial_dir))

    def _scored(self, work: Work, node: str, claim: Claim) -> Report:
        deaths = 0
        while True:
            with self._turn(work, node) as (node, actor):
                self._reports.put((work, _BEGINS))
                try:
                    report: Report = ray.get(actor.score_trial.remote(work.to_dict(), self.run, claim.token))
                    return report
                except (ClaimLostError, StoppedError):
                    raise
                except ray.exceptions.RayError as error:
                    if self._closed:
                        raise StoppedError("the sweep ends") from error
                    log.warning("trial %s: its evaluation failed: %s", work.config.trial_id, error)
                    self._discard(actor)
                    self._look()
                    # That machines go away is not the trial's fault.
                    deaths += node in self._places
                    if deaths > TRIAL_RESTARTS:
                        return record_death(self.storage, work.config, str(error), self.run.context)

    @contextmanager
    def _turn(self, work: Work, node: str) -> Iterator[tuple[str, Any]]:
        """Wait for the turn of a work, first come, first served; yields an actor for it and the id of its node, which
        is ``node`` while that lives."""
        with self._changed:
            self._turns.append(work)
            self._changed.wait_for(lambda: self._closed or (self._turns[0] is work and self._has_room()))
            self._turns.remove(work)
            if self._closed:
                raise StoppedError("the sweep ends")
            if node not in self._places:
                node = min(self._places, key=self._busy.__getitem__, default="")
            actor = self._actor_on(node)
            self._busy[node] += 1
            self._changed.notify_all()
        try:
            yield node, actor
        finally:
            with self._changed:
                self._busy[node] -= 1
                if actor in self._actors:
                    self._idle.append((node, actor, time.monotonic()))
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._busy.total() < max(len(self._places), self.slots - self._training, 1)

    def _actor_on(self, node: str) -> Any:
        """An idle actor on ``node``, or a new one; without a node on one that a cluster starts."""
        for entry in self._idle:
            if entry[0] == node:
                self._idle.remove(entry)
                return entry[1]
        options: dict[str, Any] = {"num_gpus": min(self.share.gpus, 1)}
        if node:
            options = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=not self.share.gpus)}
        device = "auto" if self.share.gpus else "cpu"
        actor_class = Evaluator.options(**options)  # type: ignore[attr-defined]  # of `ray.remote`
        actor = actor_class.remote(self.run.data, self.run.probe, device, self.share.probe_memory, self._busy[node])
        self._actors.add(actor)
        return actor

    def _discard(self, actor: Any) -> None:
        with self._changed:
            self._actors.discard(actor)
            self._idle = [entry for entry in self._idle if entry[1] is not actor]
            ray.kill(actor)
