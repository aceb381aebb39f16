"""Weighted nearest neighbours by cosine similarity: a score with nothing to fit, beside every linear probe."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mdssl.config.run import ProbeConfig
from mdssl.errors import InputError, check_number
from mdssl.evaluate.classifier import check_parts

_CHUNK_NUMBERS = 2**23
"""Numbers in the largest intermediate tensor: 32 MiB of float32."""


def knn_top1(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    k: int = ProbeConfig.knn_neighbors,
    temperature: float = 0.07,
) -> float:
    """Percent of test rows whose class wins the vote of their ``k`` nearest training rows.

    The classifier of Wu et al. 2018 (section 3.4): a neighbour's vote weighs exp(cos / temperature); of classes with
    equal votes the lowest number wins. They take k = 200, later work 20. Memory is a chunk of test rows times N_train.

    Args:
        train_x, train_y, test_x, test_y, num_classes: as for `mdssl.evaluate.sgd.sgd_probes`.
        k: neighbours that vote; at most N_train.
        temperature: the smaller, the more the nearest decide.

    Raises:
        ValueError: ``k`` or ``temperature`` out of range, parts that do not fit together, features that are not finite.
    """
    check_parts(train_x, train_y, test_x, test_y, num_classes)
    check_number(
        "knn_neighbors",
        k,
        low=1,
        high=len(train_x),
        hint="There are no more neighbours than training images: lower knn_neighbors, or give more images.",
    )
    if temperature <= 0:
        raise InputError(f"kNN temperature is {temperature}; it must be above 0, such as 0.07.")
    train_x = F.normalize(train_x, dim=1)
    chunk = max(1, _CHUNK_NUMBERS // max(len(train_x), k * num_classes))
    correct = 0
    for x, y in zip(test_x.split(chunk), test_y.split(chunk), strict=True):
        similarity, neighbours = (F.normalize(x, dim=1) @ train_x.T).topk(k, dim=1)
        # Relative to the nearest neighbour, which changes no winner and cannot overflow at a small temperature.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        # A sum over one-hot rows, because scatter_add_ on CUDA adds in an order that differs from run to run.
        tally = (votes[:, :, None] * F.one_hot(train_y[neighbours], num_classes)).sum(dim=1)
        correct += int((tally.argmax(dim=1) == y).sum())
    return 100 * correct / len(test_x)
