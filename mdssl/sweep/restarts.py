"""The restarts after a process died, and the limit after which a trial has failed.

Five layers, from the inside out. Each resumes from the newest checkpoint, so at most `checkpoint_seconds` of work is
lost. Deaths count against a trial only where it saved no new checkpoint between them: over days, machines die often.

1. Ray Train restarts a trial's workers, `WORKER_RESTARTS` times: a worker was killed, by the OOM killer, by the
   watchdog (`mdssl.pretrain.watchdog`) or with its node.
2. The trial's own process restarts Ray Train (`mdssl.sweep.training.train_in_workers`): the workers died more often
   than that, but the trial made progress; or Ray Train's controller died, which nothing else restarts.
3. Ray Tune restarts the trial's own process, `TRIAL_RESTARTS` times. The claim of the dead process is taken over.
4. The sweep's driver starts another run of Tune for trials that Tune has given up, if they made progress
   (`to_run_again`). Otherwise it writes a row with the error.
5. The user, a batch system or another sweep starts the same command: it plans from the storage alone, and takes over
   the claims of processes that died (`mdssl.storage.claim`). A failed trial is tried again with ``--retry-failed``.

A probe actor is restarted by Ray, and its call is repeated (`mdssl.sweep.evaluator`); if it dies again and again, the
driver starts another (`mdssl.sweep.evaluations`), `TRIAL_RESTARTS` times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain import checkpoint
from mdssl.pretrain.trial_files import now
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.grid import Work
from mdssl.trials.describe import Report
from mdssl.trials.rows import Context, failed_row, merged

if TYPE_CHECKING:
    from ray.tune import ResultGrid

WORKER_RESTARTS = 3
"""How often Ray Train restarts a trial's workers after one of them died."""
TRIAL_RESTARTS = 2
"""How often Tune restarts a trial's own process after it died, and a sweep its evaluation."""


def step_saved(trial_dir: Location) -> int:
    """The step of the trial's newest checkpoint; 0 where it has none."""
    return checkpoint.latest_step(trial_dir / "checkpoints")


def step_done(storage: Location, work: Work) -> int:
    """The planned first step of a trial's training."""
    if work.to_do == "train":
        return 0
    if work.to_do == "evaluate":
        return work.config.iterations
    return step_saved(trial_dir_in(storage, work.config.trial_id))


def got_on(before: int, after: int) -> bool:
    """Whether a trial made progress between two deaths, by the steps that were saved (`step_saved`) at each."""
    return after > before


def to_run_again(
    storage: Location, context: Context, results: ResultGrid, works: list[Work], reached: dict[str, int]
) -> list[Work]:
    """Select the ``works`` that are not done after a run of Tune: claimed elsewhere, or died after progress.

    A trial that died without progress gets a row with the error.

    Args:
        reached: `step_saved` by trial id, when Tune began.

    Raises:
        KeyboardInterrupt: trials are left, as after a signal: Tune then returns as if nothing had happened.
    """
    ended, again = 0, set()
    for result in results:  # type: ignore[attr-defined]  # iterable by its __getitem__
        config = TrialConfig.from_dict(result.config["work"]["trial"])
        last = result.metrics or {}
        state = last.get("state")
        if result.error is None:
            ended += state in ("finished", "failed", "queued", "evaluating") or last.get("ended_early", False)
            again |= {config.trial_id} if state == "queued" else set()
            continue
        ended += 1
        if got_on(reached[config.trial_id], step_saved(trial_dir_in(storage, config.trial_id))):
            again.add(config.trial_id)
        else:
            with Claim(trial_dir_in(storage, config.trial_id), context["sweep"]) as claim:
                claim.wait()
                record_death(storage, config, str(result.error), context)
    if ended < len(works):
        raise KeyboardInterrupt
    return [work for work in works if work.config.trial_id in again]


def record_death(storage: Location, config: TrialConfig, error: str, context: Context) -> Report:
    """Write a row for a claimed trial whose process died too often to write one; returns its report."""
    last_line = error.strip().rsplit("\n", 1)[-1]
    failure = failed_row(config, f"the trial's process died: {last_line}", context=context, started_at=now())
    write_rows(storage, config.trial_id, merged(read_rows(storage, config.trial_id), [failure]))
    return {"state": "failed", "error": failure["error"]}
