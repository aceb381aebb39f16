"""Messages of an interrupted command, and of one without a permission."""

import os
import signal

import pytest

from mdssl.cli import main as command_line
from mdssl.cli.parse import command as as_command


def sigterm(settings):
    os.kill(os.getpid(), signal.SIGTERM)


def ctrl_c(settings):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("interrupt", "word", "code"), [(sigterm, "terminated", 143), (ctrl_c, "interrupted", 130)])
@pytest.mark.parametrize(
    ("command", "more"),
    [("status", ""), ("leaderboard", ""), ("train", "; the same command resumes from what was saved")],
)
def test_message_says_how_to_resume_if_progress_is_saved(monkeypatch, capsys, interrupt, word, code, command, more):
    before = signal.getsignal(signal.SIGTERM)
    settings_class, _ = command_line.COMMANDS[command]
    monkeypatch.setitem(command_line.COMMANDS, command, (settings_class, interrupt))
    interrupt.__doc__ = "Interrupted."
    assert command_line.main([command]) == code
    assert capsys.readouterr().err == f"\n{word}{more}.\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_message_of_a_permission_error_has_only_the_path(capsys):
    def refuse(argv):
        raise PermissionError(13, "Permission denied", "/somewhere/file")

    assert as_command(refuse)([]) == 2
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: '/somewhere/file'\n"
