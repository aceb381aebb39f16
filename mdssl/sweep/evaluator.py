"""The probe actor: scores trained encoders and writes their rows, one after another, while other trials train.

`mdssl.sweep.evaluations` starts as many as there is room for, outside of the trials' placement groups. An actor has no
state: after a crash Ray restarts it and repeats the call.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import ray
import torch

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local
from mdssl.device import limit_memory, pick_device
from mdssl.errors import StoppedError
from mdssl.evaluate.artifacts import TrialArtifacts
from mdssl.evaluate.evaluate import encode_dataset, score_dataset
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.leaderboard.columns import Row
from mdssl.pretrain.model import Model
from mdssl.pretrain.trial_files import load_model, now, read_training
from mdssl.storage.claim import ClaimLostError, check_held
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import delete_checkpoints, trial_dir_in
from mdssl.storage.trial_log import kept_log
from mdssl.sweep.grid import WorkValues, evaluation_fingerprint, still_missing, usable_rows
from mdssl.sweep.stopping import stop_requested
from mdssl.sweep.training import TrialRun
from mdssl.sweep.waiting import report_of
from mdssl.tracking.trackers import log_scores
from mdssl.trials.describe import Report
from mdssl.trials.rows import failed_row, finished_row, images_of, merged

log = logging.getLogger(__name__)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)
class Evaluator:
    """Scores encoders on evaluation datasets."""

    def __init__(self, data: str, probe: ProbeConfig, device: str, memory: float = 1.0, number: int = 0):
        """``memory``: the share of its GPU's memory that it may use, if trials share that GPU. ``number``: of the GPU
        on its node, if it is to choose one."""
        torch.set_num_threads(1)
        os.environ["LOCAL_RANK"] = str(number)
        self.data, self.probe, self.device = data, probe, pick_device(device)
        limit_memory(self.device, memory)

    def score_trial(self, work: WorkValues, run: TrialRun, token: str) -> Report:
        """Make the missing scores of a trained trial and write its rows, under the claim with ``token``; returns the
        last report. An error becomes a row.

        Raises:
            ClaimLostError: another process has taken the trial over.
            StoppedError: the storage is unavailable, and the sweep has been asked to stop.
        """
        trial_dir = trial_dir_in(run.storage, TrialConfig.from_dict(work["trial"]).trial_id)
        with retrying(stop_requested=stop_requested), kept_log(trial_dir, "probe"):
            return self._score_trial(work, run, trial_dir, token)

    def _score_trial(self, work: WorkValues, run: TrialRun, trial_dir: Location, token: str) -> Report:
        config, started_at = TrialConfig.from_dict(work["trial"]), now()
        storage, trial_id = Location.of(run.storage), config.trial_id
        data: Path | None = None
        missing, training, error = tuple(work["missing"]), None, ""
        try:
            data = ensure_local(run.data, work["missing"])
            rows = usable_rows(read_rows(storage, trial_id), needs_validation=run.needs_validation)
            missing, error = still_missing(rows, work["tried"], work["missing"], data, run.probe)
            if not missing:
                return {"state": "failed", "error": error} if error else {"state": "finished"}
            training = read_training(trial_dir)
            if training is None or training["status"] != "finished":
                # Another sweep has deleted it meanwhile, with --force.
                return report_of(trial_dir, None)
            results = self.score(trial_dir.uri, missing)
        except (ClaimLostError, StoppedError):
            raise
        except Exception as failure:
            # The encoder is trained, so any other error is that of these scores, and of no others.
            log.exception("trial %s could not be evaluated", trial_id)
            results = dict.fromkeys(missing, f"{type(failure).__name__}: {failure}")
        new: list[Row] = []
        for dataset, result in results.items():
            if isinstance(result, str):
                images = evaluation_fingerprint(data, dataset) if data else ""
                own = {"eval_dataset": dataset, "data_fingerprint": images}
                new += [
                    failed_row(
                        config, result, context=run.context, started_at=started_at, score=own | {"probe": each.name}
                    )
                    for each in run.probe.each()
                ]
            else:
                assert training is not None
                new += [
                    finished_row(config, training, score, context=run.context, trial_dir=trial_dir) for score in result
                ]
        check_held(trial_dir, token)
        write_rows(storage, trial_id, merged(read_rows(storage, trial_id), new))
        log_scores(run.settings.track, config, trial_dir, new)
        errors = [row["error"] for row in new if row["status"] == "failed"] + ([error] if error else [])
        if errors:
            return {"state": "failed", "error": errors[0]}
        if not run.keep_checkpoints:
            # Scored, so the encoder can be read. Longer trials continue from `mdssl.pretrain.stable`.
            delete_checkpoints(trial_dir)
        return {"state": "finished"}

    def score(self, trial_dir: str, datasets: Sequence[str]) -> dict[str, list[Row] | str]:
        """Score one trial's encoder; returns for each dataset a list of entries, or the error."""
        config, model = load_model(Location.of(trial_dir), self.device)
        artifacts = TrialArtifacts(Location.of(trial_dir), config, model, data=self.data, device=self.device)
        artifacts.clear_up()
        scores: dict[str, list[Row] | str] = {}
        for name in datasets:
            try:
                scores[name] = self._score_on(name, config, model, artifacts)
            except StoppedError:
                raise
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
        found = score_dataset(
            encoded, dataset, probe=self.probe, seed=config.seed, model=model, input_size=config.input_size
        )
        artifacts.add(dataset, encoded)
        artifacts.add_confusions(dataset, found)
        own = {
            "eval_dataset": name,
            "data_fingerprint": evaluation_fingerprint(data, name),
            "images": images_of(dataset),
        }
        return [entry | own for entry in found]
