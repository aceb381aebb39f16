"""Trials that another sweep has: put off, looked at again, done where the other left something or died.

A trial whose claim another process holds ends at once in this sweep's Tune run, with the phase ``waits``: a trial that
waited inside of Tune would hold a slot, and with the executor inline a CPU or GPU, that this sweep's next trial could
have. Trials that were put off are the driver's, which needs no slot to wait, once Tune has done all others; those that
are then nobody's go into another Tune run. The price is at the end alone: a trial whose owner dies while this sweep
trains its own last one begins after that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mdssl.data.remote import ensure_local
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain import checkpoint
from mdssl.storage.claim import POLL_SECONDS, Owner, Watch, holder_of
from mdssl.storage.location import Location
from mdssl.sweep.grid import Work, still_missing
from mdssl.sweep.settings import SweepSettings


def report_of(trial_dir: Location, owner: Owner | None) -> dict[str, Any]:
    """What progress says of a trial that another has."""
    reached = checkpoint.latest_step(trial_dir / "checkpoints")
    return {"phase": "waits", "owner": str(owner or "another process"), "reached": reached}


class ClaimedElsewhere:
    """The trials of a sweep that others have."""

    def __init__(self, storage: Location, settings: SweepSettings, tell: Callable[[str, dict[str, Any]], None]):
        """``tell`` gets the id of a trial and what is new of it, in the form of a trial's own reports."""
        self.storage, self.settings, self.tell = storage, settings, tell
        self.watches: dict[str, Watch] = defaultdict(Watch)

    def wait(self, works: list[Work]) -> list[Work]:
        """Wait until one or more of ``works`` can be done here; empty where others have done all that was left."""
        waiting = list(works)
        while waiting:
            ready = []
            for work in list(waiting):
                trial_id = work.config.trial_id
                trial_dir = self.storage / "trials" / trial_id
                asked, owner = time.monotonic(), holder_of(trial_dir)
                if owner and not self.watches[trial_id].look(owner, asked):
                    self.tell(trial_id, report_of(trial_dir, owner))
                    continue
                waiting.remove(work)
                again = self._left_of(work, owner)
                if again.is_left:
                    ready.append(again)
                else:
                    self.tell(trial_id, {"phase": again.state, "error": again.error})
            if ready:
                return ready + waiting
            if waiting:
                time.sleep(POLL_SECONDS)
        return []

    def _left_of(self, work: Work, dead: Owner | None) -> Work:
        """What the other has left to do, and no more: what has failed for it, since the plan, would fail here."""
        storage, config = self.storage, work.config
        data = ensure_local(self.settings.data, work.missing)
        rows = read_rows(storage, config.trial_id)
        missing, error = still_missing(rows, work.tried, work.missing, data, self.settings.probe_config)
        if not missing:
            return replace(work, state="failed" if error else "finished", missing=(), error=error)
        return replace(work, missing=missing, dead=dead)
