"""The commands stop, retry and tag, and what all commands on single trials share. Without Ray."""

import json
import os
from pathlib import Path

import pytest
from control_parts import A, B, C, add, files, run
from factories import failed, row
from status_parts import begin, config, gone

from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.checkpoint import latest_step
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.trials import control, removal


def test_commands_require_either_trials_or_where(board, capsys):
    for words in (["stop"], ["delete"], ["retry", A, "--where", "seed=0"], ["archive"]):
        assert run(*words, "--storage", board) == 2
        assert capsys.readouterr().err.startswith(
            "error: give trials (ids, their first digits, best or last) or --where"
        )


def test_conditions_find_trials_with_and_without_rows(board, capsys):
    folder = add(board, "aaaa00000000", [], "stopped", lambda2=0.7)
    (folder / "training.json").unlink()
    for where, expected in (
        (["lambda2=0.7"], {"aaaa00000000"}),
        (["status=stopped"], {"aaaa00000000", B}),
        (["status=failed,finished", "lambda2>0.1"], {C}),
        (["sweep=other"], {B}),
    ):
        assert run("tag", "--add", "t", "--storage", board, "--where", *where) == 0
        assert {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()} == expected
    assert run("tag", "--add", "t", "--storage", board, "--where", "lambda2>9") == 2
    assert "no trial of" in capsys.readouterr().err
    with Claim(Location.of(folder), "mine") as claim:
        claim.take()
        assert run("tag", "--add", "t", "--storage", board, "--where", "sweep=mine", "status=training") == 0
        assert capsys.readouterr().out == "aaaa00000000: t\n"


def test_a_status_that_no_trial_has_is_nothing_to_do_and_no_typo(storage, capsys):
    add(storage, A, [row("svhn")])
    for command, status in (("retry", "failed"), ("stop", "training"), ("delete", "evaluating,stopped")):
        assert run(command, "--storage", storage, "--where", f"status={status}") == 2
        said = capsys.readouterr().err
        assert f"no trial of {storage} meets status={status}; there is nothing to do" in said
    for words in (["retry", "--where", "status=faild"], ["leaderboard", "--where", "status=failed"]):
        assert run(*words, "--storage", storage) == 2
        assert capsys.readouterr().err.endswith("; there are: finished.\n")


def test_retry_deletes_failures_and_stops_and_keeps_scores(board, capsys):
    write_rows(
        board, A, [*read_rows(board, A), failed() | {"eval_dataset": "stl10", "config_json": "{}", "probe": "sgd"}]
    )
    assert run("retry", A, B, C, "--storage", board) == 0
    said = capsys.readouterr().out.splitlines()
    assert "scores its encoder" in said[0] and all("continues from its checkpoint" in line for line in said[1:])
    assert {each["status"] for each in read_rows(board, A)} == {"finished"}
    assert len(read_rows(board, A)) == 2
    assert read_rows(board, B) == read_rows(board, C) == []
    assert [(Path(board) / "trials" / name / "training.json").exists() for name in (A, B, C)] == [True, False, False]
    assert latest_step(Location.of(board) / "trials" / B / "checkpoints") == 6
    capsys.readouterr()
    assert run("retry", A, "--storage", board) == 0
    assert "neither stopped nor failed" in capsys.readouterr().out


@pytest.mark.parametrize("meanwhile", [False, True])
@pytest.mark.parametrize("command", ["retry", "delete", "archive", "clean"])
def test_commands_do_not_change_claimed_trials_and_name_the_owner(board, capsys, command, meanwhile, monkeypatch):
    before = files(board)
    if meanwhile:
        # The trial is claimed after the check of all trials.
        for module in (control, removal):
            monkeypatch.setattr(module, "check_free", lambda storage, chosen: None)
    with Claim(Location.of(board) / "trials" / A, "my sweep") as claim:
        claim.take()
        flags = ["--yes"] * (command in ("delete", "clean"))
        code = run(command, A, *([B] * (command != "clean")), *flags, "--storage", board)
        said = capsys.readouterr()
    assert files(board) == before
    if command == "clean":
        assert (code, f"left out, as a process works on them: {A}" in said.out) == (0, True)
    else:
        assert code == 2
        by = f"by {claim.owner.host}:{os.getpid()} (my sweep)"
        assert (f"{A} has been claimed {by} meanwhile" if meanwhile else f"{A} {by}. Nothing was changed") in said.err


@pytest.mark.parametrize(("seconds_ago", "pid", "code"), [(40.0, None, 2), (75.0, None, 0), (0.0, gone, 0)])
def test_commands_change_trials_of_processes_that_died_or_are_silent_for_a_minute(storage, seconds_ago, pid, code):
    """The claims are of processes on another machine, and of one on this machine that has ended."""
    begin(Location.of(storage), config(), seconds_ago=seconds_ago, pid=pid and pid())
    assert run("retry", config().trial_id, "--storage", storage) == code
    assert Path(storage, "trials", config().trial_id, "claim.json").exists() == (code == 2)


def test_tags_and_notes_are_shown_and_can_be_filtered(board, capsys):
    assert run("tag", A, "012399", "--add", "good", "b.2", "--note", "look <here>", "--storage", board) == 0
    assert run("tag", B, "--remove", "good", "--note", "", "--storage", board) == 0
    capsys.readouterr()
    for where, expected in (
        (["tags=good"], {A}),
        (["tags=b.2"], {A, B}),
        (["tags!=good"], {B, C}),
        (["note=null"], {B, C}),
    ):
        flags = ["--where", *where, "--columns", "trial_id", "tags", "note", "--format", "json"]
        assert run("leaderboard", "--storage", board, *flags) == 0
        found = json.loads(capsys.readouterr().out)
        assert {each["trial_id"] for each in found} == expected
        assert {each["tags"] for each in found if each["trial_id"] == A} <= {"b.2 good"}
    assert run("leaderboard", "--storage", board, "--where", "tags=goood") == 2
    assert "no row has tags 'goood'. Did you mean 'good'? There are: b.2, good." in capsys.readouterr().err
    assert run("leaderboard", "--storage", board) == 0
    assert "look <here>" in capsys.readouterr().out
    assert run("report", "--storage", board, "--output", Path(board).parent / "report") == 0
    page = (Path(board).parent / "report" / "trials" / f"{A}.html").read_text()
    assert "look &lt;here&gt;" in page and "<code>good</code>" in page
    for words in (["--add", "two words"], ["--add", ""], [], ["--add", "a", "--remove", "a"]):
        before = files(board)
        assert run("tag", A, *words, "--storage", board) == 2
        assert files(board) == before
