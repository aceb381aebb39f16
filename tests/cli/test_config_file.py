"""Configuration files give the same trials as flags; wrong ones are refused with one message."""

import re
from dataclasses import fields

import pytest
import yaml

from mdssl.cli.main import COMMANDS, main
from mdssl.cli.parse import parse

SWEEPS = [name for name in COMMANDS if name.startswith("sweep ")]


def settings(command, *argv):
    return parse(COMMANDS[command][0], prog=f"mdssl {command}", description="", argv=[str(word) for word in argv])


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return str(path)

    return write


def planned(capsys, *argv):
    assert main([str(word) for word in argv]) == 0
    return re.findall(r"^  ([0-9a-f]{12})  (.*?)  ", capsys.readouterr().out, re.MULTILINE)


OTHERS = {
    "sweep lambda-grid": ["--lambda2", 0, 0.3, "--grid", "learning_rate", 1e-3, 2, "--grid", "stem", "cifar"],
    "sweep mixtures": ["--mixtures", "a+b", "c+d", "--no-singles", "--growing", "--track", "none"],
    "sweep clustering": ["--epsilons", 0.5, 1, "--rules", "runner-up", "--clusters", 3, "--no-cluster-normalized"],
    "sweep search": ["--range", "lambda2", 0, 0.4, 0.02, "--range", "learning_rate", 0.5, 8, "log", "--trials", 5],
    "sweep paper": ["table1", "figure3", "--preset", "cifar", "--seeds", 0, 1, "--probe", "sgd"],
    "train": ["--method", "mdssl-robust", "--lambda1", 0.9, "--domains", "a", "b", "--num-clusters", 3],
}


@pytest.mark.parametrize("argv", [[], "others"])
@pytest.mark.parametrize("command", OTHERS)
def test_saved_file_gives_the_same_settings(command, argv, tmp_path):
    argv = OTHERS[command] if argv else []
    path = tmp_path / "saved.yaml"
    asked = settings(command, *argv)
    saved = settings(command, *argv, "--save-config", path)
    assert saved == asked
    again = settings(command, path)
    assert again == asked
    # Domains without labels are left out only where the user named no evaluation datasets.
    assert getattr(again, "evaluates_domains", False) == getattr(asked, "evaluates_domains", False)


@pytest.mark.parametrize("command", ["sweep search", "train"])
def test_saved_file_has_every_setting_of_a_trial(command, tmp_path):
    """Later changes of a preset do not change the trials of the file."""
    path = tmp_path / "saved.yaml"
    settings(command, "--save-config", path)
    assert {"arch", "batch-per-domain", "crop-min-area", "epsilon"} <= yaml.safe_load(path.read_text()).keys()


def test_file_gives_the_same_trials_as_flags(tiny_data, tmp_path, capsys):
    flags = ["--domains", "tiny-a", "tiny-b", "--batch-per-domain", 8, "--grid", "learning_rate", 1, 2]
    where = ["--data", tiny_data, "--storage", tmp_path / "none", "--dry-run"]
    path = tmp_path / "grid.yml"
    by_flags = planned(capsys, "sweep", "lambda-grid", *flags, *where, "--save-config", path)
    assert len(by_flags) == 1 + 2 * (1 + 2 * 3), "a random encoder, and at two learning rates SimCLR and six pairs of λ"
    assert planned(capsys, "sweep", path, *where) == by_flags
    assert "dry-run" not in yaml.safe_load(path.read_text())


def test_flags_override_a_file(file):
    path = file("""
        sweep: mixtures
        mixtures: [a+b, c+d]
        growing: true
        singles: false
        learning-rate: 1e-3
        seeds: [1, 2]
        grid: {learning_rate: [1, 2], stem: [cifar]}
    """)
    asked = settings("sweep mixtures", path)
    assert (asked.growing, asked.singles, asked.learning_rate, asked.seeds) == (True, False, 0.001, (1, 2))
    assert asked.domains == asked.evaluate == ("a", "b", "c", "d")
    assert asked.grid_axes == {"learning_rate": (1.0, 2.0), "stem": ("cifar",)}
    other = settings("sweep mixtures", path, "--seeds", 0, "--no-growing", "--singles", "--grid", "norm", "group")
    assert (other.growing, other.singles, other.seeds, other.grid) == (False, True, (0,), (("norm", "group"),))
    assert other.learning_rate == 0.001


def test_preset_of_a_file_gives_defaults(file):
    asked = settings("sweep lambda-grid", file("preset: cifar\ndomains: [a, b]\nbatch_per_domain: 32"))
    assert (asked.preset, asked.stem, asked.batch_per_domain) == ("cifar", "cifar", 32)
    asked = settings("train", file("preset: cifar\ndomains: [a, b]"), "--preset", "paper")
    assert (asked.preset, asked.arch, asked.domains) == ("paper", "resnet50", ("a", "b"))


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("sweep lambda-grid", "lamda1: [1]", "unknown key .*'lamda1'.*Did you mean 'lambda1'"),
        ("sweep lambda-grid", "lambda1: 1", r"lambda1 is 1 \(int\); it must be a list of numbers"),
        ("sweep lambda-grid", "lambda1: [1, high]", "lambda1 is .*it must be a list of numbers"),
        ("sweep lambda-grid", "iterations: 80.5", "iterations is 80.5.*must be a whole number"),
        ("sweep lambda-grid", "iterations: yes", "iterations is True.*must be a whole number"),
        ("sweep lambda-grid", "iterations: null", "iterations is None"),
        ("sweep lambda-grid", "max-concurrent: many", "max_concurrent is 'many'.*must be a whole number"),
        ("sweep lambda-grid", "dry-run: 1", "dry_run is 1.*true or false"),
        ("sweep lambda-grid", "optimizer: larz", "Did you mean 'lars'"),
        ("sweep lambda-grid", "seeds: [0]\nseeds: [1]", "key 'seeds' appears 2 times"),
        ("sweep lambda-grid", "dry-run: true\ndry_run: true", "two spellings"),
        ("sweep lambda-grid", "1: 2", "key 1 is not a string"),
        ("sweep lambda-grid", "save-config: x", "unknown key"),
        ("sweep lambda-grid", "grid: {learning_rte: [2]}", "Did you mean 'learning_rate'"),
        ("sweep lambda-grid", "grid: [stem, cifar]", "a list of lists of strings, or in YAML such as"),
        ("sweep lambda-grid", "sweep: mixtures", "is of sweep 'mixtures'"),
        ("sweep paper", "domains: [a]", "unknown key .*'domains'"),
        ("train", "sweep: lambda-grid", "is of sweep 'lambda-grid', not for `mdssl train`"),
        ("train", "data-fingerprint: x", "unknown key"),
        ("train", "[a, b]", "holds no settings"),
        ("train", "", "holds no settings"),
        ("train", "lambda1: [1", "is not YAML"),
        ("sweep", "lambda1: [1]", "does not say which sweep it is of; add `sweep: NAME`"),
        ("sweep", "sweep: lamda-grid", "Did you mean 'lambda-grid'"),
    ],
)
def test_wrong_content_of_a_file_gives_one_message(command, text, message, file, capsys):
    assert main([*command.split(), file(text), "--storage", "none"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert "settings.yaml" in line or "axis" in line


def test_missing_file_is_refused(capsys):
    assert main(["train", "nowhere.yaml"]) == 2
    assert "'nowhere.yaml' does not exist" in capsys.readouterr().err


def test_file_with_other_settings_is_not_overwritten(tmp_path):
    path = tmp_path / "saved.yaml"
    settings("train", "--save-config", path)
    settings("train", "--save-config", path)
    with pytest.raises(ValueError, match="exists and holds other settings"):
        settings("train", "--lambda1", 0.9, "--save-config", path)
    with pytest.raises(ValueError, match=r"is a folder, where no file can be written\. Give another --save-config"):
        settings("train", "--save-config", tmp_path)


@pytest.mark.parametrize("command", SWEEPS)
def test_saved_file_has_flags_in_the_order_of_help(command, tmp_path, capsys):
    path = tmp_path / "saved.yaml"
    settings(command, "--save-config", path)
    assert main([*command.split(), "--help-all"]) == 0
    text = capsys.readouterr().out
    keys = [key for key in yaml.safe_load(path.read_text()) if key not in ("sweep", "experiments")]
    places = [re.search(rf"^  --(no-)?{key}\b(?!-)", text, re.MULTILINE).start() for key in keys]
    assert places == sorted(places)
    assert len(keys) > len(fields(COMMANDS[command][0])) - 15
