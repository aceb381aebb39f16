"""Report trials that wait for machines, and free resources that dead processes still hold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group
from rich.console import Console

from mdssl.sweep.resources import Share, described, slots
from mdssl.trials.describe import duration

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_SAY_SECONDS = 60.0


def node_resources() -> list[dict[str, float]]:
    """The resources of each node that is alive, used or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_orphaned_groups() -> None:
    """Free the CPUs and GPUs of Ray Train controllers that died.

    Ray Train's own cleaner learns of a placement group when all workers have started. A group whose controller dies
    before that would hold its CPUs until the cluster ends. No workers are left in it: they end with their controller.
    """
    messages: Any = gcs_pb2  # without type hints
    tables = state._connect_and_get_accessor()
    for data in tables.get_placement_group_table():
        group = messages.PlacementGroupTableData.FromString(data)
        creator = ray.ActorID(group.creator_actor_id)
        if group.state == messages.PlacementGroupTableData.REMOVED or group.is_detached or creator.is_nil():
            continue
        actor = messages.ActorTableData.FromString(tables.get_actor_info(creator) or b"")
        if actor.class_name == "TrainController" and actor.state == messages.ActorTableData.DEAD:
            log.warning("freeing the resources of a dead controller of Ray Train")
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


class Machines(tune.Callback):
    """While Tune runs, compares what trials need with what the cluster has, and frees what is orphaned."""

    def __init__(
        self,
        share: Share,
        at_once: int,
        console: Console,
        nodes: Callable[[], list[dict[str, float]]] = node_resources,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[], None] = free_orphaned_groups,
    ):
        self.share, self.at_once, self.console = share, at_once, console
        self.nodes, self.clock, self.free = nodes, clock, free
        self.looked = self.said = float("-inf")
        self.short_since: float | None = None

    def __getstate__(self) -> dict:
        # Tune pickles its callbacks for a restore that this project does not use; a terminal cannot be pickled.
        return {}

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if self.clock() - self.looked >= _LOOK_SECONDS:
            self.looked = self.clock()
            self.free()
            self.look(min(self.at_once, sum(not trial.is_finished() for trial in trials)))

    def look(self, wanted: int) -> None:
        """Print, at intervals, that fewer than the ``wanted`` number of trials fit, and once that all fit again."""
        now, nodes = self.clock(), self.nodes()
        room = slots(self.share, nodes)
        if room >= wanted:
            if self.short_since is not None:
                waited = duration(now - self.short_since)
                self._say(f"machines are available after {waited}: {described(nodes)}")
                self.short_since, self.said = None, float("-inf")
            return
        self.short_since = now if self.short_since is None else self.short_since
        if now - self.said >= _SAY_SECONDS:
            self.said = now
            self._say(
                f"{wanted - room} of {wanted} trials are waiting for machines "
                f"({duration(now - self.short_since)} so far): "
                f"each needs {self.share}; the cluster has {described(nodes)}"
            )

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
