"""A fitted linear layer, its score, and the checks and standardization that probes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from mdssl.errors import InputError
from mdssl.evaluate.confusion import confusion_matrix
from mdssl.evaluate.features import check_finite

_CONSTANT_BELOW = 1e-6
"""A smaller ratio of standard deviation to mean is float32 rounding noise; such a feature is not scaled."""

_CHUNK_ROWS = 8192


class Parts(NamedTuple):
    """Features and labels of a dataset, all on one device.

    Attributes:
        train_x, test_x: (N, width) float32 features.
        train_y, test_y: (N,) int64 classes in [0, num_classes).
        num_classes: classes of the dataset, including those without images.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    num_classes: int

    @property
    def classes_present(self) -> int:
        """The number of classes with an image in either part."""
        return len(torch.cat([self.train_y, self.test_y]).unique())

    def check(self) -> None:
        """Raise ``ValueError`` unless both parts have finite features of one width and a valid class for each row."""
        for part, x, y in (("training", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.ndim != 2 or len(x) == 0 or y.shape != x.shape[:1]:
                raise InputError(
                    f"the {part} part has features {tuple(x.shape)} and labels {tuple(y.shape)}; "
                    "it needs (N, width) and (N,) with at least one row."
                )
            check_finite(f"{part} features", x)
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.num_classes:
                raise InputError(
                    f"the {part} part has labels from {low} to {high}; with {self.num_classes} classes they must be "
                    f"from 0 to {self.num_classes - 1}. Prepare the dataset again with all of its classes."
                )
        if self.train_x.shape[1] != self.test_x.shape[1]:
            raise InputError(
                f"training features are {self.train_x.shape[1]} wide, test features {self.test_x.shape[1]}; take both "
                "from one layer of one encoder."
            )


@dataclass(frozen=True)
class Classifier:
    """A fitted linear layer: logits = ((x - shift) / scale) Wᵀ + b, computed in the type of ``weight``.

    Attributes:
        weight: (num_classes, width).
        bias: (num_classes,).
        shift, scale: (width,) mean and deviation of the training features; 0 and 1 for raw features.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width) features to (N, num_classes) scores."""
        chunks = (rows.to(self.weight.dtype) for rows in x.split(_CHUNK_ROWS))
        return torch.cat([F.linear((rows - self.shift) / self.scale, self.weight, self.bias) for rows in chunks])


@dataclass(frozen=True)
class ProbeResult:
    """A probe's score on the test part, after its training.

    Attributes:
        top1: percent of test images whose class has the largest logit.
        top5: percent whose class is among the five largest; None with five classes or fewer.
        predictions: (N_test,) int64 predicted classes.
        confusion: (C, C) int64 test images by true class, in rows, and predicted class.
        found: what the fit adds to its settings in ``config_json``, such as a chosen learning rate.
    """

    top1: float
    top5: float | None
    predictions: torch.Tensor
    classifier: Classifier
    confusion: np.ndarray
    found: Mapping[str, Any]


def standardization(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the float64 mean and standard deviation of each column of ``x``, (N, width); 1 for a constant column."""
    count = len(x)
    shift = sum(rows.double().sum(dim=0) for rows in x.split(_CHUNK_ROWS)) / count
    variance = sum((rows.double() - shift).square().sum(dim=0) for rows in x.split(_CHUNK_ROWS)) / count
    scale = variance.sqrt()
    return shift, torch.where(scale > _CONSTANT_BELOW * shift.abs(), scale, 1)


def score(classifier: Classifier, parts: Parts, found: Mapping[str, Any] | None = None) -> ProbeResult:
    """Return the result of ``classifier`` on the test part."""
    present = parts.classes_present
    return result_of(
        classifier.logits(parts.test_x), parts.test_y, classes_present=present, classifier=classifier, found=found
    )


def result_of(
    logits: torch.Tensor,
    y: torch.Tensor,
    *,
    classes_present: int,
    classifier: Classifier,
    found: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Return the result of (N, num_classes) ``logits`` for test images of the classes ``y``."""
    predictions = logits.argmax(dim=1)
    top5 = None
    if classes_present > 5:
        top5 = percent((logits.topk(5, dim=1).indices == y[:, None]).any(dim=1))
    confusion = confusion_matrix(y.cpu().numpy(), predictions.cpu().numpy(), logits.shape[1])
    return ProbeResult(percent(predictions == y), top5, predictions, classifier, confusion, found or {})


def percent(correct: torch.Tensor) -> float:
    return 100 * int(correct.sum()) / len(correct)
