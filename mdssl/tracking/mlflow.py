"""A trial as a run in MLflow, with the tag ``trial_id``.

``MLFLOW_TRACKING_URI`` is the server or folder, ``MLFLOW_EXPERIMENT_NAME`` the experiment, by default ``mdssl``.
"""

from __future__ import annotations

import os
import re
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.storage.location import Location
from mdssl.tracking.trackers import tags_of


class MLflowRun:
    """See `mdssl.tracking.trackers.Tracker`."""

    def __init__(self, config: TrialConfig, trial_dir: Location, resumed_at: int | None):
        self.client = MlflowClient()
        experiment_id = _experiment_id(self.client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "mdssl"))
        found = self.client.search_runs([experiment_id], f"tags.trial_id = '{config.trial_id}'", max_results=1)
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            words, group = tags_of(trial_dir)
            tags = {"trial_id": config.trial_id, **dict.fromkeys(words, "true")} | ({"group": group} if group else {})
            self.run_id = self.client.create_run(experiment_id, tags=tags, run_name=config.trial_id).info.run_id
            settings = relevant_settings(config.to_dict())
            self.client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in settings.items()])
        self.only_scores = resumed_at is None
        self.last_step: dict[str, int] = {}

    def log(self, step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        # MLflow allows no brackets in names, and names of probes have them.
        named = {re.sub(r"[^\w\-./ ]+", "_", name).strip("_"): float(value) for name, value in values.items()}
        new = [Metric(name, value, now, step) for name, value in named.items() if self._is_new(name, step)]
        self.client.log_batch(self.run_id, metrics=new)

    def finish(self, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def _is_new(self, name: str, step: int) -> bool:
        """Whether a value was not logged before. A step that is trained again after a kill was."""
        if self.only_scores:
            return True
        if name not in self.last_step:
            history = self.client.get_metric_history(self.run_id, name)
            self.last_step[name] = max((metric.step for metric in history), default=-1)
        return step > self.last_step[name]


def _experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of the experiment, which is created if it does not exist; several trials may do so at once."""
    try:
        return client.create_experiment(name)
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id
