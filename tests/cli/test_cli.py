"""The command line: help, messages for wrong settings, and training and probing without Ray."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mdssl
from mdssl.cli.main import COMMANDS, main
from mdssl.cli.parse import command, parse
from mdssl.data.dataset import open_dataset
from mdssl.storage.claim import Claim


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def train_settings(*argv):
    return parse(COMMANDS["train"][0], prog="train", description="", argv=argv)


def tiny(storage, data):
    flags = ["--domains", "tiny-a", "tiny-b", "--iterations", 4, "--batch-per-domain", 8, "--report-every", 2]
    return [*flags, "--precision", "fp32", "--device", "cpu", "--storage", storage, "--data", data]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_defaults_and_an_example(command, capsys):
    run(*command.split(), "--help")
    text = capsys.readouterr().out
    assert re.search(r"[Ee]xamples?:", text)
    assert "(default: " in text
    assert f"mdssl {command}" in text


def test_version(capsys):
    run("--version")
    assert capsys.readouterr().out == f"mdssl {mdssl.__version__}\n"


def test_british_spelling_is_still_accepted(capsys):
    run("neighbours", "--help")
    assert "mdssl neighbors" in capsys.readouterr().out
    asked = parse(COMMANDS["probe"][0], prog="", description="", argv=["--knn-neighbours=5"])
    assert (asked.knn_neighbors, asked.name) == (5, "lbfgs(knn_neighbours=5)")
    assert not train_settings("--method", "mdssl-clustered", "--no-cluster-normalised").cluster_normalized


def test_overview_lists_every_command(capsys):
    run("--help")
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'.*Did you mean 'train'"),
        (["train", "--lambda1", "-0.9"], "what they call -0.9 is lambda1 = 0.9"),
        (["train", "--arch", "resnet19"], "Did you mean 'resnet18'"),
        (["train", "--num-clusters", "3"], "method 'mdssl' has no such setting"),
        (["train", "--method", "mdssl-clustered", "--epsilon", "2"], "method 'mdssl-clustered' has no such setting"),
        (
            ["train", "--method", "mdssl-clustered", "--sampling", "proportional"],
            "sampling is 'proportional', but method 'mdssl-clustered' has no such setting; .*: simclr, ",
        ),
        (["data", "prepare"], "no dataset is named"),
        (["data", "prepare", "a", "b", "--source", "x"], "source '.*x/a' does not exist"),
        (["data", "prepare", "a", "--source", ""], "source is empty"),
        (["data", "show", "nothing"], "unknown dataset 'nothing'"),
        (["data", "show", "nothing", "--output", "sheet.jpg"], "output 'sheet.jpg' would not be a PNG"),
        (["train", "--method", "random", "--device", "cdua"], "unknown device 'cdua'"),
        (["probe", "../../etc"], "'../../etc' is not a trial id"),
        (["probe", "0123456789ab"], "storage .*results has no leaderboard and no trials"),
        (["log", "best"], "storage .*results has no leaderboard and no trials"),
        (["sweep", "paper", "--search", "random"], "there is nothing to search; leave --search"),
        (["export", "012"], "'012' is not a trial id .*at least 4 of its first"),
        (["embed", "0123", "--output", "a.parquet"], "storage .*results has no leaderboard"),
        (["embed", "a", "b", "--weights", "c", "--output", "a.parquet"], "several sources are given, a and b; name"),
        (
            ["neighbors", "a.jpg", "--weights", "c", "--trial", "0123456789ab"],
            "either TRIAL_ID, or --weights FILE; 0123456789ab and c are given",
        ),
        (["figures", "best", "last"], "best and last are several trials"),
        (["train", "--iterations", "abc"], "--iterations is 'abc'; it must be a whole number.*mdssl train --help"),
        (["train", "--lamda1", "0.9"], "unknown flag --lamda1. Did you mean --lambda1"),
        (["sweep", "lambda-grid", "--seeds", "0,1"], "Separate values by spaces, not commas."),
        (["train", "--domains", "--lambda1", "1"], "--domains has no value"),
        (["train", "--lambda1"], "--lambda1 has no value; give one"),
        (["log"], "mdssl log --help"),
        (["train", "--storage", __file__], "storage is '.*test_cli.py', but .*test_cli.py is a file"),
        (["status", "--storage", f"{__file__}/results"], "test_cli.py is a file; give a folder or a bucket"),
        (["train", "--data", __file__], "data is '.*test_cli.py', but .* is a file"),
    ],
)
def test_wrong_setting_gives_one_message_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "preset"), [([], "quick"), (["--preset", "paper"], "paper"), (["--preset=paper"], "paper")]
)
def test_defaults_are_those_of_the_preset(argv, preset):
    settings = train_settings(*argv, *(["--domains", "a"] if argv else []))
    assert settings.preset == preset
    assert settings.arch == {"quick": "resnet18", "paper": "resnet50"}[preset]


def test_random_encoder_takes_no_domains_from_the_preset():
    assert train_settings("--method", "random").domains == ()
    with pytest.raises(ValueError, match="'random' does not train"):
        train_settings("--method", "random", "--domains", "cifar10")


@pytest.mark.parametrize("flags", [[], ["--num-clusters", "2", "--outlier-rule", "runner-up"]])
def test_clustered_method_accepts_its_settings_and_has_defaults(flags):
    settings = train_settings("--method", "mdssl-robust", *flags)
    assert settings.num_clusters == (2 if flags else 3)
    assert train_settings("--method", "mdssl-clustered").num_clusters == 3


def test_flags_of_the_command_come_before_shared_flags(capsys):
    run("sweep", "mixtures", "--help-all")
    text = capsys.readouterr().out.partition("grid:")[2]
    order = ["--lambda1", "--mixtures", "--domains", "--arch", "--probe ", "--search", "--report-every", "--storage"]
    assert sorted(order, key=text.index) == order


def test_unexpected_error_is_not_reported_as_a_wrong_setting():
    @command
    def main(argv):
        int("not a number")

    with pytest.raises(ValueError, match="invalid literal"):
        main([])


def test_closed_output_pipe_is_no_error():
    shell = f"{sys.executable} -m mdssl train --help | head -1"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: mdssl train")


def test_refused_training_writes_no_files(tiny_data, tmp_path, capsys):
    assert main(list(map(str, ["train", *tiny(tmp_path, tiny_data), "--batch-per-domain", 65]))) == 2
    assert "use at most 64" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_initial_weights_are_refused_before_datasets_are_prepared(tmp_path, capsys):
    data, storage = tmp_path / "data", tmp_path / "results"
    where = ["--data", str(data), "--storage", str(storage)]
    assert main(["train", "--init", str(tmp_path / "absent.pt"), *where]) == 2
    assert f"{tmp_path / 'absent.pt'} cannot be loaded: there is no such file." in capsys.readouterr().err
    assert not data.exists() and not storage.exists()


def test_train_probe_and_leaderboard(tiny_data, tmp_path, capsys):
    train = ["train", "--lambda1", 0.9, *tiny(tmp_path, tiny_data)]
    run(*train)
    printed = capsys.readouterr().out
    assert re.search(r"step 4/4  loss .* = align .*, within .*, across .* views/s  ETA", printed)
    trial_id = re.search(r"mdssl probe ([0-9a-f]{12})", printed).group(1)

    probe = ["probe", trial_id, "--evaluate", "tiny-a", "tiny-c", "--storage", tmp_path, "--data", tiny_data]
    run(*probe)
    assert "tiny-c (encoder, lbfgs): top-1" in capsys.readouterr().out
    run(*probe, "--features", "encoder", "projection")
    board = pd.read_parquet(tmp_path / "leaderboard")
    assert list(board.groupby(["eval_dataset", "features"]).size()) == [1, 1, 1, 1]
    assert dict(zip(board["eval_dataset"], board["seen"], strict=True)) == {"tiny-a": True, "tiny-c": False}
    run(*probe, "--features", "encoder", "projection")
    assert "tiny-a: scored already" in capsys.readouterr().out

    run("leaderboard", "--storage", tmp_path)
    assert re.search(rf"{trial_id} mdssl +0.9 +0 ", capsys.readouterr().out)

    where = ["--storage", tmp_path, "--data", tiny_data]
    run("probe", "last", "--evaluate", "tiny-a", *where)
    assert "tiny-a: scored already" in capsys.readouterr().out
    run("log", trial_id[:4], "--storage", tmp_path)
    assert "step 4/4" in capsys.readouterr().out
    run("embed", "best", "tiny-c", "--split", "test", "--output", tmp_path / "c.parquet", *where)
    assert len(pd.read_parquet(tmp_path / "c.parquet")) == 32

    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "trials").rglob("*")}
    run(*train)
    printed = capsys.readouterr().out
    assert f"trial {trial_id} is already trained: 4 steps, encoder in {tmp_path}/trials/{trial_id}" in printed
    assert f"to score it: mdssl probe {trial_id} --storage {tmp_path} --data {tiny_data}\n" in printed
    assert "step 4/4" not in printed
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "trials").rglob("*")} == files


def test_trial_that_another_process_finished_is_not_trained_again(tiny_data, tmp_path, capsys, monkeypatch):
    train, wait = ["train", *tiny(tmp_path, tiny_data)], Claim.wait_aloud

    def another_is_first(claim):
        monkeypatch.setattr(Claim, "wait_aloud", wait)
        run(*train)
        wait(claim)

    monkeypatch.setattr(Claim, "wait_aloud", another_is_first)
    run(*train)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial ")]
    assert [re.search(": 4 steps in|is already trained: 4 steps", line)[0] for line in lines] == [
        ": 4 steps in",
        "is already trained: 4 steps",
    ]


@pytest.mark.parametrize("flag", ["--trial-id", "--trial"])
@pytest.mark.parametrize(
    ("command", "rest"),
    [
        ("probe", ["--evaluate", "a"]),
        ("log", ["--follow"]),
        ("export", ["--formats", "safetensors", "onnx"]),
        ("embed", ["photos", "--output", "o.parquet"]),
        ("neighbors", ["a.jpg", "b.jpg", "--among", "a", "b"]),
    ],
)
def test_trial_is_positional_and_its_former_flags_still_work(flag, command, rest):
    def settings(*argv):
        return parse(COMMANDS[command][0], prog="", description="", argv=argv)

    wanted = settings("abcd", *rest)
    assert wanted.trial_id == "abcd"
    assert settings(*rest, flag, "abcd") == settings(*rest, f"{flag}=abcd") == settings(flag, "abcd", *rest) == wanted


def test_data_is_listed_and_shown(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("data", "list", "--data", tiny_data)
    assert re.search(r"tiny-a +64 train / 32 test images of 4 classes +16x16", capsys.readouterr().out)
    run("data", "show", "tiny-a", "--data", tiny_data)
    assert (tmp_path / "tiny-a-train.png").exists()


def test_source_may_contain_several_datasets_in_folders_of_their_names(tmp_path, capsys):
    for number, (name, label) in enumerate(itertools.product(("left", "right"), ("cat", "dog"))):
        folder = tmp_path / "all" / name / "train" / label
        folder.mkdir(parents=True)
        for image in range(4):
            Image.new("RGB", (8, 8), (60 * number, 50 * image, 0)).save(folder / f"{image}.png")
    flags = ["--source", tmp_path / "all", "--size", 8, "--workers", 1, "--data", tmp_path / "data"]
    run("data", "prepare", "left", "right", *flags)
    printed = capsys.readouterr().out
    assert re.findall(r"^(\w+): \d+ train / \d+ test images of 2 classes", printed, re.MULTILINE) == ["left", "right"]
    images = {name: open_dataset(tmp_path / "data", name).split("train").images for name in ("left", "right")}
    reds = {name: np.asarray(own)[..., 0].max() for name, own in images.items()}
    assert reds == {"left": 60, "right": 180}
