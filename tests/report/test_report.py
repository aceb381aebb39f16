import itertools
import json
import os
import re
import shlex
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest
from report_board import (
    HOSTILE,
    SMALL,
    config,
    rows_of,
    stand_in_for_figures,
    write_board,
    write_failed,
    write_trial,
)
from scipy import stats

from mdssl.cli.parse import parse
from mdssl.cli.trials import Probe, Train
from mdssl.config.presets import PRESETS
from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import file_of, read, with_settings, write_rows
from mdssl.leaderboard.columns import SCHEMA
from mdssl.paper.ledger import ledger
from mdssl.report import build
from mdssl.report.answer import answers
from mdssl.report.build import watch_report, write_report
from mdssl.report.overview import best_scores, trial_table
from mdssl.report.trial import reproduce_commands, usual_settings
from mdssl.tables.repeat import train_command

VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """A page as a browser takes it: its elements with their attributes, its text, and what was never closed."""

    def __init__(self, file: Path):
        super().__init__()
        self.file, self.elements, self.open, self.text, self.wrong = file, [], [], "", []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data + " "

    def values(self, attribute, *tags):
        return [found[attribute] for tag, found in self.elements if attribute in found and (not tags or tag in tags)]


@pytest.fixture(scope="module")
def figures():
    """A stand-in for `mdssl.figures`, and for the ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setitem(sys.modules, "mdssl.figures", module := stand_in_for_figures())
        # None of these boards has a model of the paper's, and finding that out each time takes a while.
        nothing = ledger(pd.DataFrame(columns=SCHEMA.names))
        patch.setattr(build, "ledger", lambda rows: nothing)
        yield module


@pytest.fixture(scope="module")
def reported(tmp_path_factory, figures) -> tuple[str, Path]:
    """A storage, with a trial whose names and error are hostile, and its report."""
    folder = tmp_path_factory.mktemp("reported")
    storage = str(folder / "results")
    write_board(storage)
    write_trial(storage, config(lambda2=0.3), {"<b>x</b>": 5.0, "svhn": 9.0}, sweep='"><script>1</script>')
    write_report(storage, folder / "report")
    return storage, folder / "report"


@pytest.fixture(scope="module")
def parsed(reported) -> list[Page]:
    return [Page(file) for file in sorted(reported[1].rglob("*.html"))]


@pytest.fixture
def small(storage, tmp_path, figures) -> tuple[str, Path]:
    """A storage with two trials, and where its report shall be."""
    write_trial(storage, config(), {"cifar10": 50.0, "svhn": 40.0})
    write_trial(storage, config(method="simclr"), {"cifar10": 45.0, "svhn": 44.0})
    figures.drawn.clear()
    return storage, tmp_path / "report"


def files_in(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_there_is_a_page_for_all_trials_and_one_for_each(reported, parsed):
    storage, folder = reported
    trial_ids = set(read(storage)["trial_id"])
    assert {page.file.stem for page in parsed} == trial_ids | {"index"}
    index = next(page for page in parsed if page.file.stem == "index")
    assert {f"trials/{trial_id}.html" for trial_id in trial_ids} <= set(index.values("href"))
    assert len(pd.read_csv(folder / "leaderboard.csv")) == len(read(storage))
    assert {"verdict", "published", "ours", "seeds"} <= set(pd.read_csv(folder / "ledger.csv"))


def test_every_page_is_well_formed_and_loads_nothing_from_elsewhere(parsed):
    for page in parsed:
        assert not page.open and not page.wrong, page.file
        assert not [id for id, count in Counter(page.values("id")).items() if count > 1]
        assert not [value for value in page.values("src") + page.values("href") if re.match("(https?:)?//", value)]
        assert not page.values("style") and not [name for name in page.values("onclick")]
        assert page.values("lang", "html") == ["en"]
        (policy,) = [found["content"] for tag, found in page.elements if found.get("http-equiv")]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_every_link_leads_to_what_is_there(parsed):
    ids = {page.file.resolve(): set(page.values("id")) for page in parsed}
    for page in parsed:
        for link in page.values("href", "a") + page.values("src", "img"):
            path, anchor = urldefrag(link)
            target = (page.file.parent / unquote(path)).resolve() if path else page.file.resolve()
            assert target.is_file(), f"{page.file}: {link}"
            assert not anchor or anchor in ids[target], f"{page.file}: {link}"


def test_every_picture_says_in_words_what_it_shows(parsed):
    images = [found for page in parsed for tag, found in page.elements if tag == "img"]
    assert len(images) > len(parsed) - 5
    assert all(len(image["alt"]) > 10 and int(image["width"]) and int(image["height"]) for image in images)


def test_text_of_others_is_text_and_no_more(parsed):
    for page in parsed:
        scripts = [found.get("type") for tag, found in page.elements if tag == "script"]
        assert scripts == (["application/json", None] if page.file.stem == "index" else [])
        assert "b" not in {tag for tag, _ in page.elements} or page.file.stem == "index"
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.file.read_text(encoding="utf-8"))
    everything = "".join(page.text for page in parsed)
    assert '<script>alert("x")</script>\\x1b[2J\\u202egnp.exe' in everything
    assert "<b>x</b>" in everything
    assert '"><script>1</script>' in everything


def test_a_long_error_is_folded_and_whole(reported, parsed):
    failed = next(page for page in parsed if "Failed: the loss is nan" in page.text)
    assert "details" in {tag for tag, _ in failed.elements}
    assert failed.text.count('File "<b>", line 1') == HOSTILE.count("line 1")


def test_a_page_leads_to_the_one_before_and_the_one_after_in_the_order_of_the_table(parsed):
    index = next(page for page in parsed if page.file.stem == "index")
    order = [row.removeprefix("trial-") for row in index.values("id", "tr")]
    pages = {page.file.stem: page for page in parsed}
    for before, after in itertools.pairwise(order):
        assert f"{after}.html" in pages[before].values("href", "a")
        assert f"{before}.html" in pages[after].values("href", "a")


def test_settings_that_others_do_not_have_are_marked(storage, tmp_path, figures):
    for lambda2 in (0.0, 0.1, 0.2):
        odd = write_trial(storage, config(lambda2=lambda2, weight_decay=1e-4 if lambda2 == 0.2 else 1e-6), {"svhn": 5})
    write_report(storage, tmp_path / "report")
    text = Page(tmp_path / "report" / "trials" / f"{odd}.html").text
    assert re.search(r"weight decay\s*0\.0001\s+usually 1e-06", text)
    assert "usually resnet18" not in text


def test_nothing_is_written_where_nothing_has_changed(small):
    storage, output = small
    assert write_report(storage, output).written > 5
    before = files_in(output)
    assert write_report(storage, output).written == 0
    after = files_in(output)
    # It remembers; that is all.
    assert {name for name in after if after[name] != before[name]} <= {"report.json"}


def test_only_what_changed_is_drawn_and_written_again(small, figures):
    storage, output = small
    # A second one of its method, so that the third does not change what is usual.
    write_trial(storage, config(seed=1), {"cifar10": 50.0, "svhn": 40.0})
    write_report(storage, output)
    assert sorted(figures.drawn) == sorted(f"{name}.svg" for name in _drawn(storage))
    figures.drawn.clear()
    before = files_in(output)
    new = write_trial(storage, config(lambda2=0.4), {"cifar10": 51.0, "svhn": 41.0})
    write_report(storage, output)
    assert sorted(figures.drawn) == [f"{new}-loss-terms.svg", "lambda-curves.svg"]
    changed = {name for name, at in files_in(output).items() if before.get(name) != at}
    # The new page, that of the trial before it, and what is about all.
    assert f"trials/{new}.html" in changed and len([name for name in changed if name.endswith(".html")]) == 3
    assert "ledger.csv" not in changed


def _drawn(storage: str) -> list[str]:
    return ["lambda-curves", *(f"{trial_id}-loss-terms" for trial_id in read(storage)["trial_id"].unique())]


def test_pages_and_pictures_of_trials_that_are_gone_go_as_well(small):
    storage, output = small
    gone = write_trial(storage, config(lambda2=0.4), {"svhn": 41.0})
    write_report(storage, output)
    (output / "trials" / "notes.txt").write_text("mine")
    file_of(storage, gone).delete()
    assert write_report(storage, output).removed == 2
    assert not [name for name in files_in(output) if gone in name]
    assert (output / "trials" / "notes.txt").exists()


def test_an_interrupted_report_goes_on(small, figures, monkeypatch):
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


def test_a_file_that_somebody_deleted_is_written_again(small, figures):
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
def test_a_folder_that_is_no_report_is_left_alone(small, content):
    storage, output = small
    output.mkdir()
    (output / content).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"contains {content}, which mdssl did not write as a report.*--output"):
        write_report(storage, output)
    assert list(files_in(output)) == [content]
    assert (output / content).read_text() == '{"mine": 1}'


def test_damaged_curves_are_one_page_with_a_word_about_it(small):
    storage, output = small
    (trial_id, *_) = read(storage)["trial_id"]
    (Path(storage) / "trials" / trial_id / "metrics.parquet").write_bytes(b"PAR1 no PAR1")
    write_report(storage, output)
    assert "cannot be drawn" in Page(output / "trials" / f"{trial_id}.html").text


@pytest.mark.parametrize("spelling", ["neighbors", "neighbours"], ids=["now", "in older trials"])
def test_nearest_neighbors_are_shown_and_described(small, spelling):
    storage, output = small
    (trial_id, *_) = read(storage)["trial_id"]
    folder = Path(storage) / "trials" / trial_id
    (folder / f"{spelling}.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (400).to_bytes(4, "big") + bytes([0, 0, 1, 0])
    )
    near = [{"dataset": "svhn", "class": "7", "similarity": 0.914}]
    row = {"dataset": "cifar10", "class": "cat", spelling: near}
    (folder / f"{spelling}.json").write_text(json.dumps({"in_words": ["Neighbors: 90% svhn."], "rows": [row]}))
    write_report(storage, output)
    page = Page(output / "trials" / f"{trial_id}.html")
    (image,) = [found for tag, found in page.elements if tag == "img" and "neighbors" in found["src"]]
    assert image["alt"].endswith("cat of cifar10: 7 of svhn (0.91).")
    assert (image["width"], image["height"]) == ("400", "256")
    assert "Neighbors: 90% svhn." in page.text


def test_a_watched_report_renews_itself_until_it_is_no_longer_watched(small, monkeypatch):
    storage, output = small
    rounds = iter([None, KeyboardInterrupt])
    seen = []

    def sleep(seconds):
        seen.append((output / "index.html").read_text())
        if stop := next(rounds):
            raise stop
        write_trial(storage, config(lambda2=0.4), {"cifar10": 51.0, "svhn": 41.0})

    monkeypatch.setattr(build.time, "sleep", sleep)
    watch_report(storage, output, say=lambda line: None)
    assert all(f'data-renew="{build.WATCH_SECONDS}"' in page for page in seen)
    assert len(seen) == 2 and seen[0] != seen[1]
    assert "data-renew=" not in (output / "index.html").read_text()


def test_a_sweep_without_a_row_yet_is_a_page_that_says_what_fills_it(storage, tmp_path, figures):
    (Path(storage) / "trials" / "0" / "config.json").parent.mkdir(parents=True)
    write_report(storage, tmp_path / "report")
    assert "This leaderboard is empty" in Page(tmp_path / "report" / "index.html").text


def test_a_storage_that_is_mistyped_leaves_an_earlier_report_as_it_is(storage, tmp_path, figures):
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


def test_what_is_usual_is_what_more_than_half_have():
    trials = [config(lambda2=weight).to_dict() for weight in (0.0, 0.0, 0.05, 0.1, 0.2)]
    trials[4]["lambda1"], trials[4]["domains"] = 0.5, ["svhn"]
    usual = usual_settings(trials)
    assert usual == {"lambda1": trials[0]["lambda1"], "domains": trials[0]["domains"]}


def test_it_says_what_the_numbers_cannot_tell(storage, tmp_path, figures):
    write_trial(storage, config(domains=["builtin-shapes"]), {"builtin-shapes": 40.0}, git_commit="abc-dirty")
    write_failed(storage, config())
    write_report(storage, tmp_path / "report")
    text = Page(tmp_path / "report" / "index.html").text
    assert "One seed" in text
    assert "builtin-shapes: synthetic images" in text
    assert "1 trial failed" in text
    assert "uncommitted changes" in text


def test_scores_stand_beside_their_error_by_test_size_and_beside_what_guessing_scores(storage, tmp_path, figures):
    rows = rows_of(config(), {"mine": 70.0}, num_classes=2, num_test=240)
    for row in rows:
        said = json.loads(row["config_json"])
        said["evaluation"]["majority_top1"] = 62.5
        row["config_json"] = json.dumps(said, sort_keys=True)
    rows += rows_of(config(), {"others": 50.0}, num_classes=4, num_test=10_000)
    write_rows(storage, config().trial_id, rows)
    write_report(storage, tmp_path / "report")
    # As scipy has it: the deviation of a share of successes.
    errors = [100 * stats.binom.std(n, share) / n for n, share in ((240, 0.7), (10_000, 0.5))]
    page = Page(tmp_path / "report" / "index.html")
    small = f"{errors[0]:.1f} on mine (240 test images)"
    assert f"in points: {small} and {errors[1]:.1f} on others (10,000 test images)" in page.text
    best = {line.eval_dataset: line for line in best_scores(with_settings(read(storage)))}
    assert (best["mine"].chance, best["mine"].majority) == (50.0, 62.5)
    assert best["others"].chance == 25.0 and pd.isna(best["others"].majority)


def test_the_best_trial_is_selected_by_validation_score_and_its_test_scores_stand_beside(small):
    storage, folder = small
    write_report(storage, folder)
    text = Page(folder / "index.html").text
    assert "No trial has a validation score" in text and "Best setting" not in text
    assert "Best scores are selected on the test split and therefore optimistic" in text
    # The better one on the test split, of which nothing is held out, is the worse one here.
    for trial, val in ((config(), 30.0), (config(lambda2=0.3), 60.0)):
        write_trial(storage, trial, {"cifar10": 50.0 - val / 10, "svhn": 40.0}, val_top1=val)
    write_report(storage, folder)
    page = Page(folder / "index.html")
    rows = with_settings(read(storage))
    (only,) = answers(rows, trial_table(rows).frame)
    assert (only.trial_ids, only.val, only.settings) == ([config(lambda2=0.3).trial_id], 60.0, 2)
    assert only.scores == {"cifar10": 44.0, "svhn": 40.0}
    text = " ".join(page.text.split())
    assert "No trial has a validation score" not in text and "Best setting: MDSSL, λ1 = 1, λ2 = 0.3" in text
    assert "cifar10 44.0, svhn 40.0" in text
    assert {"val"} <= set(page.values("data-column", "th"))


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "simclr"},
        {"lambda1": 0.9, "lambda2": 0.15, "temperature": 0.2, "seed": 3},
        {"method": "mdssl-clustered", "num_clusters": 3, "warmup_iterations": 5, "cluster_normalised": False},
        {"method": "mdssl-robust", "num_clusters": 3, "warmup_iterations": 5, "outlier_rule": "runner-up"},
        {"method": "mdssl-robust", "num_clusters": 2, "warmup_iterations": 5, "epsilon": 0.5},
        {"method": "random", "domains": (), "seed": 1},
        {"domains": ["two words", "svhn"], "weight_decay": 3.5e-7, "norm": "group", "precision": "bf16"},
        {"arch": "resnet50", "batching": "per-domain", "iterations": 48_000, "learning_rate": 4.0},
    ],
)
def test_the_command_of_a_trial_gives_the_same_trial(changes, preset):
    trial = config(**changes)
    words = shlex.split(train_command(json.loads(json.dumps(trial.to_dict())), preset))
    assert words[:2] == ["mdssl", "train"]
    settings = parse(Train, prog="mdssl train", description="", argv=words[2:])
    values = {name: getattr(settings, name) for name in TrialConfig.__dataclass_fields__}
    assert TrialConfig(**values | {"data_fingerprint": trial.data_fingerprint}).trial_id == trial.trial_id


def test_the_command_names_only_what_the_preset_does_not_say():
    quick = TrialConfig(**{k: v for k, v in PRESETS["quick"].items() if k in SMALL or k == "domains"}, precision="fp32")
    command = train_command(quick.to_dict() | {"lambda2": 0.1, "learning_rate": 1.5, "crop_min_area": 0.5}, "quick")
    assert command == "mdssl train --precision fp32 --lambda2 0.1"


def test_the_commands_of_scores_ask_for_the_same_scores():
    trial = config()
    of_sgd = json.loads(rows_of(trial, {"svhn": 5})[0]["config_json"])
    of_sgd["evaluation"] |= {"probe": "sgd", "probe_learning_rate": 0.3, "probe_epochs": 30}  # before sgd-raw
    of_scaled_sgd = json.loads(rows_of(trial, {"svhn": 5})[0]["config_json"])
    of_scaled_sgd["evaluation"] |= {
        "probe": "sgd",
        "probe_learning_rate": None,
        "probe_batch": 256,
        "standardized": True,
    }
    rows = rows_of(trial, {"svhn": 5, "cifar10": 6}) + rows_of(trial, {"stl10": 7}, config_json=json.dumps(of_sgd))
    rows += rows_of(trial, {"dtd": 8}, config_json=json.dumps(of_scaled_sgd))
    rows = [row | {"preset": "quick", "num_workers": 2} for row in rows]
    training, lbfgs, sgd, scaled_sgd = reproduce_commands(rows, of_sgd)
    assert training.startswith("torchrun --nproc-per-node 2 -m mdssl train ")
    assert lbfgs == f"mdssl probe {trial.trial_id} --evaluate svhn cifar10"
    settings = parse(Probe, prog="mdssl probe", description="", argv=shlex.split(sgd)[2:])
    assert (settings.trial_id, settings.evaluate) == (trial.trial_id, ("stl10",))
    assert settings.name == "sgd-raw(learning_rate=0.3,epochs=30)"
    settings = parse(Probe, prog="mdssl probe", description="", argv=shlex.split(scaled_sgd)[2:])
    assert settings.name == "sgd(standardized)"


def test_scores_by_two_probes_are_two_rows_of_one_trial(storage, tmp_path, figures):
    trial = config()
    rows = rows_of(trial, {"svhn": 40.0}) + rows_of(trial, {"svhn": 44.0}, probe="sgd-raw")
    write_rows(storage, trial.trial_id, rows)
    write_report(storage, tmp_path / "report")
    index = Page(tmp_path / "report" / "index.html")
    assert index.values("id", "tr") == [f"trial-{trial.trial_id}", f"trial-{trial.trial_id}-2"]
    assert {"40.0", "44.0", "lbfgs", "sgd-raw"} <= set(index.text.split())


def test_a_report_goes_to_a_bucket_and_comes_from_one(bucket, figures):
    storage, output = f"{bucket}/results", f"{bucket}/report"
    write_trial(storage, config(), {"svhn": 40.0})
    written = write_report(storage, output)
    assert b"Sweeps in results" in written.index.read_bytes()
    assert write_report(storage, output).written == 0


def test_what_others_put_into_a_report_stays(small):
    storage, output = small
    write_report(storage, output)
    mine = ("figures/mine.svg", "trials/0123456789ab.html", "notes.md", ".git/HEAD")
    for name in mine:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("mine")
    file_of(storage, sorted(read(storage)["trial_id"])[0]).delete()
    assert write_report(storage, output).removed
    assert {name for name in mine if (output / name).read_text() == "mine"} == set(mine)


def test_a_figure_of_somebody_else_is_not_replaced(small, figures):
    storage, output = small
    (output / "figures").mkdir(parents=True)
    (output / "report.json").write_text(json.dumps({"made_by": "mdssl report", "storage": storage}))
    (output / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"index\.html exists, and mdssl did not write it"):
        write_report(storage, output)
    assert (output / "index.html").read_text() == "mine"


def test_a_folder_with_nothing_but_hidden_files_is_not_taken(small):
    storage, output = small
    (output / ".git").mkdir(parents=True)
    (output / ".git/HEAD").write_text("mine")
    with pytest.raises(ValueError, match=r"contains \.git/HEAD, which mdssl did not write as a report"):
        write_report(storage, output)
