"""Files that a report writes, keeps and removes in its folder."""

import json
from pathlib import Path

import pytest
from report_board import (
    config,
    write_trial,
)

from mdssl.leaderboard.board import file_of, read
from mdssl.report import build
from mdssl.report.build import write_report


def files_in(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_an_unchanged_report_is_not_written_again(small):
    storage, output = small
    assert write_report(storage, output).written > 5
    before = files_in(output)
    assert write_report(storage, output).written == 0
    after = files_in(output)
    # Only the record of written files may change.
    assert {name for name in after if after[name] != before[name]} <= {"report.json"}


def test_only_changed_figures_and_pages_are_written_again(small, figures):
    storage, output = small
    # A second trial of the method, so that the third trial does not change the usual settings.
    write_trial(storage, config(seed=1), {"cifar10": 50.0, "svhn": 40.0})
    write_report(storage, output)
    assert sorted(figures.drawn) == sorted(f"{name}.svg" for name in _drawn(storage))
    figures.drawn.clear()
    before = files_in(output)
    new = write_trial(storage, config(lambda2=0.4), {"cifar10": 51.0, "svhn": 41.0})
    write_report(storage, output)
    assert sorted(figures.drawn) == [f"{new}-loss-terms.svg", "lambda-curves.svg"]
    changed = {name for name, at in files_in(output).items() if before.get(name) != at}
    # The page of the new trial, the page of the previous trial, and the index.
    assert f"trials/{new}.html" in changed and len([name for name in changed if name.endswith(".html")]) == 3
    assert "ledger.csv" not in changed


def _drawn(storage: str) -> list[str]:
    return ["lambda-curves", *(f"{trial_id}-loss-terms" for trial_id in read(storage)["trial_id"].unique())]


def test_pages_and_figures_of_deleted_trials_are_removed(small):
    storage, output = small
    gone = write_trial(storage, config(lambda2=0.4), {"svhn": 41.0})
    write_report(storage, output)
    (output / "trials" / "notes.txt").write_text("mine")
    file_of(storage, gone).delete()
    assert write_report(storage, output).removed == 2
    assert not [name for name in files_in(output) if gone in name]
    assert (output / "trials" / "notes.txt").exists()


def test_an_interrupted_report_is_resumed(small, figures, monkeypatch):
    storage, output = small

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "ledger", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(storage, output)
    figures.drawn.clear()
    write_report(storage, output)
    assert figures.drawn == []
    assert (output / "index.html").exists()


def test_deleted_files_are_written_again(small, figures):
    storage, output = small
    write_report(storage, output)
    before = set(files_in(output))
    for name in (
        "index.html",
        "figures/lambda-curves.svg",
        *(f"trials/{f.name}" for f in (output / "trials").iterdir()),
    ):
        (output / name).unlink()
    write_report(storage, output)
    assert set(files_in(output)) == before


@pytest.mark.parametrize("content", ["index.html", "report.json"])
def test_a_folder_with_other_files_is_refused_and_left_unchanged(small, content):
    storage, output = small
    output.mkdir()
    (output / content).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"contains {content}, which mdssl did not write as a report.*--output"):
        write_report(storage, output)
    assert list(files_in(output)) == [content]
    assert (output / content).read_text() == '{"mine": 1}'


def test_a_wrong_storage_does_not_change_an_earlier_report(storage, tmp_path, figures):
    output = tmp_path / "report"
    write_trial(storage, config(), {"svhn": 40.0})
    write_report(storage, output)
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="has no leaderboard and no trials.*--storage"):
        write_report(tmp_path / "resluts", output)
    write_trial(tmp_path / "others", config(seed=1), {"svhn": 40.0})
    with pytest.raises(ValueError, match=r"contains the report of .*results, not of .*others.*--output"):
        write_report(tmp_path / "others", output)
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before


def test_storage_and_report_can_be_in_a_bucket(bucket, figures):
    storage, output = f"{bucket}/results", f"{bucket}/report"
    write_trial(storage, config(), {"svhn": 40.0})
    written = write_report(storage, output)
    assert b"Sweeps in results" in written.index.read_bytes()
    assert write_report(storage, output).written == 0


def test_files_of_the_user_in_a_report_are_kept(small):
    storage, output = small
    write_report(storage, output)
    mine = ("figures/mine.svg", "trials/0123456789ab.html", "notes.md", ".git/HEAD")
    for name in mine:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("mine")
    file_of(storage, sorted(read(storage)["trial_id"])[0]).delete()
    assert write_report(storage, output).removed
    assert {name for name in mine if (output / name).read_text() == "mine"} == set(mine)


def test_a_page_of_the_user_is_not_replaced(small, figures):
    storage, output = small
    (output / "figures").mkdir(parents=True)
    (output / "report.json").write_text(json.dumps({"made_by": "mdssl report", "storage": storage}))
    (output / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"index\.html exists, and mdssl did not write it"):
        write_report(storage, output)
    assert (output / "index.html").read_text() == "mine"


def test_a_folder_with_only_hidden_files_is_refused(small):
    storage, output = small
    (output / ".git").mkdir(parents=True)
    (output / ".git/HEAD").write_text("mine")
    with pytest.raises(ValueError, match=r"contains \.git/HEAD, which mdssl did not write as a report"):
        write_report(storage, output)
