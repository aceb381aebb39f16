"""One trial: train or resume it. Its scores are made afterwards, by `mdssl.sweep.evaluations`.

Runs as a Tune function. How it trains is in `mdssl.sweep.training`.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray import tune

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig
from mdssl.data.remote import ensure_local
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.progress import NonFiniteLossError
from mdssl.pretrain.stopping import StoppedError, sigterm_received
from mdssl.pretrain.trial_files import now, read_training
from mdssl.storage.claim import Claim, ClaimLostError, Owner, holder_of
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import stop_request, trial_dir_in
from mdssl.storage.trial_log import kept_log
from mdssl.sweep.grid import WorkValues, still_missing, usable_rows
from mdssl.sweep.restarts import step_saved
from mdssl.sweep.stopping import passing_on, stop_requested
from mdssl.sweep.training import TrialRun, train_in_workers, train_inline
from mdssl.sweep.waiting import report_of
from mdssl.trials.describe import Report
from mdssl.trials.rows import failed_row, merged, stopped_rows

log = logging.getLogger(__name__)

_STOPPED_EARLY: Report = {"state": "stopped", "ended_early": True}
"""The last report of a trial that a scheduler ended. One that stopped because the sweep did has the state alone."""
_STOPPED_ON_REQUEST: Report = {**_STOPPED_EARLY, "on_request": True}


@retrying()
def run_trial(tune_config: dict[str, Any], run: TrialRun) -> None:
    """Train one trial, unless it is claimed elsewhere: see `mdssl.sweep.waiting`."""
    work: WorkValues = tune_config["work"]
    config = TrialConfig.from_dict(work["trial"])
    if stop_requested():
        tune.report({"state": "stopped"})
        return
    with (
        sigterm_received() as terminated,
        retrying(stop_requested=lambda: terminated() or stop_requested()),
        kept_log(trial_dir := trial_dir_in(run.storage, config.trial_id), "trial"),
        Claim(trial_dir, run.context["sweep"]) as claim,
    ):
        try:
            owner = claim.take(dead=Owner(**work["dead"]) if work["dead"] else None)
            if owner:
                report = report_of(trial_dir, owner)
            else:
                with passing_on(terminated, claim.token, lambda: claim.stop_asked):
                    report = _do(config, work, trial_dir, run, claim, lambda: terminated() or claim.stop_asked)
                _release_memory()
        except ClaimLostError:
            report = report_of(trial_dir, holder_of(trial_dir))
        except StoppedError:
            report = {"state": "stopped"}
            if claim.stop_asked:
                report = _stopped_on_request(config, work, trial_dir, run)
            elif not stop_requested():
                report = {"state": "queued", "step_saved": step_saved(trial_dir)}
        tune.report(dict(report))
    if "step_saved" in report:
        # This process alone got SIGTERM. Tune ends it and restarts the trial, which resumes from its checkpoint.
        raise StoppedError("its process got SIGTERM")


def _do(
    config: TrialConfig,
    work: WorkValues,
    trial_dir: Location,
    run: TrialRun,
    claim: Claim,
    terminated: Callable[[], bool] = lambda: False,
) -> Report:
    """Train; returns the last report, ``evaluating`` of a trained trial. An error becomes a row."""
    storage = Location.of(run.storage)
    started_at = now()
    try:
        if stop_request(trial_dir).exists():
            return _stopped_on_request(config, work, trial_dir, run)
        data = ensure_local(run.data, work["missing"])
        rows = usable_rows(read_rows(storage, config.trial_id), needs_validation=run.needs_validation)
        missing, error = still_missing(rows, work["tried"], work["missing"], data, run.probe)
        if not missing:
            return {"state": "failed", "error": error} if error else {"state": "finished"}
        if work["may_end_early"] and any(row["status"] == "stopped" for row in rows):
            return _STOPPED_EARLY
        training = _trained(
            config, trial_dir, run if work["may_end_early"] else replace(run, rungs=()), claim, terminated
        )
        if training["status"] == "stopped":
            stopped = stopped_rows(config, training, context=run.context)
            write_rows(storage, config.trial_id, merged(read_rows(storage, config.trial_id), stopped))
            return _STOPPED_EARLY
        if training["status"] != "finished":
            raise NonFiniteLossError(training["step"], training["error"])
        return {"state": "evaluating"}
    except (ClaimLostError, StoppedError):
        raise
    except Exception as error:
        # Any other error is the result of this trial.
        log.exception("trial %s failed", config.trial_id)
        claim.check()
        failure = failed_row(config, _cause(error), context=run.context, started_at=started_at)
        write_rows(storage, config.trial_id, merged(read_rows(storage, config.trial_id), [failure]))
        return {"state": "failed", "error": _cause(error)}


def _stopped_on_request(config: TrialConfig, work: WorkValues, trial_dir: Location, run: TrialRun) -> Report:
    """Write the rows of a trial that `mdssl stop` has stopped, if it has trained; returns the last report."""
    training = read_training(trial_dir)
    if training and training["status"] == "stopped":
        # Without a scheduler it may have no validation scores.
        training["val_linear_top1"] = dict.fromkeys(work["missing"]) | training["val_linear_top1"]
        stopped = stopped_rows(config, training, context=run.context)
        storage = Location.of(run.storage)
        write_rows(storage, config.trial_id, merged(read_rows(storage, config.trial_id), stopped))
    return _STOPPED_ON_REQUEST


def _trained(
    config: TrialConfig, trial_dir: Location, run: TrialRun, claim: Claim, terminated: Callable[[], bool]
) -> dict[str, Any]:
    """Train with the sweep's executor; returns the content of ``training.json``.

    Raises:
        ClaimLostError: another process has taken the trial over meanwhile.
        StoppedError: the sweep has been asked to stop, or this process.
    """
    ended = read_training(trial_dir)
    if ended and (ended["status"] == "finished" or (ended["status"] == "stopped" and run.rungs)):
        return ended
    if run.executor == "inline" or not METHODS[config.method].trains:
        train_inline(config, trial_dir, run, claim.token, terminated)
    else:
        train_in_workers(config, trial_dir, run, claim.token, terminated)
    claim.check()
    ended = read_training(trial_dir)
    assert ended is not None  # training without it has lost the claim
    return ended


def _release_memory() -> None:
    """Give freed memory back to the machine, where glibc would keep it.

    Tune runs trial after trial in one process, each in a new thread. Without this the process grows by some 10 MB a
    trial although nothing is held: it had 1.3 GB after 113 trials.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _cause(error: BaseException) -> str:
    """The innermost error, as the worker raised it, without Ray's tracebacks."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _cause(next(iter(failures.values())))
    if isinstance(error, ray.train.ControllerError):
        return _cause(error.controller_failure)
    if isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        return _cause(error.cause)
    return f"{type(error).__name__}: {error}"
