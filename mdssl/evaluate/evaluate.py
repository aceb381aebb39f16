"""Evaluate one encoder on one dataset: features, then a probe and kNN on each feature layer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mdssl.config.probe import ProbeConfig
from mdssl.data.dataset import Dataset
from mdssl.errors import InputError
from mdssl.evaluate.classifier import Parts, ProbeResult
from mdssl.evaluate.confusion import class_scores, counts_of
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.finetune import finetune
from mdssl.evaluate.knn import knn_top1
from mdssl.evaluate.probe import run_probes
from mdssl.evaluate.validation import held_out, is_validatable, validation_knn, validation_linear

log = logging.getLogger(__name__)

SEEDS_APART = 10_000
"""Difference of two seeds of one probe, so that trials of seeds 0, 1, 2, … share none."""


class Encoded(NamedTuple):
    """Features of a dataset.

    Attributes:
        train: (N_train, width) by layer, for the layers to score.
        test: (N_test, width) by layer, for the same layers and always for ``encoder``.
        seconds: duration of both encoder passes.
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
    return score_dataset(encoded, dataset, probe=probe, seed=seed, model=model, input_size=input_size)


def encode_dataset(
    model: nn.Module,
    dataset: Dataset,
    *,
    layers: Sequence[str],
    device: str | torch.device = "cpu",
    input_size: int | None = None,
) -> Encoded:
    """Compute features of both parts of ``dataset``, on ``device``.

    Args:
        model: as for `mdssl.evaluate.features.extract_features`; its weights stay as they are.
        layers: feature layers to score.
        input_size: pixels to which images are resized first; None keeps their size.

    Raises:
        ValueError: a part with fewer than two classes, or features that are not finite; the message names the dataset.
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


def score_dataset(
    encoded: Encoded,
    dataset: Dataset,
    *,
    probe: ProbeConfig,
    seed: int = 0,
    model: nn.Module | None = None,
    input_size: int | None = None,
) -> list[dict[str, Any]]:
    """Fit on the train part of ``encoded``, the features of ``dataset``, and score on its test part.

    Args:
        encoded: its layers are scored; ``probe.features`` is ignored.
        probe: the probe and its settings.
        seed: of the order of batches, of held-out images and of images to fine-tune on. With several
            ``probe.probe_seeds`` the k-th fit has seed + k `SEEDS_APART`.
        model, input_size: for the probe finetune: what gave ``encoded``.

    Returns:
        For each layer, and each learning rate of an sgd probe or fraction of labels, the leaderboard's columns
        ``features``, ``probe``, ``top1``, ``top1_sd`` (over seeds, None for one), ``top5``, ``balanced_accuracy``,
        ``macro_f1``, ``knn_top1`` (percent; top5 None with five classes or fewer), ``val_top1`` and
        ``val_knn_top1`` (the same probe and kNN, fitted on a part of the train part and scored on the rest),
        ``val_linear_top1`` (the score of a trial that trains: `mdssl.evaluate.validation.validation_linear`; all three
        are None if `mdssl.evaluate.validation.check_validatable` refuses the dataset), ``num_classes`` (those with
        images), ``num_train``, ``num_test``, and ``eval_seconds``, an equal share of the time spent. Also
        ``probe_settings``: all settings and findings of the probe, such as a chosen rate, an unstable score, or the
        number of training images where there are fewer than kNN's neighbors; and ``confusion``, the
        `mdssl.evaluate.confusion.Counts`. With several seeds scores are means, ``confusion`` sums, and
        ``probe_settings`` has ``of_seeds``: top-1, seed and findings of each.

    Raises:
        ValueError: a learning rate at which a fit diverged; the message names the dataset.
    """
    seeds = [seed + number * SEEDS_APART for number in range(probe.probe_seeds)]
    device = encoded.test["encoder"].device
    train_y, test_y = (torch.from_numpy(np.array(dataset.split(name).labels)).to(device) for name in ("train", "test"))
    share = encoded.seconds / len(encoded.train)
    rows_held_out = held_out(dataset) if is_validatable(dataset) else None
    rows = []
    with _about(dataset):
        for layer, train_x in encoded.train.items():
            started = time.perf_counter()
            parts = Parts(train_x, train_y, encoded.test[layer], test_y, len(dataset.classes))
            probes = probe.each()
            val_others, val_top1 = _validation(parts, rows_held_out, dataset, probe, seeds)
            if probe.probe == "finetune":
                assert model is not None
                results, val_top1 = _fine_tuned(
                    model, dataset, probes, seeds, rows_held_out=rows_held_out, width=train_x.shape[1],
                    device=device, input_size=input_size,
                )  # fmt: skip
            else:
                by_seed = [run_probes(parts, config=probe, seed=each) for each in seeds]
                results = [list(of_probe) for of_probe in zip(*by_seed, strict=True)]
            neighbors = min(probe.knn_neighbors, len(train_y))
            knn = knn_top1(parts, k=neighbors)
            fewer = {} if neighbors == probe.knn_neighbors else {"knn_neighbours_there_are": neighbors}
            seconds = (share + time.perf_counter() - started) / len(probes)
            rows += [
                {
                    "features": layer,
                    "probe": own.name,
                    "probe_settings": own.settings() | fewer | _found(of_probe, seeds),
                    **_scores(of_probe),
                    "knn_top1": knn,
                    "val_top1": own_val,
                    "num_classes": parts.classes_present,
                    "num_train": len(train_y),
                    "num_test": len(test_y),
                    "eval_seconds": seconds,
                }
                | val_others
                for own, of_probe, own_val in zip(probes, results, val_top1, strict=True)
            ]
    for row in rows:
        if unstable := instability(row):
            log.warning("%s on %s features of %s: %s", row["probe"], row["features"], dataset.name, unstable)
    return rows


def _fine_tuned(
    model: nn.Module, dataset: Dataset, probes: Sequence[ProbeConfig], seeds: Sequence[int], **arguments: Any
) -> tuple[list[list[ProbeResult]], list[float | None]]:
    """Return the result of each probe and seed, and the validation score of each probe."""
    tuned = [[finetune(model, dataset, config=own, seed=each, **arguments) for each in seeds] for own in probes]
    results = [[one.result for one in of_probe] for of_probe in tuned]
    return results, [_mean([one.val_top1 for one in of_probe]) for of_probe in tuned]


def _scores(of_seeds: Sequence[ProbeResult]) -> dict[str, Any]:
    """The scores of one probe: means over its seeds, and the sum of its confusion matrices."""
    by_class = [class_scores(result.confusion) for result in of_seeds]
    top1 = [result.top1 for result in of_seeds]
    return {
        "top1": _mean(top1),
        "top1_sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
        "top5": _mean([result.top5 for result in of_seeds]),
        "balanced_accuracy": _mean([scores.balanced_accuracy for scores in by_class]),
        "macro_f1": _mean([scores.macro_f1 for scores in by_class]),
        "confusion": counts_of(np.sum([result.confusion for result in of_seeds], axis=0)),
    }


def _found(of_seeds: Sequence[ProbeResult], seeds: Sequence[int]) -> dict[str, Any]:
    if len(of_seeds) == 1:
        return dict(of_seeds[0].found)
    found = [{"seed": seed, "top1": one.top1, **one.found} for seed, one in zip(seeds, of_seeds, strict=True)]
    return {"of_seeds": found}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _validation_parts(parts: Parts, rows: tuple[np.ndarray, np.ndarray]) -> Parts:
    fit, held = (torch.from_numpy(part).to(parts.train_x.device) for part in rows)
    x, y = parts.train_x, parts.train_y
    return Parts(x[fit], y[fit], x[held], y[held], parts.num_classes)


def _validation(
    parts: Parts,
    rows: tuple[np.ndarray, np.ndarray] | None,
    dataset: Dataset,
    probe: ProbeConfig,
    seeds: Sequence[int],
) -> tuple[dict[str, float | None], list[float | None]]:
    """Return top-1 on the held-out images of the train part: of kNN and ridge regression, by column; and of each probe
    on features, the mean over ``seeds``. The test part is not used."""
    no_scores: list[float | None] = [None] * len(probe.each())
    if rows is None:
        return {"val_knn_top1": None, "val_linear_top1": None}, no_scores
    held = _validation_parts(parts, rows)
    others: dict[str, float | None] = {
        "val_knn_top1": validation_knn(held, probe.knn_neighbors),
        "val_linear_top1": validation_linear(held),
    }
    if probe.probe == "finetune":
        return others, no_scores
    try:
        by_seed = [[result.top1 for result in run_probes(held, config=probe, seed=seed)] for seed in seeds]
    except InputError as error:
        # The scores on the test part are still valid.
        log.warning("no val_top1 on %s: %s", dataset.name, error)
        return others, no_scores
    return others, [_mean(of_probe) for of_probe in zip(*by_seed, strict=True)]


def instability(row: Mapping[str, Any]) -> str:
    """Describe why the score of a row of `score_dataset` is unstable; an empty string if it is stable."""
    settings = row["probe_settings"]
    for one in settings.get("of_seeds", [settings | {"top1": row["top1"]}]):
        if "top1_in_other_order" in one:
            other = one["top1_in_other_order"]
            return f"unstable, as another order of summation gives {other:.1f} for {one['top1']:.1f}"
    return ""


def check_scorable(dataset: Dataset) -> None:
    """Raise ``ValueError`` unless ``dataset`` has labels and both parts have images of two classes."""
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
