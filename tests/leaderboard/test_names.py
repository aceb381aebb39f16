"""Every view marks the name of a dataset that is a part or a variant of the published dataset."""

import io
import json
import sys

import pandas as pd
import pytest
from factories import UNTRAINED, row
from report_board import config, rows_of, stand_in_for_figures
from rich.console import Console

from mdssl import figures
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.leaderboard.names import plain_name
from mdssl.paper.published import side_by_side
from mdssl.report.build import write_report
from mdssl.tables.printing import print_leaderboard, print_one_table
from mdssl.tables.render import FORMATS, to_bytes
from mdssl.tables.view import view

PART = {"num_train": 4_434}
SVHN = "svhn (4,434 of 73,257)"


def produced_by(**said: object) -> str:
    """The ``config_json`` of rows that record what their datasets are."""
    evaluation = {"variant": said.pop("variant", ""), "image_size": 32, "majority_top1": 10.0, "data_fingerprint": "x"}
    return json.dumps({"evaluation": evaluation, "recipe_version": 1, "trial": {}, **said}, sort_keys=True)


@pytest.fixture
def old(storage) -> str:
    """Two trials on cifar10 and a part of svhn, and an untrained encoder. Rows record only numbers of images."""
    for number, own in enumerate(({"lambda2": 0.0}, {"lambda2": 0.1}, UNTRAINED)):
        rows = [row("cifar10", top1=60.0 + number, **own), row("svhn", top1=50.0 - number, **own | PART)]
        write_rows(storage, f"{number:012x}", rows)
    return storage


def test_with_settings_marks_names_once_and_rows_keep_plain_names(old):
    raw = read(old)
    assert set(raw["eval_dataset"]) == {"cifar10", "svhn"}
    rows = with_settings(raw)
    assert set(rows["eval_dataset"]) == {"cifar10", SVHN}
    assert set(rows["train_mixture"]) == {f"cifar10+{SVHN}", ""}
    pd.testing.assert_frame_equal(with_settings(rows), rows)
    assert [plain_name(name) for name in rows["eval_dataset"]] == list(raw["eval_dataset"])


def test_recorded_variants_take_precedence_over_numbers_of_images(storage):
    said = produced_by(variants={"cifar10": "64×64 pixels"}, variant="other pixels")
    write_rows(storage, "0" * 12, [row("svhn", config_json=said)])
    rows = with_settings(read(storage))
    assert rows["eval_dataset"].tolist() == ["svhn (other pixels)"]
    assert rows["train_mixture"].tolist() == ["cifar10 (64×64 pixels)+svhn"]


def test_a_part_and_the_whole_dataset_have_separate_columns(old):
    write_rows(old, "a" * 12, [row("cifar10", seed=1), row("svhn", seed=1)])
    frame = view(with_settings(read(old))).frame
    assert {"svhn", SVHN} <= set(frame)
    assert frame.set_index("trial_id")["svhn"].notna().tolist() == [name == "a" * 12 for name in frame["trial_id"]]


@pytest.mark.parametrize("name", FORMATS)
def test_every_table_format_shows_the_marked_name(old, name):
    data = to_bytes(view(with_settings(read(old))), name)
    text = " ".join(pd.read_parquet(io.BytesIO(data))) if name == "parquet" else data.decode()
    assert SVHN.split()[-1] in text and "(4,434" in text


def test_the_leaderboard_command_accepts_plain_and_marked_names(old):
    for asked in ("svhn", SVHN):
        out = io.StringIO()
        print_leaderboard(old, evaluate=[asked], console=Console(file=out, width=200))
        assert f"cifar10+{SVHN}: top-1" in out.getvalue()
        assert "(4,434" in out.getvalue() and "60.0" not in out.getvalue()


@pytest.mark.parametrize("condition", ["eval_dataset=svhn", f"eval_dataset={SVHN}", f"train_mixture=cifar10+{SVHN}"])
def test_conditions_accept_plain_and_marked_names(old, condition, capsys):
    asked = {"columns": ("trial_id", "eval_dataset", "top1"), "format": None, "output": None}
    print_one_table(old, choice={}, where=[condition], **asked)
    assert "4,434 of 73,257" in " ".join(capsys.readouterr().out.split())


def test_figure_titles_and_alternative_texts_show_the_marked_name(old):
    entries = figures.gallery(read(old)).entries
    of_svhn = [entry for entry in entries if SVHN in entry.title]
    assert {"lambda-heatmap", "lambda-curves"} <= {entry.figure for entry in of_svhn}
    heat = next(entry for entry in entries if entry.title.startswith(f"Top-1 on {SVHN}"))
    assert f"top-1 on {SVHN} from" in heat.alt
    title = heat.draw().axes[0].get_title(loc="left")
    assert SVHN in title.replace("\n", " ")


def test_report_pages_show_marked_names_and_commands_use_plain_names(storage, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())
    rows = rows_of(config(), {"cifar10": 60.0}) + rows_of(config(), {"svhn": 50.0}, **PART)
    write_rows(storage, config().trial_id, rows)
    write_report(storage, str(tmp_path / "report"))
    page = (tmp_path / "report" / "index.html").read_text()
    assert f">{SVHN}<" in page.replace("<wbr>", "")
    assert ">svhn</th>" not in page.split('id="ledger"')[0]
    own = (tmp_path / "report" / "trials" / f"{config().trial_id}.html").read_text()
    assert f"mdssl on cifar10 + {SVHN}" in own and f">{SVHN}<" in own
    assert "--domains cifar10 svhn<" in own and "--evaluate cifar10 svhn" in own
    assert SVHN in (tmp_path / "report" / "leaderboard.csv").read_text()


def test_only_scores_on_whole_datasets_are_compared_with_published_numbers(old):
    simclr = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0, "train_mixture": "cifar10", "num_domains": 1}
    write_rows(old, "b" * 12, [row("svhn", top1=55.0, **simclr | PART), row("cifar10", top1=91.0, **simclr)])
    table = side_by_side(read(old), "table1").set_index(["method", "train_mixture", "eval_dataset"])
    part, whole = table.loc[("simclr", "cifar10", "svhn")], table.loc[("simclr", "cifar10", "cifar10")]
    assert (part["ours"], part["status"]) == (55.0, f"other data: {SVHN}") and pd.isna(part["difference"])
    assert (whole["status"], whole["difference"]) == ("ours", pytest.approx(91.0 - whole["published"]))
    # A score on the whole dataset replaces the score on the part.
    write_rows(old, "c" * 12, [row("svhn", top1=44.0, seed=1, **simclr)])
    table = side_by_side(read(old), "table1").set_index(["method", "train_mixture", "eval_dataset"])
    assert table.loc[("simclr", "cifar10", "svhn")][["ours", "status"]].tolist() == [44.0, "ours"]
