"""A trial as a run in Weights & Biases, with the trial's id, in the project ``WANDB_PROJECT`` (default ``mdssl``).

wandb's own variables apply: ``WANDB_MODE=offline`` keeps runs in the trial's folder until `wandb sync`.
"""

from __future__ import annotations

import os

import wandb

from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.storage.location import Location
from mdssl.tracking.trackers import tags_of


class WeightsAndBiases:
    """See `mdssl.tracking.trackers.Tracker`."""

    def __init__(self, config: TrialConfig, trial_dir: Location, resumed_at: int | None):
        self.only_scores = resumed_at is None
        own_folder = trial_dir.is_local and "WANDB_DIR" not in os.environ
        tags, group = tags_of(trial_dir)
        self.run = wandb.init(
            tags=tags,
            group=group or None,
            project=os.environ.get("WANDB_PROJECT", "mdssl"),
            id=config.trial_id,
            name=config.trial_id,
            resume="allow",
            config=relevant_settings(config.to_dict()),
            dir=trial_dir.path if own_folder else None,
            # The trial's own log has what the process prints.
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        if self.only_scores:
            self.run.summary.update(values)
        else:
            # wandb ignores a step that was logged before a kill.
            self.run.log(values, step=step)

    def finish(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
