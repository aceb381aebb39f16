"""One encoder on one dataset: features of both parts, then a probe and kNN on each feature layer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mdssl.data.prepared import Dataset
from mdssl.errors import InputError
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.probe import run_probes
from mdssl.run_config import ProbeConfig


class Encoded(NamedTuple):
    """A dataset's features, from one encoder pass over each part.

    Attributes:
        train: (N_train, width) by layer, of the layers that are to be scored.
        test: (N_test, width) by layer, of these, and of ``encoder`` in any case: a projection can be made of it.
        seconds: of both passes.
    """

    train: dict[str, torch.Tensor]
    test: dict[str, torch.Tensor]
    seconds: float


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
    """Score a frozen model on ``dataset``: `encode_dataset`, then `score_dataset`, with their arguments and errors."""
    encoded = encode_dataset(model, dataset, layers=layers, device=device, input_size=input_size)
    return score_dataset(encoded, dataset, probe=probe, seed=seed)


def encode_dataset(
    model: nn.Module,
    dataset: Dataset,
    *,
    layers: Sequence[str],
    device: str | torch.device = "cpu",
    input_size: int | None = None,
) -> Encoded:
    """Features of both parts of ``dataset``, on ``device``.

    Args:
        model: as for `mdssl.evaluate.features.extract_features`; its weights stay as they are.
        layers: feature layers to score, e.g. those that have no row yet.
        input_size: pixels that images are resized to first; None leaves them.

    Raises:
        ValueError: a part that is empty or has one class only, or features that are not finite; the message names the
            dataset.
    """
    parts = {name: dataset.split(name) for name in ("train", "test")}
    with _about(dataset):
        for name, part in parts.items():
            _check_labels(name, part.labels)
        started = time.perf_counter()
        wanted = {"train": tuple(layers), "test": tuple(dict.fromkeys(("encoder", *layers)))}
        features = {
            name: extract_features(model, part.images, layers=wanted[name], device=device, input_size=input_size)
            for name, part in parts.items()
        }
        return Encoded(**features, seconds=time.perf_counter() - started)


def score_dataset(encoded: Encoded, dataset: Dataset, *, probe: ProbeConfig, seed: int = 0) -> list[dict[str, Any]]:
    """Scores of ``encoded``, the features of ``dataset``: fit on its train part, score on its test part.

    The same features, probe and seed give the same scores. The test part is used for nothing but the score.

    Args:
        encoded: its layers are scored; ``probe.features`` is not consulted.
        probe: which probe, and its settings; several learning rates are fitted at once.
        seed: of the order of the sgd probe's batches.

    Returns:
        For each layer, and each learning rate of an sgd probe, the leaderboard's columns ``features``, ``probe``,
        ``top1``, ``top5``, ``knn_top1`` (percent; top5 None with five classes or fewer), ``num_classes``,
        ``num_train``, ``num_test``, and ``eval_seconds``: an equal share of the encoder pass and of the layer's fits,
        so that rows add up to the time spent. Besides them ``probe_settings``, all that the probe was made with.

    Raises:
        ValueError: fewer training images than neighbours; the message names the dataset.
    """
    device = encoded.test["encoder"].device
    train_y, test_y = (torch.from_numpy(np.array(dataset.split(name).labels)).to(device) for name in ("train", "test"))
    share = encoded.seconds / len(encoded.train)
    rows = []
    with _about(dataset):
        for layer, train_x in encoded.train.items():
            started = time.perf_counter()
            parts = (train_x, train_y, encoded.test[layer], test_y, len(dataset.classes))
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
    return rows


@contextmanager
def _about(dataset: Dataset) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"dataset {dataset.name!r} cannot be evaluated: {error}") from error


def _check_labels(part: str, labels: np.ndarray) -> None:
    found = np.unique(labels)
    if len(found) < 2:
        has = "no images" if len(found) == 0 else f"images of class {found[0]} only"
        raise InputError(f"its {part} part has {has}; a score needs at least two classes. Prepare it with more images.")
