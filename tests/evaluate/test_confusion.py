"""Class-balanced scores, compared with scikit-learn, and the file of a trial's confusion matrices."""

import json

import numpy as np
import pytest
from sklearn import metrics

from mdssl.evaluate import confusion
from mdssl.evaluate.confusion import class_scores, confusion_matrix, counts_of, matrix_of
from mdssl.storage.location import Location


def labels(seed: int, classes: int = 7, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels of unbalanced classes; some classes have no image or no prediction."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(classes, 0.4))
    true = rng.choice(classes, images, p=shares)
    return true, np.where(rng.random(images) < 0.6, true, rng.choice(classes, images, p=shares[::-1]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(20))
def test_matrix_and_scores_match_scikit_learn(seed):
    true, predicted = labels(seed)
    matrix = confusion_matrix(true, predicted, 7)
    assert (matrix == metrics.confusion_matrix(true, predicted, labels=range(7))).all()
    scores = class_scores(matrix)
    assert scores.balanced_accuracy == pytest.approx(100 * metrics.balanced_accuracy_score(true, predicted))
    assert scores.macro_f1 == pytest.approx(100 * metrics.f1_score(true, predicted, average="macro", zero_division=0))


def entry(probe: str = "lbfgs", seed: int = 0) -> confusion.Confusion:
    counts = counts_of(confusion_matrix(*labels(seed), 7))
    own = {"dataset": "svhn", "features": "encoder", "probe": probe, "fingerprint": "f", "seeds": 1}
    return {**own, "classes": [f"class {number}" for number in range(7)], "counts": counts}


def test_new_matrices_replace_those_of_the_same_probe(tmp_path):
    place = Location.of(tmp_path)
    assert confusion.read(place) == []
    confusion.add(place, [entry("lbfgs", 0), entry("sgd", 1)])
    confusion.add(place, [entry("sgd", 2)])
    found = confusion.read(place)
    assert found == [entry("lbfgs", 0), entry("sgd", 2)]
    assert (matrix_of(found[1]) == confusion_matrix(*labels(2), 7)).all() and matrix_of(found[1]).dtype == np.int64
    # Files of other formats are not read.
    content = json.loads((tmp_path / "confusion.json").read_text())
    (tmp_path / "confusion.json").write_text(json.dumps(content | {"format": content["format"] + 1}))
    assert content["format"] == 1 and confusion.read(place) == []


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace('"true":[', '"true":[99,')])
def test_a_damaged_file_is_refused_and_then_replaced_by_a_new_file(tmp_path, damage):
    place, file = Location.of(tmp_path), tmp_path / "confusion.json"
    confusion.add(place, [entry()])
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=r"confusion.json is damaged .*scores in the leaderboard are whole"):
        confusion.read(place)
    confusion.add(place, [entry("sgd")])
    assert [found["probe"] for found in json.loads(file.read_text())["scores"]] == ["sgd"]
