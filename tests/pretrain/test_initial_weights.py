"""Initial weights as baselines of sweeps and searches, and in `mdssl probe`."""

import json

import pytest
import torch
from factories import tiny_trial

from mdssl import Sweep
from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read
from mdssl.pretrain.pretrained import as_it_starts, complete
from mdssl.pretrain.timm_encoder import timm_input
from mdssl.report.trial import reproduce_commands
from mdssl.sweep.grid import trials

pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("full_encoders")


def test_sweep_evaluates_the_initial_weights_as_a_baseline(vit, tiny_data):
    sweep = Sweep(
        domains=("tiny-a", "tiny-b"), data=tiny_data, preset="vit", arch="timm/test_vit", init=str(vit[0]),
        batch_per_domain=8, iterations=4, lr_warmup_iterations=1, lambda2=(0.1,),
    )  # fmt: skip
    found = trials(sweep.settings, sweep.settings.expand("random", "simclr", "mdssl"))
    assert [config.method for config in found] == ["pretrained", "random", "simclr", "mdssl"]
    as_is, random, *trained = found
    assert {config.init_fingerprint for config in trained} == {as_is.weights_fingerprint}
    assert {(config.input_size, config.patch_size) for config in found} == {(16, 2)}
    assert (random.init, as_is.weights) == ("random", str(vit[0]))
    assert as_it_starts(trained[0]) == as_is
    assert (
        random.trial_id
        == TrialConfig(method="random", **timm_input("timm/test_vit", 16, None), arch="timm/test_vit").trial_id
    )
    plain = Sweep(**{"domains": ("tiny-a", "tiny-b"), "data": tiny_data, "batch_per_domain": 8, "iterations": 4})
    assert "pretrained" not in {config.method for config in trials(plain.settings, plain.settings.expand("mdssl"))}


@pytest.mark.parametrize("search", ["random", "grid"])
@pytest.mark.parametrize("baselines", [(), ("random", "simclr")])
def test_search_evaluates_the_initial_weights_as_a_baseline(vit, resnet_file, tiny_data, tmp_path, search, baselines):
    common = {
        "domains": ("tiny-a", "tiny-b"), "data": tiny_data, "storage": str(tmp_path), "iterations": 4,
        "batch_per_domain": 8, "range": (("lambda1", "0.8", "1", "0.1"),), "search": search,
        "trials": 2 if search == "random" else None,
    }  # fmt: skip
    vits = {"arch": "timm/test_vit", "init": str(vit[0])}
    found = Sweep(methods=(*baselines, "mdssl"), **common, **vits).trials()
    (as_is,) = (config for config in found if config.method == "pretrained")
    assert (as_is.weights, as_is.input_size, as_is.patch_size) == (str(vit[0]), 16, 2)
    grid = Sweep(methods=("mdssl",), **common | {"range": (), "search": "grid", "trials": None}, **vits).trials()
    assert as_is.trial_id in {config.trial_id for config in grid}
    # Each of several files gives a baseline, and random weights give none.
    other = tmp_path / "other.pth"
    torch.save({name: 2 * value for name, value in torch.load(resnet_file).items()}, other)
    starts = ("init", "random", str(resnet_file), str(other))
    several = {"arch": "resnet18", "grid": (starts, ("weight_decay", "0", "0.001"))}
    found = Sweep(methods=(*baselines, "mdssl"), **common, **several).trials()
    assert [config.weights for config in found if config.method == "pretrained"] == [str(resnet_file), str(other)]
    # A combination that cannot start from the weights is refused before any trial starts.
    with pytest.raises(ValueError, match="has an encoder with norm 'batch', but norm is 'group'"):
        Sweep(methods=("mdssl",), arch="resnet18", **common, grid=(starts, ("norm", "batch", "group"))).trials()


def test_probe_loads_a_file_of_timm_as_the_architecture_that_the_user_gives(vit, tiny_data, tmp_path, capsys):
    command = ["probe", "--weights", str(vit[0]), "--evaluate", "tiny-a", "--device", "cpu"]
    command += ["--storage", str(tmp_path), "--data", tiny_data]
    assert main(command) == 2
    assert "it looks like a vision transformer" in capsys.readouterr().err
    assert main([*command, "--arch", "timm/test_vit", "--input-size", "32"]) == 0
    (row,) = read(tmp_path).to_dict("records")
    assert (row["method"], row["arch"], row["eval_dataset"]) == ("pretrained", "timm/test_vit", "tiny-a")
    config = json.loads(row["config_json"])["trial"]
    assert (config["input_size"], config["patch_size"]) == (32, 4)
    # The trial ID is that of the baseline in a sweep with this input size.
    network = {"arch": "timm/test_vit", **timm_input("timm/test_vit", 32, None)}
    start = complete(tiny_trial(**network, init=str(vit[0])), 32)
    assert as_it_starts(start).trial_id == row["trial_id"]
    (reproduce,) = reproduce_commands([row], json.loads(row["config_json"]))
    assert f"--weights {vit[0]} --input-size 32 --arch timm/test_vit" in reproduce
