"""The log of a trial: what is recorded of its processes, and how it is printed."""

import re
import subprocess
import sys

import pytest

from mdssl.cli.main import main
from mdssl.storage.location import Location
from mdssl.storage.trial_log import kept_log, print_log, read

TRIAL = "0123456789ab"
TALKS = """
import logging, sys, warnings
from mdssl.storage.location import Location
from mdssl.storage.trial_log import kept_log

class Shown(logging.Handler):  # as that of Ray Train's workers
    def emit(self, record):
        sys.stderr.write(record.getMessage() + "\\n")

logging.basicConfig(level=logging.DEBUG, handlers=[Shown()])
print("before it")
with kept_log(Location.of(sys.argv[1]), "train"):
    print("a print", "of two words")
    logging.getLogger("mdssl.somewhere").info("an info of ours")
    logging.getLogger("another").info("an info of others")
    warnings.warn("a warning")
    print("half a line", end="")
print("after it")
"""


@pytest.fixture
def trial_dir(tmp_path):
    return Location.of(tmp_path) / "trials" / TRIAL


def test_prints_warnings_and_log_lines_are_recorded_and_still_shown(trial_dir):
    ended = subprocess.run([sys.executable, "-c", TALKS, trial_dir.uri], capture_output=True, text=True, check=True)
    kept = read(trial_dir)
    for text in ("a print of two words", "an info of ours", "UserWarning: a warning", "half a line"):
        assert text in kept
    assert kept.count("an info of ours") == 1
    assert "an info of others" in ended.stderr
    for text in ("of others", "before it", "after it"):
        assert text not in kept
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z train@.+:\d+ ", kept)
    assert ended.stdout == "before it\na print of two words\nhalf a lineafter it\n"
    assert "a warning" in ended.stderr


def test_error_is_recorded_with_its_traceback_and_raised(trial_dir):
    def deep_inside():
        raise ZeroDivisionError("no such number")

    with pytest.raises(ZeroDivisionError), kept_log(trial_dir, "train", errors_only=True):
        print("what the second worker prints")
        deep_inside()
    kept = read(trial_dir)
    assert "in deep_inside" in kept and "ZeroDivisionError: no such number" in kept
    assert "second worker" not in kept


def test_empty_log_has_no_file(trial_dir):
    with kept_log(trial_dir, "train"):
        pass
    assert not trial_dir.exists()


def test_log_of_several_processes_is_in_chronological_order(trial_dir):
    with kept_log(trial_dir, "trial"):
        print("the driver begins")
        code = (
            "import sys; from mdssl.storage.location import Location; from mdssl.storage.trial_log import kept_log\n"
            "with kept_log(Location.of(sys.argv[1]), 'train'): print('the worker trains')"
        )
        subprocess.run([sys.executable, "-c", code, trial_dir.uri], check=True)
        print("the driver ends")
    with kept_log(trial_dir, "trial"):
        print("it starts again")
    said = [line.partition(" PRINT ")[2] for line in read(trial_dir).splitlines()]
    assert said == ["the driver begins", "the worker trains", "the driver ends", "it starts again"]
    assert len((trial_dir / "logs").names()) == 3


def test_progress_bar_is_one_line(trial_dir):
    with kept_log(trial_dir, "train"):
        for percent in (0, 50, 100):
            print(f"\r{percent} %", end="")
        print()
    assert read(trial_dir).count("%") == 1
    assert "100 %" in read(trial_dir)


def test_incomplete_entry_is_not_printed(trial_dir, capsys):
    entry = "2026-01-01T00:00:00.000Z train@h:1 INFO"
    (trial_dir / "logs" / "a.txt").write_bytes(f"{entry} whole\n{entry} cut o".encode())
    print_log(trial_dir.parent.parent, TRIAL)
    assert capsys.readouterr().out == f"{entry} whole\n"


def test_control_characters_in_a_log_are_escaped(trial_dir, capsys):
    (trial_dir / "logs" / "a.txt").write_bytes(b"2026-01-01T00:00:00.000Z train@h:1 PRINT \x1b[2Jgone\n")
    print_log(trial_dir.parent.parent, TRIAL)
    assert capsys.readouterr().out == "2026-01-01T00:00:00.000Z train@h:1 PRINT \\x1b[2Jgone\n"


@pytest.mark.parametrize(("trial_id", "message"), [(TRIAL, "There are: none."), ("../..", "'../..' is not a trial id")])
def test_trial_without_a_log_is_refused(trial_id, message, tmp_path, capsys):
    assert main(["log", trial_id, "--storage", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
