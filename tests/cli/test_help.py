"""Help: groups, metavars, defaults and the width of the terminal; completion in shells."""

import re
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from mdssl.cli.flags import flags_of
from mdssl.cli.main import COMMANDS, main

GROUPS = ("grid", "data", "training", "probe", "search", "where it runs", "output")
LARGE = ["train", *(name for name in COMMANDS if name.startswith("sweep "))]


@pytest.fixture
def helped(capsys, monkeypatch):
    def text(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(list(words)) == 0
        return capsys.readouterr().out

    return text


@pytest.mark.parametrize("columns", [50, 80, 137])
@pytest.mark.parametrize("command", ["", "data", "sweep", *COMMANDS])
def test_help_fits_the_width_of_the_terminal(command, columns, helped):
    for flag in ("--help", "--help-all"):
        lines = helped(*command.split(), flag, columns=columns).splitlines()
        # A name that is longer than the line is not broken.
        assert not [line for line in lines if len(line) > columns and len(line.split()) > 1]
        assert columns == 50 or max(map(len, lines)) > 0.8 * min(columns, 80)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_short_and_has_a_metavar_for_each_value(command, helped):
    text = helped(*command.split(), "--help")
    assert len(text.splitlines()) < 100
    assert not re.search(r"None|STR|INT|FLOAT|\(default: \)|MISSING", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_flag_and_help_all_describes_it(command, helped):
    short, full = helped(*command.split(), "--help"), helped(*command.split(), "--help-all", columns=5000)
    for name, flag in flags_of(COMMANDS[command][0]).items():
        written = (
            rf"\[?{flag.metavar.strip('[]').split(' ')[0]}"
            if flag.positional
            else rf"--(no-)?{name.replace('_', '-')}\b"
        )
        assert re.search(written, short), name
        assert flag.text
        assert flag.text in full


def test_help_has_all_settings():
    hidden = {"data_fingerprint", "weights", "weights_fingerprint", "normalization", "init_fingerprint"}
    settings = COMMANDS["train"][0]
    assert {field.name for field in fields(settings)} - hidden == flags_of(settings).keys() - {"save_config"}


@pytest.mark.parametrize("command", LARGE)
def test_large_commands_show_groups(command, helped):
    groups = re.findall(r"^(\w[\w ]*):$", helped(*command.split(), "--help"), re.MULTILINE)
    groups = [group for group in groups if group not in ("Examples", "clustered methods", "trial")]
    wanted = [group for group in GROUPS if command != "train" or group not in ("grid", "probe", "search")]
    assert groups == wanted


def test_defaults_are_those_of_the_preset(helped):
    assert re.search(r"--iterations N .*\(default: 80\)", helped("train", "--help"))
    assert re.search(r"--iterations N .*\(default: 48000\)", helped("train", "--preset", "paper", "--help"))
    assert re.search(r"--lambda2 X \.\.\. .*\(default: 0 0.1 0.2\)", helped("sweep", "lambda-grid", "-h", columns=120))


def test_long_example_is_wrapped_with_backslashes(helped):
    text = helped("sweep", "search", "--help", columns=60)
    command = re.search(r"mdssl sweep search --preset(?:.*\\\n)+.*", text)[0]
    assert "--range temperature 0.05 0.5 log --trials 60" in " ".join(command.replace("\\\n", " ").split())


def test_help_does_not_import_torch_ray_or_pandas():
    code = (
        "import sys; from mdssl.cli.main import main; main(['sweep', 'paper', '--help']); main([]); "
        "assert not {'torch', 'ray', 'pandas', 'pyarrow', 'yaml'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_commands_flags_and_choices(capsys, tmp_path):
    assert main(["--print-completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        code = 'source "$1"; shift; COMP_CWORD=$(($# - 1)); COMP_WORDS=("$@"); _tyro_mdssl; echo "${COMPREPLY[@]}"'
        run = subprocess.run(["bash", "-c", code, "-", script, "mdssl", *words], capture_output=True, text=True)
        return run.stdout.split()

    assert completed("sw") == ["sweep"]
    assert completed("sweep", "l") == ["lambda-grid"]
    assert completed("sweep", "mixtures", "--lam") == ["--lambda1", "--lambda2"]
    assert completed("train", "--sampling", "b") == ["balanced"]


def test_completion_for_an_unknown_shell_is_refused(capsys):
    assert main(["--print-completion", "fish"]) == 2
    assert "unknown shell 'fish'; allowed: bash, zsh, tcsh" in capsys.readouterr().err
    assert main(["--print-completion"]) == 2
    assert "takes one shell" in capsys.readouterr().err
