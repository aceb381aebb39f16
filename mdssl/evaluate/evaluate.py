"""One encoder on one dataset: features of both parts, then a probe and kNN on each feature layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mdssl.data.prepared import Dataset
from mdssl.errors import InputError
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.probe import run_probes
from mdssl.run_config import ProbeConfig


def evaluate_dataset(
    model: nn.Module,
    dataset: Dataset,
    *,
    layers: Sequence[str],
    probe: ProbeConfig,
    device: str | torch.device = "cpu",
    seed: int = 0,
    input_size: int | None = None,
) -> list[dict[str, Any]]:
    """Score a frozen model on ``dataset``: fit on its train part, score on its test part.

    The same model, dataset, probe and seed give the same scores. The test part is used for nothing but the score.

    Args:
        model: as for `mdssl.evaluate.features.extract_features`; its weights stay as they are.
        layers: feature layers to score, e.g. those that have no row yet; ``probe.features`` is not consulted.
        probe: which probe, and its settings; several learning rates are fitted at once.
        seed: of the order of the sgd probe's batches.
        input_size: pixels that images are resized to first; None leaves them.

    Returns:
        For each layer, and each learning rate of an sgd probe, the leaderboard's columns ``features``, ``probe``,
        ``top1``, ``top5``, ``knn_top1`` (percent; top5 None with five classes or fewer), ``num_classes``,
        ``num_train``, ``num_test``, and ``eval_seconds``: an equal share of the encoder pass and of the layer's fits,
        so that rows add up to the time spent. Besides them ``probe_settings``, all that the probe was made with.

    Raises:
        ValueError: a part that is empty or has one class only, fewer training images than neighbours, or features that
            are not finite; the message names the dataset.
    """
    train, test = dataset.split("train"), dataset.split("test")
    try:
        for part, labels in (("train", train.labels), ("test", test.labels)):
            _check_labels(part, labels)
        started = time.perf_counter()
        train_x, test_x = (
            extract_features(model, part.images, layers=layers, device=device, input_size=input_size)
            for part in (train, test)
        )
        train_y, test_y = (torch.from_numpy(np.array(part.labels)).to(device) for part in (train, test))
        share = (time.perf_counter() - started) / len(layers)
        rows = []
        for layer in layers:
            started = time.perf_counter()
            parts = (train_x[layer], train_y, test_x[layer], test_y, len(dataset.classes))
            probes = probe.each()
            results = run_probes(*parts, config=probe, seed=seed)
            knn = knn_top1(*parts, k=probe.knn_neighbours)
            seconds = (share + time.perf_counter() - started) / len(probes)
            rows += [
                {
                    "features": layer,
                    "probe": own.name,
                    "probe_settings": own.settings(),
                    "top1": result.top1,
                    "top5": result.top5,
                    "knn_top1": knn,
                    "num_classes": len(dataset.classes),
                    "num_train": len(train_y),
                    "num_test": len(test_y),
                    "eval_seconds": seconds,
                }
                for own, result in zip(probes, results, strict=True)
            ]
    except ValueError as error:
        raise InputError(f"dataset {dataset.name!r} cannot be evaluated: {error}") from error
    return rows


def _check_labels(part: str, labels: np.ndarray) -> None:
    found = np.unique(labels)
    if len(found) < 2:
        has = "no images" if len(found) == 0 else f"images of class {found[0]} only"
        raise InputError(f"its {part} part has {has}; a score needs at least two classes. Prepare it with more images.")
