"""Pretrained encoders in the leaderboard, by `mdssl probe` and by a sweep."""

import pandas as pd
import pytest
import torch
import torchvision

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.evaluate.features import extract_features
from mdssl.leaderboard.board import read
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.pretrained import pretrained_config
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.tables.sweep_table import sweep_table

pytestmark = pytest.mark.usefixtures("full_encoders")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    return file


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def test_mdssl_probe_scores_a_weights_file(weights, tiny_data, tmp_path, capsys):
    flags = ["--weights", weights, "--evaluate", "tiny-a", "--data", tiny_data, "--storage", tmp_path]
    run("probe", *flags)
    printed = capsys.readouterr().out
    assert "resnet18 with imagenet stem" in printed
    assert "unused tensors: fc.bias, fc.weight" in printed
    run("probe", *flags, "--input-size", 48)
    run("probe", *flags)
    assert "tiny-a: scored already" in capsys.readouterr().out
    board = read(str(tmp_path))
    assert list(board["method"]) == ["pretrained"] * 2, "another input size makes another row"
    row = board.iloc[0]
    assert (row["arch"], row["stem"], row["train_mixture"], row["iterations"]) == ("resnet18", "imagenet", "", 0)
    assert pd.isna(row["lambda1"])
    table = sweep_table(board, mixtures=[""], datasets=["tiny-a"])
    assert set(table["weights"]) == {"resnet18.pth"}


def test_the_trial_saves_the_encoder_of_the_weights_file(weights, tiny_data, tmp_path):
    config, _ = pretrained_config(weights, input_size=24)
    train(config, data=tiny_data, trial_dir=tmp_path, device="cpu")
    saved, model = load_model(Location.of(tmp_path))
    assert saved == config
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(torch.load(weights))
    reference.fc = torch.nn.Identity()
    images = open_dataset(tiny_data, "tiny-a").split("test").images[:8]
    expected = build_model(config)
    expected.encoder = reference
    found = extract_features(model, images, input_size=24)["encoder"]
    torch.testing.assert_close(
        found, extract_features(expected, images, input_size=24)["encoder"], rtol=1e-4, atol=1e-5
    )


def test_the_trial_id_does_not_depend_on_the_file_name(weights, tmp_path):
    other = tmp_path / "copy.pth"
    other.write_bytes(weights.read_bytes())
    assert pretrained_config(weights)[0].trial_id == pretrained_config(other)[0].trial_id
    assert pretrained_config(weights)[0].trial_id != pretrained_config(weights, 8)[0].trial_id


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either TRIAL_ID, or --weights"),
        (["--weights", "nowhere.pth", "--evaluate", "tiny-a"], "nowhere.pth cannot be loaded"),
        (["--weights", "FILE"], "name datasets with --evaluate"),
        (["--weights", "FILE", "--evaluate", "tiny-a", "tiny-a"], "has a value twice"),
        (["--weights", "FILE", "--evaluate", "tiny-a", "--features", "projection"], "has no projection head"),
        (
            ["--weights", "FILE", "--evaluate", "tiny-a", "--input-size", 7],
            "input_size is 7; it must be at least 8. It is",
        ),
    ],
)
def test_wrong_flags_give_one_message_and_write_no_files(weights, tiny_data, tmp_path, capsys, flags, message):
    flags = [str(weights) if flag == "FILE" else str(flag) for flag in flags]
    assert main(["probe", *flags, "--data", tiny_data, "--storage", str(tmp_path / "new")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_weights_file_that_changed_since_the_trial_was_created_is_refused(weights, tiny_data, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(weights.read_bytes())
    config, _ = pretrained_config(file)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    with pytest.raises(ValueError, match="restore the file"):
        train(config, data=tiny_data, trial_dir=tmp_path / "trial", device="cpu")
    assert not (tmp_path / "trial").exists()


def test_pretrained_trials_require_a_weights_file_and_other_trials_refuse_one():
    with pytest.raises(ValueError, match="made by `mdssl probe --weights FILE`"):
        TrialConfig(method="pretrained")
    with pytest.raises(ValueError, match="cannot be combined"):
        TrialConfig(method="mdssl", domains=("tiny-a",), weights_fingerprint="0" * 16)
