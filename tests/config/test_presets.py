"""Presets against separate lists of settings: values of the paper, and steps computed from epochs of CIFAR-10."""

import os
import runpy

import pytest

from mdssl import Sweep
from mdssl.config import presets
from mdssl.config.presets import DATA, PRESETS, STORAGE, place_flags, preset_values
from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig

EPOCH = 50_000 // 512
"""Steps per epoch of CIFAR-10's 50,000 images in batches of 512."""

# Section 3.1, tables 6 and 7, section 4 and equation 5 of the paper. Other values are those of SimCLR at 32×32.
PAPER = {
    "arch": "resnet50",
    "stem": "imagenet",
    "norm": "batch",
    "projection_dim": 128,
    "batch_per_domain": 1024,
    "iterations": 48_000,
    "optimizer": "lars",
    "learning_rate": 4.0,
    "lr_warmup_iterations": 480,
    "weight_decay": 1e-6,
    "temperature": 0.1,
    "jitter_strength": 0.5,
    "blur_probability": 0.5,
    "crop_min_area": 0.08,
    "warmup_iterations": 480,
    "recluster_every": 2400,
    "cluster_space": "projection",
    "cluster_normalized": True,
    "epsilon": 1.0,
    "epsilon_final": 0.01,
    "outlier_rule": "farthest",
}
# SimCLR (appendix B.9) and lightly's CIFAR-10 benchmark have no blur. The benchmark trains 200 epochs and more with
# batches of 512. Temperature and weight decay are those of solo-learn.
CIFAR = PAPER | {
    "arch": "resnet18",
    "stem": "cifar",
    "batch_per_domain": 512,
    "temperature": 0.2,
    "blur_probability": 0.0,
    "weight_decay": 1e-4,
    "iterations": 200 * EPOCH,
    "lr_warmup_iterations": 10 * EPOCH,
    "learning_rate": 4.0 * 512 / 1024,
    "warmup_iterations": 10 * EPOCH,
    "recluster_every": 10 * EPOCH,
}
QUICK = PAPER | {
    "arch": "resnet18",
    "batch_per_domain": 64,
    "iterations": 80,
    "lr_warmup_iterations": 10,
    "learning_rate": 1.5,
    "crop_min_area": 0.5,
    "warmup_iterations": 16,
    "recluster_every": 16,
}
# MoCo v3's table of ViT-S with AdamW: learning rate 1.5e-4 for 256 images, here of two domains, and a warm-up of 40 of
# 300 epochs. An epoch has as many steps as in preset cifar.
VIT = PAPER | {
    "arch": "timm/vit_tiny_patch16_224",
    "batch_per_domain": 512,
    "optimizer": "adamw",
    "learning_rate": 1.5e-4 * 2 * 512 / 256,
    "weight_decay": 0.1,
    "temperature": 0.2,
    "blur_probability": 0.0,
    "iterations": 300 * EPOCH,
    "lr_warmup_iterations": 40 * EPOCH,
    "warmup_iterations": 40 * EPOCH,
    "recluster_every": 10 * EPOCH,
}
CONVNEXT = VIT | {"arch": "timm/convnext_atto", "weight_decay": 0.05}
BY_NAME = {"paper": PAPER, "cifar": CIFAR, "quick": QUICK, "vit": VIT, "convnext": CONVNEXT}


@pytest.mark.parametrize(("preset", "expected"), BY_NAME.items())
def test_preset_has_the_expected_settings(preset, expected):
    own = {name: value for name, value in PRESETS[preset].items() if name in TrialConfig.__dataclass_fields__}
    domains = {"domains": ("cifar10", "svhn")}
    trial = TrialConfig(**own | domains).to_dict()
    assert {name: trial[name] for name in expected} == expected


def test_axis_of_a_sweep_defaults_to_the_value_of_the_preset():
    assert Sweep(preset="cifar", domains=("cifar10", "svhn")).settings.temperature == (0.2,)
    assert Sweep(preset="cifar", domains=("cifar10", "svhn"), temperature=(0.1, 0.5)).settings.temperature == (0.1, 0.5)


def test_presets_have_the_expected_probes():
    probes = {name: preset.get("probe", ProbeConfig().probe) for name, preset in PRESETS.items()}
    assert probes == {name: "sgd" if name == "paper" else "lbfgs" for name in PRESETS}
    raw = ProbeConfig(probe="sgd-raw").settings()
    # The values of table 7.
    assert (raw["probe_learning_rate"], raw["probe_batch"], raw["probe_epochs"]) == (0.1, 1024, 100)


def test_quick_preset_evaluates_on_an_unseen_dataset():
    quick = PRESETS["quick"]
    assert quick["domains"] == ("builtin-clutter", "builtin-shapes", "builtin-textures")
    assert quick["evaluate"] == (*quick["domains"], "builtin-digits")
    assert (quick["clusters"], quick["rules"]) == ((2, 3), ("farthest", "runner-up"))


def test_printed_commands_name_the_places_that_are_not_the_defaults():
    assert place_flags(STORAGE) == place_flags(os.path.abspath(STORAGE), os.path.abspath(DATA)) == ""
    assert place_flags("my runs", "prepared") == " --storage 'my runs' --data prepared"


def test_environment_variables_set_the_default_places(monkeypatch):
    for name in ("DATA", "STORAGE"):
        monkeypatch.delenv(f"MDSSL_{name}", raising=False)
    usual = runpy.run_path(presets.__file__)
    assert (usual["DATA"], usual["STORAGE"]) == ("data", "results")
    for name in ("DATA", "STORAGE"):
        monkeypatch.setenv(f"MDSSL_{name}", f"/{name}")
    ours = runpy.run_path(presets.__file__)
    assert (ours["DATA"], ours["STORAGE"]) == ("/DATA", "/STORAGE")


def test_datasets_of_a_preset_are_not_used_with_other_domains():
    usual = {"domains": (), "evaluate": (), "iterations": 1, "temperature": (0.1,)}
    for given, names in {(): {"domains", "evaluate"}, ("domains",): {"domains"}, ("mixtures",): set()}.items():
        assert preset_values("quick", given, usual).keys() == {"preset", "iterations"} | names
        assert preset_values("cifar", given, usual)["temperature"] == (0.2,)
    with pytest.raises(ValueError, match="unknown preset 'quik'"):
        preset_values("quik", (), usual)
