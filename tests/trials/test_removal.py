"""The commands delete, archive and clean."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from control_parts import A, B, C, add, files, run
from factories import row, tiny_trial

from mdssl.leaderboard.board import read
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.notes import read_notes
from mdssl.storage.trial_dir import TRIAL
from mdssl.trials import removal


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
