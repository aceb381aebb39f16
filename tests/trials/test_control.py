"""Commands for single trials: stop, retry, tag, delete, archive and clean. Without Ray."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from factories import failed, row, stopped, tiny_trial
from status_parts import begin, config, gone

from mdssl.cli.main import main
from mdssl.leaderboard.board import read, read_rows, write_rows
from mdssl.pretrain.checkpoint import latest_step
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.notes import read_notes
from mdssl.storage.trial_dir import TRIAL
from mdssl.trials import control, removal

A, B, C = "0123456789ab", "01239999ffff", "fedcba987654"


def files(storage: str | Path, *but: str) -> set[str]:
    """All files, also hidden files, except those in the folders ``but``."""
    found = (str(file.relative_to(storage)) for file in Path(storage).rglob("*") if file.is_file())
    return {name for name in found if not name.startswith(but)}


def add(storage: str, trial_id: str, rows: list[dict], status: str = "finished", **of_config) -> Path:
    """Add a trial with rows and a folder with the files of a trained trial."""
    config = tiny_trial(**of_config).to_dict()
    if rows:
        text = json.dumps({"trial": config, "evaluation": {"data_fingerprint": "x"}})
        write_rows(
            storage, trial_id, [{**each, "config_json": text, "finished_at": each["started_at"]} for each in rows]
        )
    folder = Path(storage) / "trials" / trial_id
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training.json").write_text(
        json.dumps(
            {"status": status, "step": 2, "iterations": 6, "error": "e", "finished_at": "2026-11-02T10:00:00+00:00"}
        )
    )
    (folder / "encoder.safetensors").write_bytes(bytes(3 << 20))
    (folder / "checkpoints" / "step-00000006.safetensors").write_bytes(bytes(5 << 20))
    return folder


@pytest.fixture
def board(storage):
    """A finished, a stopped and a failed trial."""
    add(storage, A, [row("svhn", lambda2=0.1), row("cifar10", lambda2=0.1)])
    add(storage, B, [stopped("svhn", lambda2=0.2, sweep="other")], "stopped")
    add(storage, C, [failed(lambda2=0.3)], "failed")
    return storage


def run(*words: object) -> int:
    return main([str(word) for word in words])


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


def test_delete_asks_first_prints_the_size_and_keeps_files_of_the_user(board, capsys, monkeypatch):
    before = files(board)
    (Path(board) / "trials" / A / "mine.txt").write_text("mine")
    run("tag", A, B, "--add", "good", "--note", "x", "--storage", board)
    capsys.readouterr()
    (Path(board) / ".ray" / f"mdssl-{A}").mkdir(parents=True)
    (Path(board) / ".ray" / f"mdssl-{A}" / "record").touch()
    assert run("delete", A, "--storage", board, "--dry-run") == 0
    assert f"would delete 1 trial(s) with their rows, 8.0 MB: {A} in" in capsys.readouterr().out
    assert run("delete", A, A[:-1] + "c", "--yes", "--storage", board) == 2
    assert f"Did you mean {A}" in capsys.readouterr().err
    assert run("delete", A, "--storage", board) == 2
    assert "there is no terminal to ask at: add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run("delete", A, "--storage", board) == 0
    assert before <= files(board)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run("delete", A, "--storage", board) == 0
    assert "as mdssl did not write it: mine.txt\ndeleted 1 trial(s)" in capsys.readouterr().out
    assert files(board, "notes") == {name for name in before if A not in name} | {f"trials/{A}/mine.txt"}
    assert read_notes(Location.of(board)).keys() == {B}
    assert run("delete", B, C, "--yes", "--storage", board) == 0
    assert capsys.readouterr().out.startswith("deleted 2 trial(s)"), "nothing is left"
    assert os.listdir(Path(board) / "trials") == [A]
    assert run("tag", A, "--note", "n", "--storage", board) == 0
    assert capsys.readouterr().out.endswith(f"{A}: no tags; n\n")


def test_archive_hides_a_trial_and_undo_restores_it(board, capsys):
    run("tag", A, "--add", "good", "--note", "a note", "--storage", board)
    shown, before = read(board), files(board, "notes")
    assert run("archive", "--undo", A, "--storage", board) == 2
    assert f"nothing is archived in {board}" in capsys.readouterr().err
    assert run("archive", A, B, "--storage", board) == 0
    assert f"; back with `mdssl archive --undo {A} {B} --storage {board}`\n" in capsys.readouterr().out
    assert set(read(board)["trial_id"]) == {C}
    assert set(read(f"{board}/archive")["trial_id"]) == {A, B}
    assert os.listdir(Path(board) / "trials") == [C]
    assert read_notes(Location.of(board)) == {}
    assert removal.in_archive(Location.of(board), [B, A, C]) == [A, B]
    with Claim(Location.of(board) / "trials" / A, "a sweep") as claim:
        claim.take()
        assert run("archive", "--undo", A, "--storage", board) == 2
        assert "(a sweep). Nothing was changed" in capsys.readouterr().err
    assert removal.in_archive(Location.of(board), [B, A, C]) == [A, B]
    assert run("tag", A, "--remove", "x", "--storage", f"{board}/archive") == 0
    assert capsys.readouterr().out == f"{A}: good; a note\n"
    add(board, B, [row()])
    assert removal.in_archive(Location.of(board), [A, B]) == [A]
    assert run("archive", "--undo", A, B, "--storage", board) == 2
    assert f"{B}: {board} has a trial of the same id already. Nothing was moved." in capsys.readouterr().err
    assert run("delete", B, "--yes", "--storage", board) == 0
    marker = Path(board) / "trials" / B / TRIAL.marker
    marker.parent.mkdir()
    marker.write_text("{}")
    assert run("archive", "--undo", A, B, "--storage", board) == 2
    assert f"{B}: {board} has a trial of the same id already. Nothing was moved." in capsys.readouterr().err
    shutil.rmtree(marker.parent)
    assert run("archive", "--undo", A, B, "--storage", board) == 0
    assert files(board, "notes", "archive/notes") == before
    assert read(board).equals(shown)
    assert run("leaderboard", "--storage", board, "--where", "tags=good") == 0
    assert "a note" in capsys.readouterr().out


@pytest.mark.parametrize("moves", range(5))
def test_the_same_command_completes_an_interrupted_archive(board, monkeypatch, moves):
    """The folder has four files; the rows are moved last."""
    before, moved, move = files(board), [], Location.move

    def move_some(place, target):
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(place)
        move(place, target)

    monkeypatch.setattr(Location, "move", move_some)
    assert run("archive", A, "--storage", board) == 130
    assert (f"trials/{A}/config.json" in files(board)) == (moves < 4), "it is found until all else has been moved"
    monkeypatch.setattr(Location, "move", move)
    assert run("archive", A, "--storage", board) == 0
    assert files(board) == {f"archive/{name}" if A in name else name for name in before}


def test_clean_deletes_only_unneeded_files(board, capsys):
    before = files(board)
    wsd = tiny_trial(schedule="wsd")
    add(board, "aaaa00000000", [], "stopped", schedule="wsd")
    add(board, "bbbb00000000", [], "finished")
    kept = files(board)
    left = [
        *(f"stable/{name}/step-00000004.safetensors" for name in (wsd.stable_id, "0" * 12)),
        f"trials/{A}/.metrics.parquet.0123abcd.tmp",
        "trials/bbbb00000000/.metrics.parquet.0123abcd.tmp",
        f".ray/mdssl-{A}/record",
    ]
    for name in left:
        (Path(board) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(board) / name).write_bytes(bytes(1 << 20))
    assert run("clean", "--storage", board, "--dry-run") == 0
    said = capsys.readouterr().out
    for line in ("5.0 MB  checkpoints of finished trials (1)", "2.0 MB  temporary files", "would delete these 9.0 MB"):
        assert line in said
    assert kept < files(board)
    assert run("clean", A, "--storage", board, "--dry-run") == 0
    assert "would delete these 7.0 MB" in capsys.readouterr().out, "shared checkpoints are of no chosen trial"
    assert run("clean", "--storage", board, "--yes") == 0
    gone = {f"trials/{A}/checkpoints/step-00000006.safetensors"}
    assert files(board) == (before | kept | {left[0]}) - gone
    capsys.readouterr()
    assert run("clean", "--storage", board) == 0
    assert capsys.readouterr().out == f"{board}: nothing to clean\n"


@pytest.mark.parametrize("count", [19, 20])
def test_a_progress_bar_is_shown_on_stderr_for_20_trials_or_more(storage, count, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    trial_ids = [f"{number:012x}" for number in range(count)]
    for trial_id in trial_ids:
        add(storage, trial_id, [])
    capsys.readouterr()
    assert run("delete", *trial_ids, "--storage", storage, "--yes") == 0
    said = capsys.readouterr()
    assert ("deleting" in said.err) == (count == 20)
    assert said.err.endswith("\x1b[2K") == (count == 20), "the bar is erased at the end"
    assert "deleting" not in said.out and not files(storage)


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
