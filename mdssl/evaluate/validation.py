"""Validation scores on held-out training images, by which settings are chosen and trials are stopped early.

They do not use test images or labels, so test scores are of images that influenced no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import VALIDATION_FIT, VALIDATION_SCORED
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.errors import InputError
from mdssl.evaluate.classifier import Classifier, Parts, score, standardization
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.sampling import stratified_rows

RIDGE = 0.1
"""Penalty of the linear score per image to fit on. Features have unit variance."""
_SHARE = 5
"""At most one of this number of images is held out."""
_LEAST = 10
"""The smallest number of held-out images for a meaningful score."""


class Validation:
    """``validation(model)`` is the linear score of the held-out images, percent, by dataset.

    It leaves modes, weights and random states as they are. All models are compared on the same images.

    Args:
        data: folder of prepared datasets.
        datasets: names of those to score on.
        device: where features are computed.

    Attributes:
        fingerprints: of the images of each dataset, as in rows of the leaderboard.

    Raises:
        InputError: a dataset is not prepared, or cannot give a validation score.
    """

    def __init__(self, data: str | Path, datasets: Sequence[str], *, device: str | torch.device):
        self.device = device
        self._datasets = [open_dataset(data, name) for name in datasets]
        for dataset in self._datasets:
            check_validatable(dataset)
        self.fingerprints = {dataset.name: dataset.evaluation_fingerprint for dataset in self._datasets}
        self._rows = {dataset.name: held_out(dataset) for dataset in self._datasets}

    def __call__(self, model: Any) -> dict[str, float]:
        """Scores of a `mdssl.pretrain.model.Model`, by dataset. Raise ``InputError`` if features are not finite."""
        return {dataset.name: self._score(model, dataset) for dataset in self._datasets}

    def _score(self, model: Any, dataset: Dataset) -> float:
        fit, held = self._rows[dataset.name]
        fit, train = fit[:VALIDATION_FIT], dataset.split("train")
        rows = np.concatenate([fit, held])
        x = extract_features(model, train.images[rows], device=self.device, input_size=model.input_size)["encoder"]
        y = torch.from_numpy(train.labels[rows]).to(x.device)
        size = len(fit)
        return validation_linear(Parts(x[:size], y[:size], x[size:], y[size:], len(dataset.classes)))


def held_out(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Split the train split: rows to fit on, in random order, and up to `VALIDATION_SCORED` held-out rows for a score.

    They depend on the images and labels alone. Both parts have each class in proportion, as far as it has images: at
    least one in each part of a class with two. With more classes than held-out rows, some classes have none held out.
    The first rows to fit on are a sample of the same kind.
    """
    train = dataset.split("train")
    most = min(VALIDATION_SCORED, len(train.labels) // _SHARE)
    held = stratified_rows(train.labels, most, key=train.fingerprint, spare=1)
    rest = np.setdiff1d(np.arange(len(train.labels)), held)
    return rest[stratified_rows(train.labels[rest], len(rest), key=train.fingerprint)], np.sort(held)


def check_validatable(dataset: Dataset) -> None:
    """Raise ``InputError`` unless ``dataset`` can give a validation score."""
    labels = np.asarray(dataset.split("train").labels) if dataset.classes else np.array([], np.int64)
    classes = int((np.bincount(labels) > 1).sum())
    if classes < 2 or len(labels) < _SHARE * _LEAST:
        raise InputError(
            f"dataset {dataset.name!r} has {len(labels)} labelled training images, and {classes} classes with two or "
            f"more; a validation score holds out a part of them, and needs {_SHARE * _LEAST} images and 2 such "
            "classes. Prepare it with more images, or leave it out of --evaluate; a search, a scheduler and "
            "--score-every need the score."
        )


def is_validatable(dataset: Dataset) -> bool:
    """Whether ``dataset`` passes `check_validatable`."""
    try:
        check_validatable(dataset)
    except InputError:
        return False
    return True


def validation_linear(parts: Parts) -> float:
    """Compute top-1 of the held-out part, percent, by ridge regression on the first `VALIDATION_FIT` images to fit on.

    The fit has a closed form, so it costs little while a trial trains. docs/search.md has its rank correlation with the
    scores of a linear probe on the finished encoder, which is higher than that of kNN.
    """
    x, y = parts.train_x[:VALIDATION_FIT], F.one_hot(parts.train_y[:VALIDATION_FIT], parts.num_classes).double()
    (shift, scale), share = standardization(x), y.mean(dim=0)
    x = (x.double() - shift) / scale
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - share))
    return score(Classifier(weight.T, share, shift, scale), parts).top1


def validation_knn(parts: Parts, k: int = ProbeConfig.knn_neighbors) -> float:
    """kNN top-1 of the held-out part, percent, by the votes of the first `VALIDATION_FIT` images to fit on."""
    parts = parts._replace(train_x=parts.train_x[:VALIDATION_FIT], train_y=parts.train_y[:VALIDATION_FIT])
    return knn_top1(parts, k=min(k, len(parts.train_y)))
