"""The training of one trial, by the executor that was asked for: here, or in Ray Train's workers.

Both are `mdssl.pretrain.loop.train` with a report callback. Checkpoints are train()'s own, in the trial's folder, so a
trial goes on from them whatever died: a worker, the trial's driver, the sweep or the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mdssl.config.run import ProbeConfig, RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.remote import ensure_local
from mdssl.device import limit_memory, pick_device
from mdssl.pretrain import checkpoint
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import NonFiniteLossError, Progress
from mdssl.pretrain.stopping import StoppedError, sigterm_received
from mdssl.pretrain.watchdog import watchdog
from mdssl.storage.claim import ClaimLostError, check_held
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_log import kept_log
from mdssl.sweep.resources import Share
from mdssl.sweep.stopping import stop_requested, stop_requested_now_and_then
from mdssl.sweep.train_records import train_records

log = logging.getLogger(__name__)

_WORKER_RESTARTS = 3
"""How often Ray Train starts a trial's workers anew after one of them died, with no new checkpoint meanwhile."""


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """What all trials of a sweep share, in plain values that travel to any node.

    Attributes:
        context: leaderboard columns that say which sweep made a row: sweep, preset, git_commit, ray_version.
        device: of each worker, cpu or auto (its GPU).
    """

    storage: str
    data: str
    probe: ProbeConfig
    settings: RunSettings
    executor: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    context: dict[str, str]

    @property
    def device(self) -> str:
        return "auto" if self.gpus_per_worker > 0 else "cpu"


def train_inline(config: TrialConfig, trial_dir: Location, run: TrialRun, token: str) -> None:
    """Train in this process, the Tune trial's own; as `train_in_workers`, the end is in ``training.json``."""
    _train_here(_job(config, trial_dir, run, token), tune.report, node_is_to_go)


def train_in_workers(config: TrialConfig, trial_dir: Location, run: TrialRun, token: str) -> None:
    """Train in Ray Train's workers, while the claim with ``token`` is held.

    Raises:
        StoppedError: the sweep has been asked to stop.
        ray.train.TrainingFailedError: a worker failed, or died more often than it may.
    """
    folder = train_records(Location.of(run.storage), config)
    reached, in_vain = checkpoint.latest_step(trial_dir / "checkpoints"), 0
    while True:
        try:
            _trainer(_job(config, trial_dir, run, token), run, folder).fit()
            _raise_if_stopped()
        except ray.train.TrainingFailedError as error:
            _raise_if_stopped()
            # Deaths between which training gets on are the machines' doing, and over days there are many.
            before, reached = reached, checkpoint.latest_step(trial_dir / "checkpoints")
            in_vain = in_vain + 1 if reached <= before else 0
            # Ray Train has started the workers anew already, but nobody its controller, which dies with its node.
            if in_vain > (_WORKER_RESTARTS if isinstance(error, ray.train.ControllerError) else 0):
                raise
        else:
            return
        finally:
            folder.delete()


def _raise_if_stopped() -> None:
    if stop_requested():
        raise StoppedError("the sweep stops")


def _trainer(job: dict[str, Any], run: TrialRun, records: Location) -> ray.train.torch.TorchTrainer:
    return ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config=job,
        torch_config=_no_process_group() if run.workers == 1 else None,
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=run.gpus_per_worker > 0,
            resources_per_worker={"CPU": run.cpus_per_worker}
            | ({"GPU": run.gpus_per_worker} if run.gpus_per_worker > 0 else {}),
        ),
        run_config=ray.train.RunConfig(
            name=records.name,
            storage_path=records.parent.path,
            storage_filesystem=records.filesystem,
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=_WORKER_RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _job(config: TrialConfig, trial_dir: Location, run: TrialRun, token: str) -> dict[str, Any]:
    """What a worker needs to train. Ray Train's controller unpickles it as well, and is to import no torch for that.

    So no `TrialRun` is in it: this module would come with the class, and torch with the module.
    """
    return {
        "trial": config.to_dict(),
        "data": run.data,
        "trial_dir": trial_dir.uri,
        "settings": run.settings,
        "device": run.device,
        "threads": run.cpus_per_worker,
        "memory": Share(workers=run.workers, cpus=run.cpus_per_worker, gpus=run.gpus_per_worker).memory,
        "claim": token,
    }


def _no_process_group() -> ray.train.BackendConfig:
    """In place of Ray's ``TorchConfig`` for a lone worker, which has nobody to talk to.

    The class of that config is beside torch, which the controller would import for nothing: with what `_job` says, a
    fourth of the time that a trial takes to start, and 0.35 GB.
    """
    config = ray.train.BackendConfig()
    config.backend = "none"  # a name is all that TorchTrainer asks of it
    return config


@retrying()
def _worker(job: dict[str, Any]) -> None:
    is_first = ray.train.get_context().get_world_rank() == 0
    with kept_log(Location.of(job["trial_dir"]), "train", errors_only=not is_first):
        try:
            _train_here(job, ray.train.report, lambda: ray.train.get_preemption_info() is not None)
        except StoppedError:
            # One worker alone that got SIGTERM: Ray Train starts all of them anew, from the checkpoint.
            if not stop_requested():
                raise


def node_is_to_go() -> bool:
    """Whether the cluster has been told that this node will be taken away."""
    return ray.get_runtime_context().get_node_id() in (ray._private.state.state.get_draining_nodes() or {})


def _train_here(
    job: dict[str, Any], report: Callable[[dict[str, Any]], object], will_be_taken_away: Callable[[], bool]
) -> None:
    """Train, and ``report`` how far it is. Where this node ``will_be_taken_away``, as spot instances are, one
    checkpoint is saved at once; then it goes on as ever until the node is gone."""
    check_claim = partial(check_held, Location.of(job["trial_dir"]), job["claim"])
    try:
        check_claim()
    except ClaimLostError:
        # Raised here, Ray Train would start the workers again, as after the loss itself; the trial sees it by itself.
        return
    config = TrialConfig.from_dict(job["trial"])
    device = pick_device(job["device"])
    limit_memory(device, job["memory"])
    # Ray sees to it only where nobody has set OMP_NUM_THREADS.
    torch.set_num_threads(job["threads"])
    # On a cluster, perhaps the first on its node to need them.
    data = ensure_local(job["data"], config.domains)
    try:
        with sigterm_received() as terminated, watchdog(60 * job["settings"].hang_minutes) as beat:
            sweep_stops, warned = stop_requested_now_and_then(), False

            def report_progress(progress: Progress) -> bool:
                nonlocal warned
                beat()
                report({"phase": "train", **progress._asdict()})
                before, warned = warned, warned or will_be_taken_away()
                return warned and not before

            train(
                config,
                data=data,
                trial_dir=job["trial_dir"],
                settings=job["settings"],
                device=device,
                report=report_progress,
                stop_requested=lambda: terminated() or sweep_stops(),
                before_writing=check_claim,
            )
    except NonFiniteLossError as error:
        log.error("%s", error)
        # training.json says it; raised here, Ray Train would train into the same wall again.
        return
