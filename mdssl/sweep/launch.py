"""Launch a sweep: plan it, run the remaining work through Ray Tune, print its results.

A sweep has no state but its leaderboard and its trials' folders. Each start makes a new Tuner over the work that is
left, so a sweep can get more values, lose its driver, or be started again when it is finished.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.compacted import renew
from mdssl.pretrain.stable import delete_shared
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.notes import tag_all
from mdssl.storage.retry import in_threads, retrying
from mdssl.storage.trial_dir import delete_trial, rows_file_in, trial_dir_in
from mdssl.sweep.grid import Work, labelled_domains, scores_of
from mdssl.sweep.resources import check_resources, described, share_of
from mdssl.sweep.restarts import TRIAL_RESTARTS, step_done, step_saved, to_run_again
from mdssl.sweep.search.search import Trials
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.summary import print_plan, print_results
from mdssl.sweep.waiting import ClaimedElsewhere
from mdssl.terminal import Terminal
from mdssl.trials.rows import git_commit
from mdssl.trials.train_records import clear_up

if TYPE_CHECKING:
    from ray.tune import Callback, ResultGrid

    from mdssl.sweep.search.queue import WorkQueue
    from mdssl.sweep.search.rules import EarlyStopping
    from mdssl.sweep.stopping import Stop
    from mdssl.sweep.temporary import TemporaryFolder
    from mdssl.sweep.trial import TrialRun


@retrying()
def run_sweep(
    name: str,
    settings: SweepSettings,
    methods: Sequence[str | Mapping[str, Any]],
    *,
    retry: str = "",
    afterwards: Callable[[pd.DataFrame, Console], None] | None = None,
) -> int:
    """Run the trials of ``methods`` (see `mdssl.sweep.search.search.Trials`) as the sweep ``name``.

    Args:
        retry: as for `mdssl.sweep.summary.print_results`.
        afterwards: prints more, from the leaderboard's rows of these trials.

    Returns:
        The exit code: 0 when every trial has all its scores (or with ``dry_run``), 1 when some failed.

    Raises:
        InputError: settings, data, storage or resources that cannot work; then nothing has been started.
    """
    console = Terminal(width=None if sys.stdout.isatty() else 160, highlight=False)
    storage = Location.of(settings.storage)
    ensure_local(settings.data, [*settings.domains, *settings.evaluate], progress=True)
    if settings.evaluates_domains:
        labelled, note = labelled_domains(settings.data, settings.domains)
        settings = replace(settings, evaluate=labelled)
        if note:
            console.print(note, soft_wrap=True)
    trials = Trials(storage, settings, methods)
    works = trials.works()
    left = [work for work in works if work.is_left]
    print_plan(console, name, settings, storage, works, to_choose=trials.to_choose, space=trials.space)
    has_work = bool(left) or trials.to_choose != 0
    if has_work and not settings.address:
        _check_this_machine(settings)
    if settings.dry_run:
        return 0
    if has_work:
        storage.check_writable()
        _run(name, settings, storage, trials, left, console)
    else:
        tag_all(storage, [config.trial_id for config in trials.configs], settings.tag)
    configs = trials.configs
    # Also of trials that another sweep had finished when it was killed.
    in_threads(lambda config: clear_up(storage, config), configs, 1 if storage.is_local else 16)
    renew(storage)
    code = print_results(console, name, settings, storage, configs, retry)
    if afterwards:
        afterwards(leaderboard.read(storage, trial_id=[config.trial_id for config in configs]), console)
    return code


def _check_this_machine(settings: SweepSettings) -> None:
    import torch
    from ray._private.utils import get_num_cpus

    nodes = [{"CPU": get_num_cpus(), "GPU": torch.cuda.device_count()}]
    check_resources(share_of(settings, nodes), nodes, where="this machine")


def _run(
    name: str, settings: SweepSettings, storage: Location, trials: Trials, left: list[Work], console: Console
) -> None:
    # Ray takes seconds to import; a sweep that is finished, or refused, should not wait for it.
    from mdssl.sweep.ray_session import ray_session
    from mdssl.sweep.stopping import Stop

    stop = Stop(console, settings.budget_seconds)
    console.print(f"joining Ray at {settings.address} …" if settings.address else "starting Ray on this machine …")
    try:
        # Once more after Ray has started: its C++ handler of SIGTERM aborts a process that has not ended 3 s later.
        with stop.on_signals(), ray_session(settings, console) as folder, stop.on_signals():
            _run_on_ray(name, settings, storage, trials, left, console, folder, stop)
    finally:
        # At once, because after SIGTERM there is little time, and a bucket takes some for each request.
        in_threads(lambda config: clear_up(storage, config), trials.started)


def _run_on_ray(
    name: str,
    settings: SweepSettings,
    storage: Location,
    trials: Trials,
    left: list[Work],
    console: Console,
    folder: TemporaryFolder,
    stop: Stop,
) -> None:
    import ray

    from mdssl.sweep.evaluations import Evaluations
    from mdssl.sweep.machines import Machines, node_resources
    from mdssl.sweep.progress import SweepProgress
    from mdssl.sweep.search.queue import WorkQueue
    from mdssl.sweep.search.rules import EarlyStopping
    from mdssl.sweep.trial import TrialRun
    from mdssl.trials.eta import Pace, evaluation_seconds

    nodes = node_resources()
    share = share_of(settings, nodes)
    growing_to = settings.max_concurrent if settings.address else None
    fitting = check_resources(share, nodes, growing_to=growing_to)
    most = math.inf if trials.to_choose is None else len(left) + trials.to_choose
    at_once = int(min(fitting, settings.max_concurrent or fitting, most))
    console.print(f"{at_once} trial(s) at a time, each {share}", soft_wrap=True)
    if growing_to:
        console.print(f"the cluster has {described(nodes)} now; trials that need more wait for nodes", soft_wrap=True)
    trials.record_extended()
    tag_all(storage, [config.trial_id for config in trials.configs], settings.tag)
    for work in left if settings.force else []:
        _forget(name, storage, work.config)
    run = TrialRun(
        storage=storage.uri,
        data=Location.of(settings.data).uri,
        probe=settings.probe_config,
        settings=settings.run_settings,
        executor=settings.executor,
        rungs=trials.rungs,
        needs_validation=settings.needs_validation,
        keep_checkpoints=settings.keep_checkpoints,
        workers=settings.workers,
        cpus_per_worker=share.cpus,
        gpus_per_worker=share.gpus,
        evaluate=settings.evaluate,
        context={
            "sweep": name,
            "preset": settings.preset,
            "git_commit": git_commit(),
            "ray_version": ray.__version__,
        },
    )
    # On GPUs, one trial more than train at once has its processes ready when another ends.
    spare = 1 if share.gpus and settings.executor != "inline" and not settings.max_concurrent else 0
    reached: dict[str, int] = {}

    def give(work: Work) -> None:
        reached[work.config.trial_id] = step_saved(trial_dir_in(storage, work.config.trial_id))
        trials.started.append(work.config)
        tag_all(storage, [work.config.trial_id] * bool(trials.space), settings.tag)
        progress.add(work.config, reached[work.config.trial_id])

    of_one = evaluation_seconds(leaderboard.read(storage), settings.evaluate, scores_of(settings.probe_config))
    data = ensure_local(settings.data, settings.evaluate)
    counts = [open_dataset(data, dataset).counts for dataset in settings.evaluate]
    images = sum(count["train"] + count["test"] for count in counts)
    pace = Pace(at_once, sum(bool(share.on(node)) for node in nodes) or 1, of_one, images)
    configs = {work.config.trial_id: work.config for work in left}
    steps = dict(zip(configs, in_threads(partial(step_done, storage), left), strict=True))
    shown = SweepProgress(configs, console, pace, steps=steps, to_come=lambda: trials.to_choose or 0)
    evaluations = Evaluations(run, share, at_once, shown, trials.ended, keeps_actors=not settings.address)

    def may_choose() -> bool:
        # Optuna's choice depends on the scores so far. With one trial at a time it has all of them, which makes a
        # search that was stopped choose the same trials again; with more, those of all but as many trials as train.
        evaluations.poll()
        return settings.search != "optuna" or evaluations.pending < at_once

    with shown as progress, evaluations:
        others = ClaimedElsewhere(storage, settings, progress.tell)
        todo = left or [work for work in [trials.choose()] if work]
        while todo and not stop.is_asked:
            trained = [work for work in todo if work.to_do == "evaluate"]
            for work in trained:
                give(work)
                pace.report(work.config.trial_id, {"state": "evaluating"}, 0.0)
                evaluations.add(work)
            again: list[Work] = []
            if len(trained) < len(todo):
                queue = WorkQueue(
                    [work for work in todo if work.to_do != "evaluate"],
                    choose=trials.choose,
                    given=give,
                    ended=trials.ended,
                    closed=lambda: stop.is_asked,
                    may_choose=may_choose,
                )
                evaluations.follow(queue, lambda: trials.to_choose != 0)
                scheduler = EarlyStopping(settings, trials.scores) if trials.rungs else None
                callbacks = [progress, evaluations, Machines(share, at_once, console), stop.callback]
                with stop.while_tune_runs():
                    results = _fit(name, run, queue, scheduler, at_once + spare, callbacks, folder.path)
                folder.keep |= bool(results.errors)
                if stop.signals:
                    # Trials that died of the same signal did not fail.
                    raise KeyboardInterrupt
                if stop.is_asked:
                    break
                again = to_run_again(storage, run.context, results, queue.works, reached)
            again += evaluations.wait(lambda: stop.is_asked, lambda: progress.on_step_begin(0, []))
            if stop.is_asked:
                break
            elsewhere = trials.begun_elsewhere()
            for work in elsewhere:
                give(work)
            todo = others.wait(again + elsewhere, lambda: stop.is_asked)
            for trial_id in progress.configs:
                trials.ended(trial_id)
            if not todo and not stop.is_asked and (chosen := trials.choose()):
                todo = [chosen]


def _forget(name: str, storage: Location, config: TrialConfig) -> None:
    """Delete a trial's files and rows, once nobody works on it."""
    with Claim(trial_dir_in(storage, config.trial_id), name) as claim:
        claim.wait_aloud()
        delete_trial(claim.trial_dir)
        delete_shared(claim.trial_dir, config)
        rows_file_in(storage, config.trial_id).delete()


def _fit(
    name: str,
    run: TrialRun,
    queue: WorkQueue,
    scheduler: EarlyStopping | None,
    at_once: int,
    callbacks: list[Callback],
    folder: Path,
) -> ResultGrid:
    from ray import tune

    from mdssl.sweep.trial import run_trial

    return tune.Tuner(
        tune.with_resources(partial(run_trial, run=run), trial_resources(run)),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder / "tune"),
            verbose=0,
            callbacks=callbacks,
            failure_config=tune.FailureConfig(max_failures=TRIAL_RESTARTS),
        ),
    ).fit()


def trial_resources(run: TrialRun) -> dict[str, float]:
    """The resources of one trial's Tune function; a nested trial's workers get theirs from Ray Train."""
    if run.executor == "inline":
        return {"CPU": run.cpus_per_worker, "GPU": run.gpus_per_worker}
    # Without its workers a nested trial needs next to nothing, but Tune refuses a request for no resource.
    return {"CPU": 0, "memory": 1 << 20}
