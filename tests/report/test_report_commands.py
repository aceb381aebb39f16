"""Commands shown in a report reproduce the same trials and scores."""

import json
import shlex

import pytest
from report_board import (
    SMALL,
    config,
    rows_of,
)

from mdssl.cli.parse import parse
from mdssl.cli.trials import Probe, Train
from mdssl.config.presets import PRESETS
from mdssl.config.trial import TrialConfig
from mdssl.report.trial import reproduce_commands
from mdssl.tables.repeat import train_command


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "simclr"},
        {"lambda1": 0.9, "lambda2": 0.15, "temperature": 0.2, "seed": 3},
        {"method": "mdssl-clustered", "num_clusters": 3, "warmup_iterations": 5, "cluster_normalised": False},
        {"method": "mdssl-robust", "num_clusters": 3, "warmup_iterations": 5, "outlier_rule": "runner-up"},
        {"method": "mdssl-robust", "num_clusters": 2, "warmup_iterations": 5, "epsilon": 0.5},
        {"method": "random", "domains": (), "seed": 1},
        {"domains": ["two words", "svhn"], "weight_decay": 3.5e-7, "norm": "group", "precision": "bf16"},
        {"arch": "resnet50", "batching": "per-domain", "iterations": 48_000, "learning_rate": 4.0},
    ],
)
def test_the_training_command_reproduces_the_trial(changes, preset):
    trial = config(**changes)
    words = shlex.split(train_command(json.loads(json.dumps(trial.to_dict())), preset))
    assert words[:2] == ["mdssl", "train"]
    settings = parse(Train, prog="mdssl train", description="", argv=words[2:])
    values = {name: getattr(settings, name) for name in TrialConfig.__dataclass_fields__}
    assert TrialConfig(**values | {"data_fingerprint": trial.data_fingerprint}).trial_id == trial.trial_id


def test_the_training_command_omits_settings_of_the_preset():
    quick = TrialConfig(**{k: v for k, v in PRESETS["quick"].items() if k in SMALL or k == "domains"}, precision="fp32")
    command = train_command(quick.to_dict() | {"lambda2": 0.1, "learning_rate": 1.5, "crop_min_area": 0.5}, "quick")
    assert command == "mdssl train --precision fp32 --lambda2 0.1"


def test_the_probe_commands_reproduce_the_scores():
    trial = config()
    of_sgd = json.loads(rows_of(trial, {"svhn": 5})[0]["config_json"])
    of_sgd["evaluation"] |= {"probe": "sgd", "probe_learning_rate": 0.3, "probe_epochs": 30}  # before sgd-raw
    of_scaled_sgd = json.loads(rows_of(trial, {"svhn": 5})[0]["config_json"])
    of_scaled_sgd["evaluation"] |= {
        "probe": "sgd",
        "probe_learning_rate": None,
        "probe_batch": 256,
        "standardized": True,
    }
    rows = rows_of(trial, {"svhn": 5, "cifar10": 6}) + rows_of(trial, {"stl10": 7}, config_json=json.dumps(of_sgd))
    rows += rows_of(trial, {"dtd": 8}, config_json=json.dumps(of_scaled_sgd))
    rows = [row | {"preset": "quick", "num_workers": 2} for row in rows]
    training, lbfgs, sgd, scaled_sgd = reproduce_commands(rows, of_sgd)
    assert training.startswith("torchrun --nproc-per-node 2 -m mdssl train ")
    assert lbfgs == f"mdssl probe {trial.trial_id} --evaluate svhn cifar10"
    settings = parse(Probe, prog="mdssl probe", description="", argv=shlex.split(sgd)[2:])
    assert (settings.trial_id, settings.evaluate) == (trial.trial_id, ("stl10",))
    assert settings.name == "sgd-raw(learning_rate=0.3,epochs=30)"
    settings = parse(Probe, prog="mdssl probe", description="", argv=shlex.split(scaled_sgd)[2:])
    assert settings.name == "sgd(standardized)"
