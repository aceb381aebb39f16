import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest
from report_board import (
    HOSTILE,
    config,
    rows_of,
    write_board,
    write_failed,
    write_trial,
)
from scipy import stats

from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.report import build
from mdssl.report.answer import answers
from mdssl.report.build import watch_report, write_report
from mdssl.report.overview import best_scores, trial_table
from mdssl.report.trial import usual_settings

VOID = {"meta", "link", "img", "input", "br", "wbr"}


class Page(HTMLParser):
    """A parsed page: elements with their attributes, text, unclosed elements, and end tags that match no start."""

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
def reported(tmp_path_factory, figures) -> tuple[str, Path]:
    """A storage that has a trial with hostile names and a hostile error, and its report."""
    folder = tmp_path_factory.mktemp("reported")
    storage = str(folder / "results")
    write_board(storage)
    write_trial(storage, config(lambda2=0.3), {"<b>x</b>": 5.0, "svhn": 9.0}, sweep='"><script>1</script>')
    write_report(storage, folder / "report")
    return storage, folder / "report"


@pytest.fixture(scope="module")
def parsed(reported) -> list[Page]:
    return [Page(file) for file in sorted(reported[1].rglob("*.html"))]


def test_the_report_has_an_index_and_a_page_per_trial(reported, parsed):
    storage, folder = reported
    trial_ids = set(read(storage)["trial_id"])
    assert {page.file.stem for page in parsed} == trial_ids | {"index"}
    index = next(page for page in parsed if page.file.stem == "index")
    assert {f"trials/{trial_id}.html" for trial_id in trial_ids} <= set(index.values("href"))
    assert len(pd.read_csv(folder / "leaderboard.csv")) == len(read(storage))
    assert {"verdict", "published", "ours", "seeds"} <= set(pd.read_csv(folder / "ledger.csv"))


def test_pages_are_well_formed_and_load_no_external_resources(parsed):
    for page in parsed:
        assert not page.open and not page.wrong, page.file
        assert not [id for id, count in Counter(page.values("id")).items() if count > 1]
        assert not [value for value in page.values("src") + page.values("href") if re.match("(https?:)?//", value)]
        assert not page.values("style") and not [name for name in page.values("onclick")]
        assert page.values("lang", "html") == ["en"]
        (policy,) = [found["content"] for tag, found in page.elements if found.get("http-equiv")]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_links_point_to_existing_files_and_anchors(parsed):
    ids = {page.file.resolve(): set(page.values("id")) for page in parsed}
    for page in parsed:
        for link in page.values("href", "a") + page.values("src", "img"):
            path, anchor = urldefrag(link)
            target = (page.file.parent / unquote(path)).resolve() if path else page.file.resolve()
            assert target.is_file(), f"{page.file}: {link}"
            assert not anchor or anchor in ids[target], f"{page.file}: {link}"


def test_images_have_alternative_text_and_size(parsed):
    images = [found for page in parsed for tag, found in page.elements if tag == "img"]
    assert len(images) > len(parsed) - 5
    assert all(len(image["alt"]) > 10 and int(image["width"]) and int(image["height"]) for image in images)


def test_user_text_is_escaped(parsed):
    for page in parsed:
        scripts = [found.get("type") for tag, found in page.elements if tag == "script"]
        assert scripts == (["application/json", None] if page.file.stem == "index" else [])
        assert "b" not in {tag for tag, _ in page.elements} or page.file.stem == "index"
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.file.read_text(encoding="utf-8"))
    everything = "".join(page.text for page in parsed)
    assert '<script>alert("x")</script>\\x1b[2J\\u202egnp.exe' in everything
    assert "<b>x</b>" in everything
    assert '"><script>1</script>' in everything


def test_long_errors_are_collapsed_but_complete(reported, parsed):
    failed = next(page for page in parsed if "Failed: the loss is nan" in page.text)
    assert "details" in {tag for tag, _ in failed.elements}
    assert failed.text.count('File "<b>", line 1') == HOSTILE.count("line 1")


def test_trial_pages_link_to_the_previous_and_next_trial_of_the_table(parsed):
    index = next(page for page in parsed if page.file.stem == "index")
    order = [row.removeprefix("trial-") for row in index.values("id", "tr")]
    pages = {page.file.stem: page for page in parsed}
    for before, after in itertools.pairwise(order):
        assert f"{after}.html" in pages[before].values("href", "a")
        assert f"{before}.html" in pages[after].values("href", "a")


def test_unusual_settings_are_marked(storage, tmp_path, figures):
    for lambda2 in (0.0, 0.1, 0.2):
        odd = write_trial(storage, config(lambda2=lambda2, weight_decay=1e-4 if lambda2 == 0.2 else 1e-6), {"svhn": 5})
    write_report(storage, tmp_path / "report")
    text = Page(tmp_path / "report" / "trials" / f"{odd}.html").text
    assert re.search(r"weight decay\s*0\.0001\s+usually 1e-06", text)
    assert "usually resnet18" not in text


def test_damaged_metrics_give_a_note_on_the_page(small):
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


def test_a_watched_report_is_rewritten_until_it_is_interrupted(small, monkeypatch):
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


def test_the_report_of_a_sweep_without_rows_states_that_the_leaderboard_is_empty(storage, tmp_path, figures):
    (Path(storage) / "trials" / "0" / "config.json").parent.mkdir(parents=True)
    write_report(storage, tmp_path / "report")
    assert "This leaderboard is empty" in Page(tmp_path / "report" / "index.html").text


def test_usual_settings_are_those_of_more_than_half_of_the_trials():
    trials = [config(lambda2=weight).to_dict() for weight in (0.0, 0.0, 0.05, 0.1, 0.2)]
    trials[4]["lambda1"], trials[4]["domains"] = 0.5, ["svhn"]
    usual = usual_settings(trials)
    assert usual == {"lambda1": trials[0]["lambda1"], "domains": trials[0]["domains"]}


def test_the_report_states_limitations_of_the_scores(storage, tmp_path, figures):
    write_trial(storage, config(domains=["builtin-shapes"]), {"builtin-shapes": 40.0}, git_commit="abc-dirty")
    write_failed(storage, config())
    write_report(storage, tmp_path / "report")
    text = Page(tmp_path / "report" / "index.html").text
    assert "One seed" in text
    assert "builtin-shapes: synthetic images" in text
    assert "1 trial failed" in text
    assert "uncommitted changes" in text


def test_scores_are_shown_with_standard_error_and_chance_level(storage, tmp_path, figures):
    rows = rows_of(config(), {"mine": 70.0}, num_classes=2, num_test=240)
    for row in rows:
        said = json.loads(row["config_json"])
        said["evaluation"]["majority_top1"] = 62.5
        row["config_json"] = json.dumps(said, sort_keys=True)
    rows += rows_of(config(), {"others": 50.0}, num_classes=4, num_test=10_000)
    write_rows(storage, config().trial_id, rows)
    write_report(storage, tmp_path / "report")
    # The standard deviation of a binomial proportion, computed by scipy.
    errors = [100 * stats.binom.std(n, share) / n for n, share in ((240, 0.7), (10_000, 0.5))]
    page = Page(tmp_path / "report" / "index.html")
    small = f"{errors[0]:.1f} on mine (240 test images)"
    assert f"in points: {small} and {errors[1]:.1f} on others (10,000 test images)" in page.text
    best = {line.eval_dataset: line for line in best_scores(with_settings(read(storage)))}
    assert (best["mine"].chance, best["mine"].majority) == (50.0, 62.5)
    assert best["others"].chance == 25.0 and pd.isna(best["others"].majority)


def test_best_scores_are_on_the_latest_images_and_by_one_probe(storage):
    rows = []
    for number, (top1, images, probe) in enumerate(
        [(80.0, "old", "lbfgs"), (51.0, "new", "lbfgs"), (48.0, "new", "lbfgs"), (78.0, "new", "finetune")]
    ):
        one = rows_of(config(lambda2=number / 10), {"mine": top1}, probe=probe, finished_at=f"2026-11-0{number + 1}")
        said = json.loads(one[0]["config_json"])
        said["evaluation"]["data_fingerprint"] = images
        rows += [one[0] | {"config_json": json.dumps(said)}]
    for row in rows:
        write_rows(storage, row["trial_id"], [row])
    best = best_scores(with_settings(read(storage)))
    assert [(one.row["probe"], one.row["top1"], one.trials) for one in best] == [
        ("finetune", 78.0, 1),
        ("lbfgs", 51.0, 2),
    ]


def test_whole_numbers_are_written_in_full(storage):
    for seed in (20240101, 20240102):
        write_trial(storage, config(seed=seed, iterations=1_234_567 + seed % 2), {"svhn": 40.0}, curves=False)
    columns = {column.name: column.choices for column in trial_table(with_settings(read(storage))).columns}
    assert columns["seed"] == ["20240101", "20240102"] and columns["iterations"] == ["1234567", "1234568"]


def test_the_best_of_each_column_is_bold_for_each_probe(storage):
    rows = rows_of(config(), {"svhn": 40.0}) + rows_of(config(), {"svhn": 44.0}, probe="finetune")
    write_rows(storage, config().trial_id, rows)
    table = trial_table(with_settings(read(storage)))
    place = [column.name for column in table.columns].index("svhn")
    assert sorted(row.cells[place] for row in table.rows) == [("40.0", True), ("44.0", True)]


def test_the_best_trial_is_selected_by_validation_score(small):
    storage, folder = small
    write_report(storage, folder)
    text = Page(folder / "index.html").text
    assert "No trial has a validation score" in text and "Best setting" not in text
    assert "Best scores are selected on the test split and therefore optimistic" in text
    # The trial with the higher test scores has the lower validation score.
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


def test_scores_by_two_probes_are_two_rows_of_one_trial(storage, tmp_path, figures):
    trial = config()
    rows = rows_of(trial, {"svhn": 40.0}) + rows_of(trial, {"svhn": 44.0}, probe="sgd-raw")
    write_rows(storage, trial.trial_id, rows)
    write_report(storage, tmp_path / "report")
    index = Page(tmp_path / "report" / "index.html")
    assert index.values("id", "tr") == [f"trial-{trial.trial_id}", f"trial-{trial.trial_id}-2"]
    assert {"40.0", "44.0", "lbfgs", "sgd-raw"} <= set(index.text.split())
