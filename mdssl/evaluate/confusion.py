"""Confusion matrices: the scores that follow from one, and the file ``confusion.json`` of a trial.

Read without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np

from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import CONFUSION

_FORMAT = 1


class ClassScores(NamedTuple):
    """Scores that weigh classes equally, in percent.

    Attributes:
        balanced_accuracy: mean recall of the classes that have test images.
        macro_f1: mean F1 of the classes that have test images or predictions.
    """

    balanced_accuracy: float
    macro_f1: float


class Counts(TypedDict):
    """The entries of a matrix that are not 0, by row: the true class, the predicted class, and the test images."""

    true: list[int]
    predicted: list[int]
    images: list[int]


class Confusion(TypedDict):
    """One score's confusion matrix in ``confusion.json``.

    Attributes:
        features, probe: the layer and the probe, as in the leaderboard.
        fingerprint: of the images of the dataset, as in a row's ``config_json``.
        classes: names.
        seeds: number of fits whose predictions are counted, each on all test images.
    """

    dataset: str
    features: str
    probe: str
    fingerprint: str
    classes: list[str]
    seeds: int
    counts: Counts


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64 numbers of test images by true class, in rows, and predicted class.

    Args:
        true, predicted: (N,) classes in [0, C).
    """
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(matrix: np.ndarray) -> ClassScores:
    """Compute the scores of a (C, C) confusion matrix, as scikit-learn's balanced_accuracy_score and f1_score do."""
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    recall = right[true > 0] / true[true > 0]
    counted = true + predicted > 0
    f1 = 2 * right[counted] / (true + predicted)[counted]
    return ClassScores(100 * float(recall.mean()), 100 * float(f1.mean()))


def counts_of(matrix: np.ndarray) -> Counts:
    """Return the entries of ``matrix`` that are not 0."""
    true, predicted = np.nonzero(matrix)
    return {"true": true.tolist(), "predicted": predicted.tolist(), "images": matrix[true, predicted].tolist()}


def matrix_of(confusion: Confusion) -> np.ndarray:
    """Return the (C, C) int64 matrix of an entry of ``confusion.json``."""
    counts, size = confusion["counts"], len(confusion["classes"])
    matrix = np.zeros((size, size), dtype=np.int64)
    matrix[counts["true"], counts["predicted"]] = counts["images"]
    return matrix


def read(trial_dir: Location) -> list[Confusion]:
    """Read the confusion matrices of a trial; empty if it has none.

    Raises:
        ValueError: the file is damaged.
    """
    file = trial_dir / CONFUSION
    try:
        content = json.loads(file.read_bytes())
        found: list[Confusion] = content["scores"] if content["format"] == _FORMAT else []
        for confusion in found:
            matrix_of(confusion)
        return found
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{file} is damaged ({type(error).__name__}: {error}). Delete it; the scores in the leaderboard are whole."
        ) from error


def add(trial_dir: Location, new: Sequence[Confusion]) -> None:
    """Add matrices to the file of a trial, or replace those of the same dataset, layer and probe, in one write."""

    def key(confusion: Confusion) -> tuple[str, str, str]:
        return confusion["dataset"], confusion["features"], confusion["probe"]

    try:
        before = read(trial_dir)
    except InputError:
        before = []
    scores = {key(confusion): confusion for confusion in (*before, *new)}
    content: dict[str, Any] = {"format": _FORMAT, "scores": list(scores.values())}
    (trial_dir / CONFUSION).write_bytes(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())
