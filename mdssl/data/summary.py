"""Describe the preparation of a dataset, from its ``meta.json``."""

from __future__ import annotations

from collections.abc import Iterator

from mdssl.data.dataset import Dataset
from mdssl.data.sources.base import count_of

_CLASSES_LISTED = 12
_RULES = {
    "as given": "splits as in the source",
    "validation as test": "the validation split is used as the test split",
    "train and validation joined": "the validation split is part of the train split, as published",
    "no labels": "no labels: for pretraining only",
}


def counts_in_words(dataset: Dataset) -> str:
    """``"8 train / 2 test images of 2 classes"``"""
    if not dataset.is_labelled:
        return f"{count_of(dataset.pretraining_count, 'image')} without labels"
    counts = " / ".join(f"{count:,} {split}" for split, count in dataset.counts.items())
    return f"{counts} images of {len(dataset.classes)} classes"


def summary(dataset: Dataset) -> Iterator[str]:
    """Yield a line for each property of the source and for each kind of files that were left out."""
    meta = dataset.meta
    if dataset.variant:
        yield f"not the published {dataset.name}: {dataset.variant}"
    yield _splits(meta["split"])
    if dataset.is_labelled:
        yield _classes(dataset)
    yield from meta.get("remarks", ())
    for reason, left in meta.get("left_out", {}).items():
        yield f"left out: {reason}: {left['count']:,}, such as {left['example']}"
    same = meta.get("same_pixels", {})
    if same.get("test_in_train"):
        yield f"test images with the pixels of a training image: {same['test_in_train']:,}"
    if same.get("within_train"):
        yield f"training images that are copies of another, by their pixels: {same['within_train']:,}"


def _splits(rule: dict) -> str:
    if rule["rule"] == "stratified":
        text = f"no test split: {rule['test_fraction']:.0%} of each class, chosen with seed {rule['seed']}"
    else:
        text = _RULES.get(rule["rule"], rule["rule"])
    if "train_per_class" in rule:
        text += f"; {rule['train_per_class']:,} training images of each class, chosen with seed {rule['seed']}"
    places = [f"{split} from {place}" for split, place in rule.get("from", {}).items()]
    return f"{text} ({', '.join(places)})" if places else text


def _classes(dataset: Dataset) -> str:
    train, test = (dataset.meta["splits"][split]["per_class"] for split in ("train", "test"))
    if len(dataset.classes) > _CLASSES_LISTED:
        return (
            f"{len(dataset.classes)} classes of {min(train):,} to {max(train):,} training and {min(test):,} to "
            f"{max(test):,} test images"
        )
    counts = zip(dataset.classes, train, test, strict=True)
    return f"classes, with train/test images: {', '.join(f'{name} {own:,}/{other:,}' for name, own, other in counts)}"
