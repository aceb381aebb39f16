"""The probe actor: scores trained encoders, one after another, while other trials train.

A sweep has one named actor. The driver creates it outside of the trials' placement groups, so it outlives all trials.
It requests no CPU, so the next trial starts to train meanwhile. It has no state: after a crash Ray restarts it and
repeats the call.
"""

from __future__ import annotations

import logging

import ray
import torch

from mdssl.config.run import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local
from mdssl.device import limit_memory, pick_device
from mdssl.evaluate.artifacts import TrialArtifacts
from mdssl.evaluate.evaluate import encode_dataset, score_dataset
from mdssl.leaderboard.columns import Row
from mdssl.pretrain.model import Model
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_log import kept_log
from mdssl.sweep.grid import evaluation_fingerprint
from mdssl.sweep.rows import images_of

log = logging.getLogger(__name__)

NAME = "probe"


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)
class Evaluator:
    """Scores encoders on evaluation datasets."""

    def __init__(self, data: str, probe: ProbeConfig, device: str, memory: float = 1.0):
        """``memory``: the share of its GPU's memory that it may use, if trials share that GPU."""
        torch.set_num_threads(1)
        self.data, self.probe, self.device = data, probe, pick_device(device)
        limit_memory(self.device, memory)

    def score(self, trial_dir: str, datasets: tuple[str, ...]) -> dict[str, list[Row] | str]:
        """Score one trial's encoder; returns for each dataset a list of entries, or the error."""
        with retrying(), kept_log(Location.of(trial_dir), "probe"):
            return self._score(trial_dir, datasets)

    def _score(self, trial_dir: str, datasets: tuple[str, ...]) -> dict[str, list[Row] | str]:
        config, model = load_model(Location.of(trial_dir), self.device)
        artifacts = TrialArtifacts(Location.of(trial_dir), config, model, data=self.data, device=self.device)
        artifacts.clear_up()
        scores: dict[str, list[Row] | str] = {}
        for name in datasets:
            try:
                scores[name] = self._score_on(name, config, model, artifacts)
            except (ValueError, RuntimeError, OSError) as error:
                # The scores on the other datasets count.
                log.exception("%s could not be scored", name)
                scores[name] = f"{type(error).__name__}: {error}"
        artifacts.draw()
        return scores

    def _score_on(self, name: str, config: TrialConfig, model: Model, artifacts: TrialArtifacts) -> list[Row]:
        # On a cluster, this may be the first process of its node that needs it.
        data = ensure_local(self.data, [name])
        dataset = open_dataset(data, name)
        encoded = encode_dataset(
            model, dataset, layers=self.probe.features, device=self.device, input_size=config.input_size
        )
        found = score_dataset(encoded, dataset, probe=self.probe, seed=config.seed)
        artifacts.add(dataset, encoded)
        own = {
            "eval_dataset": name,
            "data_fingerprint": evaluation_fingerprint(data, name),
            "images": images_of(dataset),
        }
        return [entry | own for entry in found]
