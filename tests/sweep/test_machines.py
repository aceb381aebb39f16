"""Resources of dead processes of Ray Train are freed."""

import sys
import time

import pytest
import ray
from processes import wait_for
from ray.util.placement_group import placement_group

from mdssl.sweep.machines import free_orphaned_groups

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Reserving:
    def reserve(self):
        self.group = placement_group([{"CPU": 1}])
        ray.get(self.group.ready())


class TrainController(Reserving):
    """Reserves a CPU, as the actor of Ray Train with this name does before it notifies the cleaner."""


def reserving(kind):
    actor = ray.remote(num_cpus=0)(kind).remote()
    ray.get(actor.reserve.remote())
    return actor


def end(actor):
    ray.kill(actor)
    wait_for(lambda: ray._private.state.actors(actor._actor_id.hex())["State"] == "DEAD", 30)


def cpus() -> float:
    return ray.available_resources().get("CPU", 0)


def test_only_placement_groups_of_dead_controllers_are_freed(cluster):
    ray.init(address=cluster, log_to_driver=False)
    # The processes of Ray cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        wait_for(lambda: cpus() == 2, 60)
        dead, alive = reserving(TrainController), reserving(TrainController)
        wait_for(lambda: cpus() == 0, 30)
        end(dead)
        time.sleep(2)
        assert cpus() == 0, "Ray frees the CPU only at the end of the driver, if at all"
        free_orphaned_groups()
        wait_for(lambda: cpus() == 1, 30)
        end(reserving(Reserving))
        free_orphaned_groups()
        time.sleep(2)
        assert cpus() == 0, "groups of other actors and of living controllers are kept"
        ray.kill(alive)
    finally:
        ray.shutdown()
