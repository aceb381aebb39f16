"""Confusion matrices on the page of a trial."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_board import config, stand_in_for_figures, write_confusion, write_trial

from mdssl.evaluate.confusion import class_scores
from mdssl.report.build import write_report

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes the report of a trial with a matrix; returns page, image as XML tree, and its text."""
    monkeypatch.setitem(sys.modules, "mdssl.figures", stand_in_for_figures())
    storage, output = tmp_path / "results", tmp_path / "report"
    trial_id = write_trial(str(storage), config(), {"svhn": 50.0}, balanced_accuracy=48.25, macro_f1=47.75, top1_sd=0.5)

    def write(matrix: np.ndarray, names: list[str], **more) -> tuple[str, ElementTree.Element, str]:
        write_confusion(str(storage), trial_id, matrix, names, **more)
        write_report(storage, output)
        picture = (output / "trials" / f"{trial_id}-confusion-0.svg").read_text()
        page = Path(output / "trials" / f"{trial_id}.html").read_text()
        return page, ElementTree.fromstring(picture), picture

    return write


def test_the_page_shows_class_scores_and_an_image_for_both_color_schemes(written):
    matrix = np.array([[90, 10, 0], [30, 60, 10], [0, 0, 50]])
    page, tree, text = written(matrix, ["cat", "dog", "<b>ship</b> & co"])
    assert re.search(r'<td class="n">50.0 ± 0.5</td>', page)
    assert all(f'<td class="n">{value}</td>' in page for value in ("48.2", "47.8"))
    scores = class_scores(matrix)
    words = f"Top-1 80.0 %, balanced accuracy {scores.balanced_accuracy:.1f} %, macro-F1 {scores.macro_f1:.1f} %."
    assert page.count(words) == 2, "in the caption and in the alternative text"
    assert "dog as cat 30 % (30 of 100); cat as dog 10 % (10 of 100)" in page
    assert "prefers-color-scheme: dark" in text
    shown = [element.text for element in tree.iter(f"{SVG}text")]
    assert shown.count("cat") == 2 and shown.count("<b>ship</b> & co") == 2
    # Percent of each true class, without zeros.
    assert sorted(word for word in shown if word.isdigit()) == sorted(["90", "10", "30", "60", "10", "100"])


def test_a_matrix_of_100_classes_labels_all_classes_and_fits_the_page(written):
    rng = np.random.default_rng(0)
    matrix = rng.poisson(0.4, (100, 100)) + 50 * np.eye(100, dtype=int)
    names = [f"class {number}" for number in range(100)]
    _, tree, text = written(matrix, names)
    shown = [element.text for element in tree.iter(f"{SVG}text")]
    assert all(shown.count(name) == 2 for name in names)
    assert int(tree.get("width")) < 1100 and len(text) < 100_000
    # The paths contain exactly the nonzero cells.
    cells = sum(path.get("d").count("z") for path in tree.iter(f"{SVG}path"))
    assert cells == (matrix > 0).sum()
    assert min(float(element.get("font-size")) for element in tree.iter(f"{SVG}text")) >= 8


def test_a_large_matrix_shows_the_classes_with_the_most_errors(written):
    matrix = 9 * np.eye(200, dtype=int)
    matrix[150, :] = 1
    page, tree, _ = written(matrix, [f"class {number}" for number in range(200)], seeds=3)
    assert "class 150" in [element.text for element in tree.iter(f"{SVG}text")]
    assert "the 60 of 200 classes with the most errors" in page and "Predictions of 3 seeds together." in page


def test_a_damaged_file_gives_a_note_on_the_page(written, tmp_path):
    written(np.eye(3, dtype=int), ["a", "b", "c"])
    (file,) = (tmp_path / "results" / "trials").glob("*/confusion.json")
    file.write_text('{"format": 1, "scores": [{}]}')
    write_report(tmp_path / "results", tmp_path / "report")
    (page,) = (tmp_path / "report" / "trials").glob("*.html")
    assert "confusion.json is damaged" in page.read_text()
    assert "Confusion matrices" not in page.read_text()
