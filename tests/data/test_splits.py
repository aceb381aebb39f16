"""The seeded stratified split of a source without test images, and the seeded selection of training images."""

import numpy as np
import pytest

from mdssl.data.sources.base import Part, Source
from mdssl.data.splits import resolve_splits

CLASSES = ("a", "b", "c")


def split(labels, seed=0, test_fraction=0.2):
    """The rows in train and in test."""
    rows = np.arange(len(labels))
    part = Part(np.asarray(labels), str, lambda chosen: iter(rows[chosen]))
    parts, _, rule = resolve_splits(
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


def test_the_split_is_stratified_and_each_class_keeps_a_train_image():
    _, test = split(LABELS)
    assert np.bincount(LABELS[test]).tolist() == [20, 10, 1]
    train, _ = split(LABELS, test_fraction=0.99)
    assert np.bincount(LABELS[train]).tolist() == [1, 1, 1]


def test_the_seed_determines_the_split():
    assert np.array_equal(split(LABELS, seed=3)[1], split(LABELS, seed=3)[1])
    assert not np.array_equal(split(LABELS, seed=3)[1], split(LABELS, seed=4)[1])


def test_adding_a_class_does_not_change_the_split_of_other_classes():
    _, two = split(LABELS[:150])
    _, three = split(LABELS)
    assert np.array_equal(two, three[three < 150])


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(ValueError, match="class 'c' has 1 image"):
        split([0, 0, 1, 1, 2])


def resolve(parts, per_class=None, seed=0):
    """The splits and the rule for parts given by their labels; an image is its row number in its part."""
    made = {}
    for name, labels in parts.items():
        rows = np.arange(len(labels))
        made[name] = Part(np.asarray(labels), str, lambda chosen, rows=rows: iter(rows[chosen]))
    source = Source("npz", "toy", CLASSES, made)
    splits, _, rule = resolve_splits("toy", source, seed=seed, test_fraction=0.2, train_per_class=per_class)
    return splits, rule


def test_the_validation_split_is_left_out_and_counted_if_there_is_a_test_split():
    splits, rule = resolve({"train": LABELS, "test": [0, 1], "validation": [0, 1, 2]})
    assert splits["test"].labels.tolist() == [0, 1]
    assert rule == {"rule": "as given", "left_out": {"validation": 3}}


def test_a_seeded_selection_has_the_same_number_of_images_per_class():
    labels = np.random.default_rng(0).permutation(LABELS)
    chosen = {}
    for seed in (3, 3, 4):
        splits, rule = resolve({"train": labels, "validation": [0, 1]}, per_class=3, seed=seed)
        assert rule == {"rule": "validation as test", "train_per_class": 3, "seed": seed}
        rows = list(splits["train"].read(np.arange(9)))
        assert rows == sorted(rows)
        assert np.array_equal(labels[rows], splits["train"].labels)
        assert np.bincount(labels[rows]).tolist() == [3, 3, 3]
        assert chosen.setdefault(seed, rows) == rows
    assert chosen[3] != chosen[4]


def test_a_class_with_too_few_images_for_the_selection_is_named():
    with pytest.raises(ValueError, match=r"1 of the 3 classes of 'toy' have fewer than the 4 .*: 'c' has 3\."):
        resolve({"train": LABELS, "test": [0, 1]}, per_class=4)


def test_labels_of_unlabelled_images_are_ignored():
    splits, rule = resolve({"train": LABELS, "test": [0, 1], "unlabelled": [-1, -1]})
    assert list(splits) == ["train", "test", "unlabelled"]
    assert rule == {"rule": "as given"}
    with pytest.raises(ValueError, match="negative label"):
        resolve({"train": [*LABELS, -2], "test": [0, 1]})
