"""The training of one trial by either executor: in this process, or in Ray Train's workers.

Both call `mdssl.pretrain.loop.train` with a report callback. Its checkpoints are in the trial's folder, so a trial
resumes from them after the death of a worker, of its own process, of the sweep or of the machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import ray
import ray.train
import ray.train.torch
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.remote import ensure_local
from mdssl.device import limit_memory, pick_device
from mdssl.evaluate.validation import Validation
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import Answer, NonFiniteLossError, Progress
from mdssl.pretrain.stopping import StoppedError, sigterm_received
from mdssl.pretrain.watchdog import watchdog
from mdssl.storage.claim import ClaimLostError, check_held
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_log import kept_log
from mdssl.sweep.resources import Share
from mdssl.sweep.restarts import WORKER_RESTARTS, got_on, step_saved
from mdssl.sweep.stopping import decision, stop_requested, stop_requested_now_and_then
from mdssl.trials.rows import Context
from mdssl.trials.train_records import train_records

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """The settings that all trials of a sweep share, as values that can be sent to any node.

    Attributes:
        device: of each worker, cpu or auto (its GPU).
        evaluate: datasets of the validation scores while a trial trains.
        rungs: steps with a validation score besides those of ``settings.score_every``, at which a trial may end early.
        needs_validation: whether a finished score without a validation score is made again.
        keep_checkpoints: whether a finished trial keeps its checkpoints.
    """

    storage: str
    data: str
    probe: ProbeConfig
    settings: RunSettings
    executor: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    context: Context
    evaluate: tuple[str, ...]
    rungs: tuple[int, ...]
    needs_validation: bool
    keep_checkpoints: bool

    @property
    def device(self) -> str:
        return "auto" if self.gpus_per_worker > 0 else "cpu"


class Job(TypedDict):
    """The arguments of a worker, without a `TrialRun`.

    Ray Train's controller unpickles them too; with the class it would import this module, and with that torch.
    """

    trial: dict[str, Any]
    data: str
    trial_dir: str
    settings: RunSettings
    device: str
    threads: int
    gpus: float
    memory: float
    claim: str
    evaluate: tuple[str, ...]
    rungs: tuple[int, ...]


def train_inline(
    config: TrialConfig,
    trial_dir: Location,
    run: TrialRun,
    token: str,
    terminated: Callable[[], bool] = lambda: False,
) -> None:
    """Train in this process, which is the Tune trial's own. The result is in ``training.json``."""
    _train_here(_job(config, trial_dir, run, token), tune.report, node_is_to_go, terminated)


def train_in_workers(
    config: TrialConfig,
    trial_dir: Location,
    run: TrialRun,
    token: str,
    terminated: Callable[[], bool] = lambda: False,
) -> None:
    """Train in Ray Train's workers, while the claim with ``token`` is held.

    Args:
        terminated: whether this process, which is not one of the workers, has got SIGTERM.

    Raises:
        StoppedError: the sweep has been asked to stop, or this process.
        ray.train.TrainingFailedError: a worker failed, or died too often: see `mdssl.sweep.restarts`.
    """
    folder = train_records(Location.of(run.storage), config)
    reached, in_vain = step_saved(trial_dir), 0
    while True:
        try:
            _trainer(_job(config, trial_dir, run, token), run, folder).fit()
            _raise_if_stopped(terminated)
        except (ray.train.TrainingFailedError, ray.exceptions.ActorDiedError) as error:
            _raise_if_stopped(terminated)
            before, reached = reached, step_saved(trial_dir)
            in_vain = 0 if got_on(before, reached) else in_vain + 1
            # Ray Train has restarted the workers already. Its controller, which dies with its node or where it starts
            # during an outage of the storage, is restarted here.
            if in_vain > (0 if isinstance(error, ray.train.WorkerGroupError) else WORKER_RESTARTS):
                raise
        else:
            return
        finally:
            folder.delete()


def _raise_if_stopped(terminated: Callable[[], bool]) -> None:
    if terminated() or stop_requested():
        raise StoppedError("asked to stop")


def _trainer(job: Job, run: TrialRun, records: Location) -> ray.train.torch.TorchTrainer:
    return ray.train.torch.TorchTrainer(
        _worker,  # type: ignore[arg-type]  # a TypedDict is a dict
        train_loop_config=dict(job),
        torch_config=_no_process_group() if run.workers == 1 else None,
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers,
            use_gpu=run.gpus_per_worker > 0,
            resources_per_worker={"CPU": run.cpus_per_worker}
            | ({"GPU": run.gpus_per_worker} if run.gpus_per_worker > 0 else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=records.name,
            storage_path=records.parent.path,
            storage_filesystem=records.filesystem,
            # Ray's stubs have the classes of its Train V1 here.
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            failure_config=ray.train.FailureConfig(max_failures=WORKER_RESTARTS),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _job(config: TrialConfig, trial_dir: Location, run: TrialRun, token: str) -> Job:
    return {
        "trial": config.to_dict(),
        "data": run.data,
        "trial_dir": trial_dir.uri,
        "settings": run.settings,
        "device": run.device,
        "threads": run.cpus_per_worker,
        "gpus": run.gpus_per_worker,
        "memory": Share(workers=run.workers, cpus=run.cpus_per_worker, gpus=run.gpus_per_worker).memory,
        "claim": token,
        "evaluate": run.evaluate,
        "rungs": run.rungs,
    }


def _no_process_group() -> Any:
    """A backend for a single worker, in place of Ray's ``TorchConfig``, for which the controller would import torch.

    With what `_job` does, that saves a fourth of a trial's start time, and 0.35 GB.
    """
    config: Any = ray.train.BackendConfig()
    config.backend = "none"  # TorchTrainer reads the name alone
    return config


@retrying()
def _worker(job: Job) -> None:
    is_first = ray.train.get_context().get_world_rank() == 0
    with kept_log(Location.of(job["trial_dir"]), "train", errors_only=not is_first):
        try:
            with (
                sigterm_received() as terminated,
                retrying(stop_requested=lambda: terminated() or stop_requested(job["claim"])),
            ):
                _train_here(job, ray.train.report, lambda: ray.train.get_preemption_info() is not None, terminated)
        except StoppedError:
            # This worker alone got SIGTERM: Ray Train restarts all of them, from the checkpoint.
            if not stop_requested(job["claim"]):
                raise


def node_is_to_go() -> bool:
    """Whether Ray drains this node."""
    return ray.get_runtime_context().get_node_id() in (ray._private.state.state.get_draining_nodes() or {})


def _train_here(
    job: Job,
    report: Callable[[dict[str, Any]], object],
    will_be_taken_away: Callable[[], bool],
    terminated: Callable[[], bool] = lambda: False,
) -> None:
    """Train, and ``report`` how far it is, until this process is ``terminated`` or the trial is asked to stop.

    Where this node ``will_be_taken_away``, as spot instances are, one checkpoint is saved at once; then training goes
    on until the node is gone.
    """
    check_claim = partial(check_held, Location.of(job["trial_dir"]), job["claim"])
    try:
        check_claim()
    except ClaimLostError:
        # Raised here, it would have Ray Train restart the workers. The trial's own process checks the claim too.
        return
    config = TrialConfig.from_dict(job["trial"])
    device = pick_device(job["device"])
    limit_memory(device, job["memory"])
    # Ray sets it only where OMP_NUM_THREADS is not set.
    torch.set_num_threads(job["threads"])
    # On a cluster, this may be the first process of its node that needs them.
    is_scored = job["evaluate"] and (job["settings"].score_every or job["rungs"])
    evaluate = job["evaluate"] if is_scored else ()
    data = ensure_local(job["data"], list(dict.fromkeys([*config.domains, *evaluate])))
    try:
        with watchdog(60 * job["settings"].hang_minutes) as beat:
            asked_to_stop, warned = stop_requested_now_and_then(job["claim"]), False
            node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""

            def report_progress(progress: Progress) -> Answer:
                nonlocal warned
                beat()
                if not progress.is_due:
                    # Ray takes four reports a second from a worker, which waits meanwhile.
                    return None
                report({"state": "training", "node": node, **progress._asdict()})
                # Before the decision, which the first worker alone waits for: Ray Train answers all workers together.
                before, warned = warned, warned or will_be_taken_away()
                is_rung = progress.val_linear_top1 is not None and progress.step in job["rungs"]
                if is_rung and decision(config.trial_id, progress.step):
                    return "end"
                return "save" if warned and not before else None

            train(
                config,
                data=data,
                trial_dir=job["trial_dir"],
                settings=job["settings"],
                device=device,
                report=report_progress,
                stop_requested=lambda: terminated() or asked_to_stop(),
                before_writing=check_claim,
                validate=Validation(data, evaluate, device=device) if evaluate else None,
                rungs=job["rungs"],
                gpus_per_worker=job["gpus"],
            )
    except NonFiniteLossError as error:
        log.error("%s", error)
        # training.json has the error. Raised here, it would have Ray Train repeat the same steps.
        return
