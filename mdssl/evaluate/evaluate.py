"""One encoder on one dataset: features of both parts, then a probe and kNN on each feature layer."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mdssl.config.run import ProbeConfig
from mdssl.data.dataset import Dataset
from mdssl.errors import InputError
from mdssl.evaluate.classifier import classes_present
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.probe import run_probes

log = logging.getLogger(__name__)


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
    check_scorable(dataset)
    parts = {name: dataset.split(name) for name in ("train", "test")}
    with _about(dataset):
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
        ``top1``, ``top5``, ``knn_top1`` (percent; top5 None with five classes or fewer), ``num_classes`` (those that
        have an image), ``num_train``, ``num_test``, and ``eval_seconds``: an equal share of the encoder pass and of the
        layer's fits, so that rows add up to the time spent. Besides them ``probe_settings``, all that the probe was
        made with and what it found out: the rate that it chose; whether its score is unstable, which is a warning in
        the log as well; how many neighbours there are where fewer than kNN asks for.

    Raises:
        ValueError: a learning rate at which a fit diverged; the message names the dataset.
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
            neighbours = min(probe.knn_neighbors, len(train_y))
            knn = knn_top1(*parts, k=neighbours)
            fewer = {} if neighbours == probe.knn_neighbors else {"knn_neighbours_there_are": neighbours}
            seconds = (share + time.perf_counter() - started) / len(probes)
            rows += [
                {
                    "features": layer,
                    "probe": own.name,
                    "probe_settings": own.settings() | fewer | dict(result.found),
                    "top1": result.top1,
                    "top5": result.top5,
                    "knn_top1": knn,
                    "num_classes": classes_present(train_y, test_y),
                    "num_train": len(train_y),
                    "num_test": len(test_y),
                    "eval_seconds": seconds,
                }
                for own, result in zip(probes, results, strict=True)
            ]
    for row in rows:
        if unstable := instability(row):
            log.warning("%s on %s features of %s: %s", row["probe"], row["features"], dataset.name, unstable)
    return rows


def instability(row: Mapping[str, Any]) -> str:
    """Of a row of `score_dataset`, what makes its score unstable, in words; empty if nothing does."""
    other = row["probe_settings"].get("top1_in_other_order")
    return "" if other is None else f"unstable, as another order of summation gives {other:.1f} for {row['top1']:.1f}"


def check_scorable(dataset: Dataset) -> None:
    """Raise ``ValueError`` unless ``dataset`` has labels, and images of two classes in either part."""
    if not dataset.classes:
        raise InputError(
            f"dataset {dataset.name!r} has no labels, so it cannot be evaluated; train on it, and name a labelled "
            "dataset with --evaluate."
        )
    with _about(dataset):
        for part in ("train", "test"):
            found = np.unique(dataset.split(part).labels)
            if len(found) < 2:
                has = "no images" if len(found) == 0 else f"images of class {found[0]} only"
                raise InputError(
                    f"its {part} part has {has}; a score needs at least two classes. Prepare it with more images, or "
                    "leave it out of --evaluate."
                )


@contextmanager
def _about(dataset: Dataset) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"dataset {dataset.name!r} cannot be evaluated: {error}") from error
