"""A trial under TorchTrainer: what it hands to Ray Train."""

import subprocess
import sys

import pytest
import ray.cloudpickle
import ray.train

from mdssl.config import TrialConfig
from mdssl.run_config import ProbeConfig, RunSettings
from mdssl.storage import Location
from mdssl.sweep import trial

LOAD = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"


@pytest.fixture
def handed_over(tmp_path, monkeypatch):
    """What TorchTrainer gets from a trial of ``workers``."""

    def start(workers: int) -> dict:
        found = {}

        class Trainer:
            def __init__(self, loop, **arguments):
                found.update(arguments)

            def fit(self):
                pass

        monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
        # It insists on a running Tune trial.
        monkeypatch.setattr(trial, "TuneReportCallback", ray.train.UserCallback)
        run = trial.TrialRun(
            storage=str(tmp_path),
            data=str(tmp_path),
            probe=ProbeConfig(),
            settings=RunSettings(),
            executor="torchtrainer",
            workers=workers,
            cpus_per_worker=1,
            gpus_per_worker=0,
            context={},
        )
        trial.train_in_workers(TrialConfig(method="random"), Location.of(tmp_path), run, "token")
        return found

    return start


def test_the_controller_of_one_worker_needs_no_torch(handed_over):
    handed = handed_over(workers=1)
    seen_by_controller = {name: handed[name] for name in ("train_loop_config", "torch_config", "scaling_config")}
    result = subprocess.run(
        [sys.executable, "-c", LOAD], input=ray.cloudpickle.dumps(seen_by_controller), capture_output=True, check=True
    )
    assert result.stdout.strip() == b"False"


def test_several_workers_get_a_process_group(handed_over):
    assert handed_over(workers=2)["torch_config"] is None, "which stands for Ray's own"
