"""The training loop: from a `TrialConfig` to an encoder on disk, in a plain process, under torchrun or inside Ray.

`mdssl.pretrain.trial_files` lists the files that it writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mdssl.config.methods import METHODS
from mdssl.config.run import RunSettings, check_gradient_caching
from mdssl.config.trial import TrialConfig, check_precision
from mdssl.data.dataset import open_dataset
from mdssl.data.mixture import Mixture, image_size_of, with_fingerprint
from mdssl.device import pick_device, reset_peak_memory
from mdssl.pretrain import checkpoint, pseudo_domains, stable
from mdssl.pretrain.batch_norm import make_global
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer, learning_rate
from mdssl.pretrain.pretrained import complete, encoder_of
from mdssl.pretrain.progress import Answer, NonFiniteLossError, Progress, Validate, is_scored, validation_scores
from mdssl.pretrain.pseudo_domains import groups_of, objective_of
from mdssl.pretrain.reports import Reports, log_start, log_weights
from mdssl.pretrain.saver import Saver
from mdssl.pretrain.step import backward_at_once, backward_by_domain, two_views, with_precision
from mdssl.pretrain.stopping import Agreement, StoppedError, rank_and_workers
from mdssl.pretrain.trial_files import (
    now,
    read_training,
    write_config,
    write_failure,
    write_finished,
    write_metrics,
    write_run,
    write_training,
)
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import stop_request, stopped_early
from mdssl.tracking.trackers import Trackers, of_clustering

log = logging.getLogger(__name__)


def train(
    config: TrialConfig,
    *,
    data: str | Path,
    trial_dir: str | Path | Location,
    settings: RunSettings | None = None,
    device: str = "auto",
    report: Callable[[Progress], Answer] = lambda progress: None,
    stop_requested: Callable[[], bool] = lambda: False,
    before_writing: Callable[[], None] = lambda: None,
    validate: Validate | None = None,
    rungs: Collection[int] = (),
    gpus_per_worker: float = 1.0,
) -> dict[str, Any]:
    """Train one encoder, or resume an earlier run of the same trial. A finished trial is not trained again.

    With an initialized process group, every rank calls this with the same arguments; the loss is that of the global
    batch, and rank 0 writes.

    Args:
        config: the trial. Its ``data_fingerprint`` is empty or that of the data.
        data: folder of prepared datasets.
        trial_dir: folder of the trial's files, on any storage.
        device: cpu, cuda, cuda:1, or auto: the worker's GPU if there is one.
        report: called on every rank, every ``report_every`` steps, after each scored step and after the last one; on a
            GPU with a delay of some steps, so that training does not wait. If it returns ``"save"`` on rank 0, a
            checkpoint is saved at once, on a GPU with the next report. If it returns ``"end"`` after a scored step, a
            checkpoint is saved and training ends early, on all ranks; a later call resumes from it.
        stop_requested: called on every rank between steps. Soon after it returns true on one rank, a checkpoint is
            saved and training ends, on all ranks after the same step. If `mdssl stop` has asked for it, the trial is
            recorded as stopped.
        before_writing: called on rank 0 before it writes any of the trial's files; may raise.
        validate: scores the model after each scored step, on rank 0 alone; all ranks pass one or none does. The encoder
            is the same, bit for bit, with and without it.
        rungs: scored steps besides those of ``settings.score_every``. The last step is not scored here, because the
            finished encoder is.
        gpus_per_worker: on a GPU, for ``gpu_hours``; below 1 where trials share one.

    Returns:
        The content of ``training.json``: status (``finished`` or ``stopped``, after an early end), steps, cost and
        provenance of the training.

    Raises:
        ValueError: the data are missing, do not fit the config, or changed since the trial began; or ``trial_dir`` has
            another trial.
        NonFiniteLossError: the loss became NaN or infinite, which ``training.json`` records as well.
        StoppedError: ``stop_requested`` returned true.
    """
    settings, trial_dir = settings or RunSettings(), Location.of(trial_dir)
    check_gradient_caching(config, settings)
    config = complete(with_fingerprint(config, data), image_size_of(data, config.domains))
    ended = read_training(trial_dir, config)
    check_precision(config, (ended or {}).get("precision"))
    if ended and ended["status"] == "finished":
        return ended
    if ended and ended["status"] == "stopped":
        log.info("%s; training resumes from there", stopped_early(trial_dir.name, ended))
    is_first = rank_and_workers()[0] == 0
    saver = Saver(trial_dir, before_writing, in_background=settings.checkpoint_seconds > 0)
    with Trackers(settings.track if is_first else (), config, trial_dir) as trackers, saver:
        arguments = (config, data, trial_dir, settings, device, report, stop_requested, before_writing)
        return _train(*arguments, validate, rungs, gpus_per_worker, trackers, saver)


def _train(
    config: TrialConfig,
    data: str | Path,
    trial_dir: Location,
    settings: RunSettings,
    device: str,
    report: Callable[[Progress], Answer],
    stop_requested: Callable[[], bool],
    before_writing: Callable[[], None],
    validate: Validate | None,
    rungs: Collection[int],
    gpus_per_worker: float,
    trackers: Trackers,
    saver: Saver,
) -> dict[str, Any]:
    rank, workers = rank_and_workers()
    device = pick_device(device)
    # An inline sweep trains all its trials in one process.
    reset_peak_memory(device)
    mixture = Mixture.load(
        data, config.domains, batch_per_domain=config.batch_per_domain, device=device, images_on=settings.images_on
    )
    model = build_model(config).to(device)
    if config.encoder_lr_scale == 0:
        model.freeze_encoder()
    if workers > 1:
        make_global(model)
    optimizer = build_optimizer(config, model)
    state = checkpoint.load_latest(trial_dir / "checkpoints", model, optimizer)
    agreement = Agreement(stop_requested, device)
    shared = stable.shared_folder(trial_dir, config)
    if state is None and shared:
        state = stable.load_shared(shared, config, model, optimizer, agreement)
    if state is None and (METHODS[config.method].loads_weights or config.init != "random"):
        start = encoder_of(config)
        model.encoder.load_state_dict(start.encoder)
        if rank == 0:
            log_weights(start)
    state = state or LoopState()
    state.started_at = state.started_at or now()
    # ``config`` keeps the precision that was requested, which is part of the trial id.
    own = with_precision(config, state, device, agreement)
    state.precision = own.precision if METHODS[config.method].trains else ""
    if rank == 0:
        before_writing()
        write_config(trial_dir, config)
        write_run(trial_dir, device=device, workers=workers, step=state.step)
    trackers.start(resumed_at=state.step)
    iterations = config.iterations if METHODS[config.method].trains else 0
    datasets = [open_dataset(data, name) for name in config.domains]
    of_run: dict[str, Any] = {"device": device, "workers": workers, "datasets": datasets}
    groups, objective = groups_of(own, mixture, state.clusters), objective_of(own, state.clusters)
    backward = backward_by_domain if settings.gradient_caching else backward_at_once
    on_gpu = device.startswith("cuda")
    compiles = settings.compile or (on_gpu and 0 < settings.compile_from <= iterations)
    if compiles:
        # Otherwise models of earlier trials count towards the limit of compilations in one process.
        torch.compiler.reset()
        model.compile()
    step_model: nn.Module = model
    if workers > 1:
        step_model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        # The statistics of batch-norm are equal on all workers without a broadcast. Set as an attribute, because the
        # argument has another name in PyTorch 2.14.
        step_model.broadcast_buffers = False
    step_model.train()
    if rank == 0:
        log_start(config, mixture, device, workers, state)

    torch.backends.cudnn.benchmark |= on_gpu
    reports = Reports(
        state, config.iterations, device, workers * gpus_per_worker * on_gpu, trackers, report, lag=int(on_gpu),
        score=lambda step: validation_scores(validate, model, step) if validate and rank == 0 else {},
    )  # fmt: skip
    saved_at = time.perf_counter()
    if state.step < iterations and agreement.stop_after(state.step):
        raise StoppedError(f"stopped at step {state.step} of {iterations}")

    def make_reports(*, up_to_now: bool) -> set[Answer]:
        try:
            return reports.make(up_to_now=up_to_now)
        except NonFiniteLossError as error:
            if rank == 0:
                before_writing()
                write_metrics(trial_dir, state)
                write_failure(trial_dir, error.step, str(error))
            if workers > 1:
                # All ranks have the same loss and raise. None may end before rank 0 has written.
                dist.barrier()
            raise

    def record_stop(**more: Any) -> dict[str, Any]:
        more |= {"val_linear_top1": reports.scores, "val_fingerprints": getattr(validate, "fingerprints", {})}
        ended = write_training(trial_dir, "stopped", model, state, iterations=iterations, **of_run, **more)
        log.info(stopped_early(trial_dir.name, ended))
        return ended

    def save_and_stop() -> NoReturn:
        make_reports(up_to_now=True)
        try:
            if rank == 0:
                saver.save(model, optimizer, state, must=True)
                if stop_request(trial_dir).exists():
                    record_stop()
        finally:
            if workers > 1:
                dist.barrier()  # no rank ends while rank 0 writes
        raise StoppedError(f"stopped at step {state.step} of {iterations}")

    ends_early = save_is_asked = False
    while state.step < iterations and not ends_early:
        # Every `recluster_every` steps of a clustered method. No checkpoint is saved between a clustering and its step.
        number = pseudo_domains.round_due(config, state.step)
        if number is not None:
            due: dict[str, Any] = {"number": number, "step": state.step, "stop_requested": stop_requested}
            try:
                state.clusters, record = pseudo_domains.find(own, model, mixture, state.clusters, **due)
            except StoppedError:
                save_and_stop()
            state.rounds.append(record)
            trackers.log(state.step, of_clustering(record))
            groups, objective = groups_of(own, mixture, state.clusters), objective_of(own, state.clusters)

        # Every step: two views of the batch of each domain, one loss over the global batch.
        rate = learning_rate(config, state.step)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("lr_scale", 1.0)
        shares = [[group.share(each, workers) for group in groups] for each in range(workers)]
        counts = [[share.stop - share.start for share in of_rank] for of_rank in shares]
        views = two_views(config, mixture, groups, state.step, shares[rank], compiled=compiles)
        optimizer.zero_grad()
        loss = backward(objective, step_model, views, counts)
        optimizer.step()
        reports.add(torch.stack(loss).detach())
        state.step += 1
        state.views += sum(2 * group.batch for group in groups)

        # Every `report_every` steps, after scored ones, at the end, and on a request to stop: the host waits for the
        # GPU only here. All workers make the same decision, because a report of Ray Train is a barrier.
        is_last = state.step == iterations
        scored = validate is not None and not is_last and is_scored(state.step, settings.score_every, rungs)
        wants_to_save = save_is_asked or time.perf_counter() - saved_at >= settings.checkpoint_seconds
        stops = not is_last and agreement.stop_after(state.step, wants_to_save=rank == 0 and wants_to_save)
        is_report = is_last or scored or reports.steps >= settings.report_every
        is_shared = shared is not None and state.step == config.stable_steps
        if not (is_report or stops or is_shared):
            continue
        saver.check()
        saves = agreement.saves or settings.checkpoint_seconds == 0
        if is_report:
            is_due = agreement.second_passed() or is_last or scored or stops or saves
            reports.close(rate, is_scored=scored, is_due=is_due)
        answers = make_reports(up_to_now=is_last or scored or stops or is_shared or saves)
        ends_early = scored and agreement.any_worker("end" in answers and rank == 0)
        save_is_asked |= "save" in answers
        must_save = is_last or ends_early or save_is_asked

        if is_shared and shared and rank == 0:
            before_writing()
            stable.save_shared(shared, config, model, optimizer, state)
        if stops and not ends_early:
            save_and_stop()
        # Every `checkpoint_seconds` and on request, after the losses were found to be finite.
        if saves or is_last or ends_early or (save_is_asked and not reports.lag):
            if rank == 0:
                saver.save(model, optimizer, state, must=must_save)
            saved_at = time.perf_counter()
            agreement.saves = save_is_asked = False

    if rank == 0:
        before_writing()
        compiled = compiles and not model.eager_passes
        if compiles and not compiled:
            log.warning("PyTorch ran the model %d times without compiled code", model.eager_passes)
        if ends_early:
            ended = record_stop(compiled=compiled)
        else:
            ended = write_finished(trial_dir, config, model, state, **of_run, compiled=compiled)
        if spent := state.score_seconds:
            log.info("validation scores took %.0f s, %.1f %% of training", spent, 100 * spent / state.seconds)
    if workers > 1:
        dist.barrier()  # no rank ends the process group while rank 0 writes
    return ended if rank == 0 else cast("dict[str, Any]", read_training(trial_dir))
