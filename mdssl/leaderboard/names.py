"""Names of datasets as tables, figures and the report show them.

A dataset that is a part or a variant of the published one of its name is marked: ``svhn (4,434 of 73,257)``. The words
come from `Dataset.variant`. Rows of the leaderboard keep plain names, and the words in ``config_json``; `marked`
combines the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from mdssl.data.sources.catalog import CATALOG, variant_of

NAMED = ("eval_dataset", "train_mixture")
"""Columns of datasets' names."""

_MARKED = re.compile(r"([\w.-]+) \([^()]*\)")
_NO_PARENTHESES = str.maketrans("()", "[]")
_COUNTS = ("num_classes", "num_train", "num_test")


def name_of(dataset: str, words: str) -> str:
    """Return the name of ``dataset`` with ``words``, its difference from the published dataset, if any."""
    return f"{dataset} ({words.translate(_NO_PARENTHESES)})" if words else dataset


def mixture_of(train_mixture: str, variants: Mapping[str, str]) -> str:
    """``train_mixture`` with the `name_of` each of its domains."""
    return "+".join(name_of(name, variants.get(name, "")) for name in train_mixture.split("+"))


def plain_name(name: str) -> str:
    """Return a dataset, or a mixture, without the words of `name_of`."""
    return _MARKED.sub(lambda found: found[1] if found[1] in CATALOG else found[0], name)


def matching_names(wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    """Return the entries of ``found`` that are in ``wanted``, with or without the words of `name_of`."""
    wanted = set(wanted)
    return [name for name in found if {name, plain_name(name)} & wanted]


def words_of_score(row: Mapping[str, Any]) -> str:
    """Return the difference of the evaluation dataset of a row from the published one; in older rows, by counts."""
    evaluation = json.loads(row.get("config_json") or "{}").get("evaluation", {})
    return evaluation["variant"] if "variant" in evaluation else _by_counts(row["eval_dataset"], *map(row.get, _COUNTS))


def marked(
    df: pd.DataFrame, evaluations: Sequence[str | None], mixtures: Sequence[Mapping[str, str] | None]
) -> pd.DataFrame:
    """Replace the names of datasets in ``df`` by those that are shown.

    A trial's own domains have the words that its rows record, or those of its scores on the domain.

    Args:
        df: rows of the leaderboard, with ``eval_fingerprint``.
        evaluations: by row the recorded words of its evaluation dataset; None in older rows, which record none.
        mixtures: by row the recorded words of the trial's domains, likewise.
    """
    if not {"eval_dataset", "train_mixture", "trial_id"} <= set(df):
        return df
    names = [plain_name(name) if isinstance(name, str) else name for name in df["eval_dataset"]]
    counts = zip(*(df[name].tolist() if name in df else [None] * len(df) for name in _COUNTS), strict=True)
    words = [
        _by_counts(name, *of) if recorded is None else recorded
        for name, recorded, of in zip(names, evaluations, counts, strict=True)
    ]
    if not any(words) and not any(mixtures):
        return df
    # The same images have the same name, also in older rows that do not record what sets them apart.
    images = list(zip(names, df["eval_fingerprint"].tolist(), strict=True))
    known = {image: own for image, own in zip(images, words, strict=True) if own and image[1]}
    words = [known.get(image, own) for image, own in zip(images, words, strict=True)]
    of_trial: dict[str, dict[str, str]] = {}
    for trial_id, name, own, recorded in zip(df["trial_id"], names, words, mixtures, strict=True):
        variants = of_trial.setdefault(trial_id, {})
        variants |= recorded if recorded is not None else {name: own} if own else {}
    shown = [name_of(name, own) if own else name for name, own in zip(names, words, strict=True)]
    trained_on = [
        mixture_of(plain_name(mixture), of_trial[trial_id])
        for mixture, trial_id in zip(df["train_mixture"], df["trial_id"], strict=True)
    ]
    return df.assign(eval_dataset=pd.Series(shown, df.index, dtype=df["eval_dataset"].dtype), train_mixture=trained_on)


@lru_cache(maxsize=4096)
def _by_counts(name: Any, classes: Any, train: Any, test: Any) -> str:
    if any(pd.isna(value) for value in (name, classes, train, test)):
        return ""
    return variant_of(name, classes=int(classes), train=int(train), test=int(test))
