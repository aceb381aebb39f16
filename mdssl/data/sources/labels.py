"""From labels of any kind to class numbers: one rule for Parquet columns and arrays of an npz."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings
from mdssl.errors import InputError

_NAMED = 5


def class_numbers(
    labels: Mapping[str, np.ndarray], names: Sequence[str] | None, findings: Findings, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Class names, and by split the labels as int64 (N,), ``NO_LABEL`` where there is none.

    Args:
        labels: by split (N,) integers, booleans, floats that are whole numbers or NaN, or an object array of these or
            of strings, in which None and the empty string stand for no label.
        names: of the classes that integers number. None: each different label is a class, named by itself.
        findings: gets a remark where the numbers change.
        where: the source, for messages.

    Raises:
        InputError: labels of another kind, or nearly as many different labels as images.
    """
    labels = {split: _plain(array, where) for split, array in labels.items()}
    known = [array[~_is_missing(array)] for array in labels.values()]
    are_text = {array.dtype.kind == "O" for array in known if len(array)}
    if len(are_text) > 1:
        raise InputError(f"the labels of {where} are text in one split and numbers in another. Write them alike.")
    if not are_text:
        return (), {split: np.full(len(array), NO_LABEL) for split, array in labels.items()}
    if names is not None and are_text == {False}:
        return tuple(names), {split: array.astype(np.int64) for split, array in labels.items()}
    different = np.unique(np.concatenate([array for array in known if len(array)]))
    if are_text == {False} and any(NO_LABEL in array for array in labels.values()):
        if list(different) == [1]:
            raise InputError(
                f"the labels of {where} are {NO_LABEL} and 1. {NO_LABEL} says that an image has no label; if it is a "
                "class, number the classes from 0."
            )
        findings.remarks.append(f"the label {NO_LABEL} is taken for none; classes are numbered from 0 on")
    if are_text == {False} and different[0] < NO_LABEL:
        raise InputError(f"{where} has the negative label {different[0]}; a label is a class number, from 0 on.")
    images = sum(map(len, known))
    if len(different) > max(images / 2, 2):
        raise InputError(
            f"{where} has {len(different):,} different labels on {images:,} images, such as {different[-1]}: these are "
            "not classes. Take the images without labels with --classes none, or name the column of the classes with "
            "--label-column."
        )
    if are_text == {False} and not np.array_equal(different, np.arange(len(different))):
        listed = ", ".join(map(str, different[:_NAMED])) + (", …" if len(different) > _NAMED else "")
        findings.remarks.append(f"classes are named by their labels: {listed}")
    numbered = {}
    for split, array in labels.items():
        missing = _is_missing(array)
        numbered[split] = np.full(len(array), NO_LABEL)
        numbered[split][~missing] = np.searchsorted(different, array[~missing])
    return tuple(map(str, different)), numbered


def class_name(text: str) -> str:
    """A class name as it is compared: macOS writes é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", text)


def _plain(array: np.ndarray, where: str) -> np.ndarray:
    """Integers, or an object array of text in which None is no label."""
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind == "O":
        found = {type(value) for value in array if value is not None}
        if found <= {str}:
            return np.array([class_name(value) if value else None for value in array], dtype=object)
        if found <= {bool, np.bool_}:
            return np.array([None if value is None else str(bool(value)) for value in array], dtype=object)
        if not found <= {int, float, np.int64, np.float64}:
            raise InputError(_other_kind(where, ", ".join(sorted(kind.__name__ for kind in found))))
        if found <= {int, np.int64}:
            return np.array([NO_LABEL if value is None else value for value in array], dtype=np.int64)
        array = np.array([np.nan if value is None else value for value in array], dtype=np.float64)
    if array.dtype.kind == "b":
        return np.where(array, "True", "False").astype(object)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), NO_LABEL, array)
        if not (np.abs(array) < 2**53).all() or not np.array_equal(array, np.round(array)):
            raise InputError(_other_kind(where, "fractions"))
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        raise InputError(_other_kind(where, f"as large as {array.max()}"))
    if array.dtype.kind not in "iuf":
        raise InputError(_other_kind(where, str(array.dtype)))
    return array.astype(np.int64)


def _is_missing(array: np.ndarray) -> np.ndarray:
    return np.equal(array, None) if array.dtype.kind == "O" else array == NO_LABEL


def _other_kind(where: str, kind: str) -> str:
    return (
        f"the labels of {where} are {kind}; a label is a class number, text or a boolean. Convert them, or take the "
        "images without labels with --classes none."
    )
