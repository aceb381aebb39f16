"""Weighted k-nearest-neighbor accuracy by cosine similarity."""

from __future__ import annotations

from torch.nn import functional as F

from mdssl.config.probe import ProbeConfig
from mdssl.errors import InputError, check_number
from mdssl.evaluate.classifier import Parts

_CHUNK_NUMBERS = 2**23
"""Numbers in the largest intermediate tensor: 32 MiB of float32."""


def knn_top1(parts: Parts, *, k: int = ProbeConfig.knn_neighbors, temperature: float = 0.07) -> float:
    """Percent of test rows whose class wins the vote of their ``k`` nearest training rows.

    The classifier of Wu et al. 2018 (section 3.4): votes are weighted by exp(cos / temperature). Ties go to the lowest
    class. They use k = 200, later work 20.

    Args:
        k: neighbors that vote; at most N_train.

    Raises:
        ValueError: ``k`` or ``temperature`` out of range, parts that do not match, or features that are not finite.
    """
    parts.check()
    hint = "There cannot be more neighbors than training images: lower knn_neighbors, or give more images."
    check_number("knn_neighbors", k, low=1, high=len(parts.train_x), hint=hint)
    if temperature <= 0:
        raise InputError(f"kNN temperature is {temperature}; it must be above 0, such as 0.07.")
    train_x = F.normalize(parts.train_x, dim=1)
    chunk = max(1, _CHUNK_NUMBERS // max(len(train_x), k * parts.num_classes))
    correct = 0
    for x, y in zip(parts.test_x.split(chunk), parts.test_y.split(chunk), strict=True):
        similarity, neighbors = (F.normalize(x, dim=1) @ train_x.T).topk(k, dim=1)
        # Relative to the nearest neighbor, so that a small temperature cannot overflow.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        # Not scatter_add_, which is not deterministic on CUDA.
        tally = (votes[:, :, None] * F.one_hot(parts.train_y[neighbors], parts.num_classes)).sum(dim=1)
        correct += int((tally.argmax(dim=1) == y).sum())
    return 100 * correct / len(parts.test_x)
