"""Give the trials of a sweep to Tune one by one: the planned ones, then those that a search chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from mdssl.sweep.grid import Work


class WorkQueue(Searcher):
    """Gives Tune a work whenever there is room for one.

    A list of all works in Tune's own grid search would be copied for each of them.

    Args:
        works: those that are planned.
        choose: one more work when these are given out, or None if there is none.
        given: called with each work that Tune gets.
        ended: called with the id of each trial that Tune has ended.
        closed: whether no more is given out.

    Attributes:
        works: those that Tune has got.
    """

    def __init__(
        self,
        works: Iterable[Work],
        *,
        choose: Callable[[], Work | None],
        given: Callable[[Work], None],
        ended: Callable[[str], None],
        closed: Callable[[], bool],
    ):
        super().__init__()
        self.works: list[Work] = []
        self._left, self._choose, self._given, self._ended = deque(works), choose, given, ended
        self._closed = closed
        self._trial_ids: dict[str, str] = {}

    def __getstate__(self) -> dict:
        # Tune pickles its searcher for a restore that this project does not use: the storage has all.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        work = None if self._closed() else self._left.popleft() if self._left else self._choose()
        if work is None:
            finished: Any = Searcher.FINISHED
            return finished
        self.works.append(work)
        self._trial_ids[trial_id] = work.config.trial_id
        self._given(work)
        return {"work": work.to_dict()}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._ended(self._trial_ids[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""
