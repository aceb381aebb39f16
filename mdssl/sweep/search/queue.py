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
        may_choose: whether ``choose`` may be called now, or Tune has to ask again.

    Attributes:
        works: those that Tune has got.
        running: how many of them it has not ended.
    """

    def __init__(
        self,
        works: Iterable[Work],
        *,
        choose: Callable[[], Work | None],
        given: Callable[[Work], None],
        ended: Callable[[str], None],
        closed: Callable[[], bool],
        may_choose: Callable[[], bool],
    ):
        super().__init__()
        self.works: list[Work] = []
        self._left, self._choose, self._given, self._ended = deque(works), choose, given, ended
        self._closed, self._may_choose = closed, may_choose
        self._of: dict[str, Work] = {}
        self.running = 0

    def __getstate__(self) -> dict:
        # Tune pickles its searcher for a restore that this project does not use: the storage has all.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if not self._left and not self._closed() and not self._may_choose():
            return None
        work = None if self._closed() else self._left.popleft() if self._left else self._choose()
        if work is None:
            finished: Any = Searcher.FINISHED
            return finished
        self.works.append(work)
        self._of[trial_id] = work
        self.running += 1
        self._given(work)
        return {"work": work.to_dict()}

    def work_of(self, trial_id: str) -> Work:
        """The work that Tune's trial of this id has got."""
        return self._of[trial_id]

    @property
    def has_planned(self) -> bool:
        """Whether Tune has not got all planned works yet."""
        return bool(self._left)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.running -= 1
        self._ended(self._of[trial_id].config.trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""
