"""The seeded stratified split, where a source has no test images of its own."""

import numpy as np
import pytest

from mdssl.data.parts import Part, Source, resolve_splits

CLASSES = ("a", "b", "c")


def split(labels, seed=0, test_fraction=0.2):
    """The rows in train and in test."""
    rows = np.arange(len(labels))
    part = Part(np.asarray(labels), str, lambda chosen: iter(rows[chosen]))
    parts, rule = resolve_splits(
        "toy", Source("npz", "toy", CLASSES, {"train": part}), seed=seed, test_fraction=test_fraction
    )
    assert rule == {"rule": "stratified", "seed": seed, "test_fraction": test_fraction}
    train, test = (np.array(list(p.read(np.arange(len(p.labels))))) for p in (parts["train"], parts["test"]))
    assert np.array_equal(parts["test"].labels, np.asarray(labels)[test])
    return train, test


LABELS = np.repeat([0, 1, 2], [100, 50, 3])


def test_every_image_is_in_one_split():
    train, test = split(LABELS)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(LABELS)))


def test_every_class_gives_its_share_and_keeps_one():
    _, test = split(LABELS)
    assert np.bincount(LABELS[test]).tolist() == [20, 10, 1]
    train, _ = split(LABELS, test_fraction=0.99)
    assert np.bincount(LABELS[train]).tolist() == [1, 1, 1]


def test_the_seed_decides():
    assert np.array_equal(split(LABELS, seed=3)[1], split(LABELS, seed=3)[1])
    assert not np.array_equal(split(LABELS, seed=3)[1], split(LABELS, seed=4)[1])


def test_another_class_does_not_move_the_others():
    _, two = split(LABELS[:150])
    _, three = split(LABELS)
    assert np.array_equal(two, three[three < 150])


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(ValueError, match="class 'c' has 1 image"):
        split([0, 0, 1, 1, 2])
