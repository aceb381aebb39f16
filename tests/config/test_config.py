"""Configs: trial IDs, JSON, and messages about wrong settings."""

import importlib.util
import json
from dataclasses import fields
from typing import Literal

import pytest

from mdssl.config.field_types import choices, parse_as
from mdssl.config.methods import CLUSTER_SETTINGS, METHODS
from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import ClusterSettings, Recipe, TrialConfig, relevant_settings


def config(**changes):
    return TrialConfig(**{"domains": ("cifar10", "svhn"), "precision": "fp32"} | changes)


def test_config_is_equal_after_a_round_trip_through_json():
    original = config(lambda1=0.9, lambda2=0.1)
    again = TrialConfig.from_dict(json.loads(json.dumps(original.to_dict())))
    assert again == original
    assert again.trial_id == original.trial_id


def test_trial_id_is_stable():
    """If this value changes, all existing leaderboards lose their trials."""
    assert config(lambda1=0.9, lambda2=0.1, data_fingerprint="0123").trial_id == "a98d8076ed36"


def test_clustering_version_changes_only_trial_ids_of_clustered_methods(monkeypatch):
    methods = {"mdssl": {}, "mdssl-clustered": {"num_clusters": 2}, "mdssl-robust": {"num_clusters": 2}}
    before = {method: config(method=method, **own).trial_id for method, own in methods.items()}
    monkeypatch.setattr("mdssl.config.trial.CLUSTERING_VERSION", 1_000)
    after = {method: config(method=method, **own).trial_id for method, own in methods.items()}
    assert [method for method in methods if before[method] == after[method]] == ["mdssl"]


def test_trial_id_of_precision_auto_equals_that_of_fp32_on_any_machine(monkeypatch):
    """Earlier versions resolved ``auto`` on the driver of a sweep, which gave fp32 on CPUs. The driver's hardware no
    longer changes the ID."""
    assert config(precision="auto").trial_id == config(precision="fp32").trial_id != config(precision="bf16").trial_id
    expected = config(precision="auto")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert (config(precision="auto"), config(precision="auto").trial_id) == (expected, expected.trial_id)
    # Trials of different precisions share no stable part.
    wsd = {"schedule": "wsd", "iterations": 100, "lr_warmup_iterations": 5}
    assert len({config(precision=each, **wsd).stable_id for each in ("auto", "fp32", "bf16")}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"lambda1": 0.9},
        {"lambda2": 0.1},
        {"temperature": 0.2},
        {"seed": 1},
        {"domains": ("svhn", "cifar10")},
        {"iterations": 10},
        {"data_fingerprint": "other"},
        {"method": "simclr"},
        {"precision": "bf16"},
    ],
)
def test_trial_id_changes_with_each_setting_that_changes_the_encoder(change):
    assert config(**change).trial_id != config().trial_id


def test_equal_numbers_of_different_types_give_the_same_trial_id():
    assert config(lambda1=1, lambda2=-0.0).trial_id == config(lambda1=1.0, lambda2=0.0).trial_id


def test_trial_id_of_a_random_encoder_ignores_settings_of_training():
    random = {"method": "random", "domains": ()}
    assert config(**random, iterations=5, temperature=0.2).trial_id == config(**random).trial_id
    assert config(**random, seed=1).trial_id != config(**random).trial_id
    assert config(**random, arch="resnet18").trial_id != config(**random).trial_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "mdsl"}, "unknown method 'mdsl'.*Did you mean 'mdssl'"),
        ({"arch": "resnet81"}, "unknown arch.*Did you mean 'resnet18'"),
        ({"stem": "imagnet"}, "Did you mean 'imagenet'"),
        ({"optimizer": "lasr"}, "Did you mean 'lars'"),
        ({"lambda1": -0.9}, "what they call -0.9 is lambda1 = 0.9"),
        ({"lambda1": -1}, "what they call -1 is lambda1 = 1"),
        ({"lambda1": -1.5}, "lambda1 is -1.5; .* The paper stays at"),
        ({"lambda1": 0}, r"lambda1 is 0; it must lie in \(0, 1\]. The paper stays at"),
        ({"lambda1": 1.1}, "lambda1 is 1.1; it must lie in"),
        ({"lambda2": -0.1}, "lambda2 is -0.1; it must be at least 0. It weighs"),
        ({"lambda1": float("nan")}, "lambda1 is nan; it must be a finite number"),
        ({"temperature": 0.01}, "temperature is 0.01; it must be at least 0.02. Below"),
        ({"batch_per_domain": 1}, "batch_per_domain is 1; it must be at least 2. A contrastive"),
        ({"iterations": 0}, "iterations is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"crop_min_area": 0.009}, "crop_min_area is 0.009; it must be from 0.01 to 1"),
        ({"crop_min_area": 1.1}, "crop_min_area is 1.1; it must be from 0.01 to 1"),
        ({"jitter_strength": -0.1}, "jitter_strength is -0.1; it must be from 0 to 1"),
        ({"blur_probability": 1.1}, "blur_probability is 1.1; it must be from 0 to 1"),
        ({"warmup_iterations": -1}, "warmup_iterations is -1; it must be at least 0"),
        ({"method": "mdssl-robust", "iterations": 9, "warmup_iterations": 9}, "would never cluster"),
        ({"num_clusters": 1.5}, r"num_clusters is 1.5 \(float\); it must be a whole number"),
        ({"iterations": 1.5}, "iterations is 1.5 .*whole number"),
        ({"iterations": True}, "iterations is True"),
        ({"domains": ("svhn", "svhn")}, "domain 'svhn' is 2 times"),
        ({"domains": ("svhn+cifar10", "mnist")}, "domain 'svhn.cifar10' contains a '.'"),
        ({"domains": ()}, "needs domains"),
        ({"arch": "timm/test_vit", "patch_size": 0}, "patch_size is 0; it must be at least 1. It is in pixels"),
        ({"arch": "timm/test_vit", "normalization": "0.5 0.5"}, "it must be three means and three deviations"),
        ({"normalization": "0 0 0 1 1 1"}, "normalization is '0 0 0 1 1 1', but a ResNet"),
        ({"domains": "svhn"}, "list of strings"),
        ({"method": "random"}, "does not train, but domains are 'cifar10"),
        ({"method": "random", "domains": (), "init": "torchvision"}, "does not train, but init is 'torchvision'"),
        ({"method": "pretrained", "domains": ()}, "cannot be combined"),
        ({"method": "simclr", "lambda2": 0.1}, "use method 'mdssl'"),
    ],
)
def test_wrong_settings_are_refused_with_a_helpful_message(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)
    assert config(init="torchvision").init == "torchvision"


def test_smallest_and_largest_values_are_accepted():
    zeros = dict.fromkeys(("seed", "warmup_iterations"), 0)
    zeros |= dict.fromkeys(("lambda2", "learning_rate", "weight_decay", "jitter_strength", "epsilon"), 0.0)
    ones = dict.fromkeys(("iterations", "projection_dim", "recluster_every", "num_clusters", "patch_size"), 1)
    least = zeros | ones | {"batch_per_domain": 2, "temperature": 0.02, "crop_min_area": 0.01}
    most = dict.fromkeys(("lambda1", "crop_min_area", "jitter_strength", "negative_weight"), 1.0)
    for extreme in (least | {"arch": "timm/test_vit"}, most):
        assert config(**extreme).to_dict().items() >= extreme.items()


def test_text_of_a_command_line_is_converted_to_the_type_of_its_setting():
    assert parse_as("compile", "True", bool) is True and parse_as("compile", "false", bool) is False
    assert (parse_as("seed", "3", int), parse_as("patch_size", "3", int | None)) == (3, 3)
    assert parse_as("stem", "cifar", Literal["imagenet", "cifar"]) == "cifar"
    for text, expected, allowed in (("yes", bool, "true or false"), ("1.5", int, "a whole number")):
        with pytest.raises(ValueError, match=f"x is '{text}'; it must be {allowed}"):
            parse_as("x", text, expected)


def test_tracker_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'wandb' needs the package wandb, which is not installed; .*leave it out"):
        RunSettings(track=("wandb",))


def test_settings_are_checked_outside_of_a_trial():
    with pytest.raises(ValueError, match="iterations is 1.5 .*whole number"):
        Recipe(iterations=1.5)
    with pytest.raises(ValueError, match="learning_rate is -1"):
        Recipe(learning_rate=-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"track": ("tensorbord",)}, "Did you mean 'tensorboard'"),
        ({"track": ("tensorboard", "tensorboard")}, "name each tracker once"),
        ({"tag": ("",)}, "tag"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds is -1.0; it must be at least 0"),
        ({"report_every": 0}, "report_every is 0; it must be at least 1"),
        ({"score_every": -1}, "score_every is -1; it must be at least 0"),
        ({"hang_minutes": -1.0}, "hang_minutes is -1.0; it must be at least 0"),
        ({"compile_from": -1}, "compile_from is -1; it must be at least 0"),
    ],
)
def test_wrong_settings_of_a_run_are_refused_and_minimal_ones_accepted(change, message):
    with pytest.raises(ValueError, match=message):
        RunSettings(**change)
    least = {"checkpoint_seconds": 0.0, "report_every": 1, "score_every": 0, "hang_minutes": 0.0, "compile_from": 0}
    assert RunSettings(**least, track=("none",)).track == ()


def test_unknown_key_is_refused_with_the_nearest_key():
    with pytest.raises(ValueError, match="unknown config key 'lamda1'.*Did you mean 'lambda1'"):
        TrialConfig.from_dict({"lamda1": 0.9})
    with pytest.raises(ValueError, match="unknown method 'dino'.* A newer mdssl may have it"):
        TrialConfig.from_dict({"method": "dino"})
    with pytest.raises(ValueError, match="unknown method 'dino'.* A newer mdssl may have it"):
        METHODS["dino"]


def test_defaults_match_the_paper():
    recipe = Recipe()
    assert (recipe.arch, recipe.stem, recipe.batch_per_domain, recipe.iterations) == (
        "resnet50",
        "imagenet",
        1024,
        48_000,
    )
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("lars", 4.0, 1e-6)
    assert (recipe.negative_weight, recipe.decay_fraction) == (0.5, 0.2), "not the paper's, but parts of trial IDs"


def test_settings_with_an_earlier_spelling_are_read():
    settings = {"method": "mdssl-clustered", "domains": ["a", "b"], "precision": "fp32", "num_clusters": 2}
    before = settings | {"cluster_normalised": False}
    again = TrialConfig.from_dict(before)
    assert not again.cluster_normalized
    assert again.trial_id == "2791f0d9d226"
    assert relevant_settings(before) == settings | {"cluster_normalized": False}
    assert "cluster_normalised" not in again.to_dict()


def test_methods_without_training_have_no_weights_of_the_loss():
    untrained = [method for method in METHODS.values() if not method.trains]
    assert untrained and not any(method.weighs_domains or method.weighs_negatives for method in untrained)


def test_lists_of_settings_match_the_fields_of_the_classes():
    assert tuple(field.name for field in fields(ClusterSettings)) == CLUSTER_SETTINGS
    for method in METHODS.values():
        assert set(method.settings) <= {field.name for field in fields(TrialConfig)}
        assert method.has_setting("seed") is not method.loads_weights


def test_each_element_of_a_list_setting_is_checked():
    with pytest.raises(ValueError, match="unknown features 'encodr'. Did you mean 'encoder'.*: encoder, projection"):
        ProbeConfig(features=("projection", "encodr"))
    assert choices(ProbeConfig, "features") == ("encoder", "projection")
    with pytest.raises(ValueError, match="unknown outlier rule 1; allowed: farthest, runner-up"):
        config(outlier_rule=1)
    with pytest.raises(ValueError, match="unknown stem 'cifar-pad2'"):
        config(stem="cifar-pad2")
