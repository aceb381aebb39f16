"""Similarity of classes in the space of an encoder: the heat maps of figures A.1 and A.2, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mdssl.errors import InputError
from mdssl.evaluate.representations import Representations


class ClassSimilarity(NamedTuple):
    """The heat map of several datasets.

    Attributes:
        matrix: (C, C) similarities, see `class_similarity`; the classes of one dataset after those of another.
        classes: (C,) names.
        groups: (C,) the dataset of each class.
    """

    matrix: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...]


class Summary(NamedTuple):
    """Means of the cosine similarities of a heat map, between -1 and 1.

    "The similarity within a domain is comparable with the similarity across domains, meaning that domains are
    indistinguishable" (appendix A.3): ``within`` minus ``across`` measures how well they are distinguished.

    Attributes:
        within: between different classes of one domain; each domain counts the same. NaN where all have one class.
        across: between classes of different domains; each pair of domains counts the same. NaN with one domain.
        by_domain: ``within`` of each domain.
        by_pair: ``across`` of each pair of domains, in the order given.
    """

    within: float
    across: float
    by_domain: dict[str, float]
    by_pair: dict[tuple[str, str], float]


def class_similarity(class_means: np.ndarray) -> np.ndarray:
    """(C, C) cosine similarities between the rows of (C, width) ``class_means``; NaN where a class has no images."""
    means = np.asarray(class_means, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    return np.clip(directions @ directions.T, -1, 1)


def stacked(representations: Mapping[str, Representations], layer: str = "projection") -> ClassSimilarity:
    """Return similarities between all classes of several datasets, read by `mdssl.evaluate.representations.of_trial`.

    Args:
        layer: ``projection``, as in the paper, or ``encoder``.

    Raises:
        ValueError: there is no dataset, or one has no such layer.
    """
    if not representations:
        raise InputError("no representations are given; class similarities need those of at least one dataset.")
    for name, found in representations.items():
        if layer not in found.layers:
            raise InputError(f"representations of {name!r} have no {layer} layer; allowed: {', '.join(found.layers)}.")
    every = representations.values()
    means = np.concatenate([found.layers[layer].class_means for found in every])
    classes = tuple(name for found in every for name in found.classes)
    groups = tuple(found.dataset for found in every for _ in found.classes)
    return ClassSimilarity(class_similarity(means), classes, groups)


def summarize(matrix: np.ndarray, groups: Sequence[str]) -> Summary:
    """Compute mean similarities within and across domains, without the diagonal and classes without images.

    Args:
        matrix: (C, C).
        groups: (C,) the domain of each class.
    """
    names, owner = list(dict.fromkeys(groups)), np.array(groups)
    others = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    blocks = {
        (first, second): _mean(others[np.ix_(owner == first, owner == second)]) for first in names for second in names
    }
    by_domain = {name: blocks[name, name] for name in names}
    by_pair = {pair: mean for pair, mean in blocks.items() if names.index(pair[0]) < names.index(pair[1])}
    return Summary(_mean(list(by_domain.values())), _mean(list(by_pair.values())), by_domain, by_pair)


def _mean(values: np.ndarray | list[float]) -> float:
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else float("nan")
