"""Trials claimed elsewhere: the sweep's driver waits for them when Tune has done all others.

A trial ends at once in this sweep's Tune run, with the state ``queued``, if another process holds its claim. A trial
that waited inside Tune would hold a slot, and with the executor inline a CPU or GPU, that the next trial could use.
Trials that are not done, and that no process holds any more, go into another Tune run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from mdssl.data.remote import ensure_local
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.trial_files import read_training
from mdssl.storage.claim import POLL_SECONDS, Owner, Watch, holder_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.grid import Work, still_missing, usable_rows
from mdssl.sweep.restarts import step_saved
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.describe import Report, State


def report_of(trial_dir: Location, owner: Owner | None) -> Report:
    """Return the report of a trial that is claimed elsewhere."""
    return {"state": "queued", "owner": str(owner or "another process"), "reached": step_saved(trial_dir)}


class ClaimedElsewhere:
    """The trials of a sweep that are claimed elsewhere. ``tell`` gets trial ids and reports, as trials make them."""

    def __init__(self, storage: Location, settings: SweepSettings, tell: Callable[[str, Report], None]):
        self.storage, self.settings, self.tell = storage, settings, tell
        self.watches: dict[str, Watch] = defaultdict(Watch)

    def wait(self, works: list[Work], stopped: Callable[[], bool]) -> list[Work]:
        """Wait until one of ``works`` can be done here; returns those that are left, none if others have done all or
        once the sweep is ``stopped``."""
        waiting = list(works)
        while waiting and not stopped():
            ready = []
            for work in list(waiting):
                trial_id = work.config.trial_id
                trial_dir = trial_dir_in(self.storage, trial_id)
                asked, owner = time.monotonic(), holder_of(trial_dir)
                if owner and not self.watches[trial_id].look(owner, asked):
                    self.tell(trial_id, report_of(trial_dir, owner))
                    continue
                waiting.remove(work)
                again = self._left_of(work, owner)
                if again.is_left:
                    ready.append(again)
                else:
                    self.tell(trial_id, {"state": again.state, "error": again.error})
            if ready:
                return ready + waiting
            if waiting:
                time.sleep(POLL_SECONDS)
        return []

    def _left_of(self, work: Work, dead: Owner | None) -> Work:
        """The remaining work after the other process. A score that failed there since the plan would fail here too."""
        storage, config = self.storage, work.config
        data = ensure_local(self.settings.data, work.missing)
        rows = usable_rows(read_rows(storage, config.trial_id), needs_validation=self.settings.needs_validation)
        if work.may_end_early and any(row["status"] == "stopped" for row in rows):
            return replace(work, state="stopped", to_do=None, dead=dead)
        missing, error = still_missing(rows, work.tried, work.missing, data, self.settings.probe_config)
        if not missing:
            state: State = "failed" if error else "finished"
            return replace(work, state=state, to_do=None, missing=(), error=error)
        training = read_training(trial_dir_in(storage, config.trial_id))
        is_trained = training is not None and training["status"] == "finished"
        return replace(work, missing=missing, dead=dead, to_do="evaluate" if is_trained else "resume")
