"""Convert labels of Parquet columns and npz arrays to class numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, count_of
from mdssl.errors import InputError, check_name, some_of

NOT_SELECTED = "images of classes that were not selected"
_NAMED = 5


def class_numbers(
    labels: Mapping[str, np.ndarray], names: Sequence[str] | None, findings: Findings, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return class names and, by split, the labels as int64 (N,), with ``NO_LABEL`` for missing ones.

    Args:
        labels: by split, (N,) integers, booleans, whole floats or NaN, or an object array of these or of strings.
            None and the empty string mean no label.
        names: the classes that integers index; None if each different label is a class.
        findings: receives a remark where labels are renumbered, or ``names`` are not used.
        where: the source, for messages.

    Raises:
        InputError: labels of another kind, or nearly as many different labels as images.
    """
    labels = {split: _plain(array, where) for split, array in labels.items()}
    known = [present for array in labels.values() if len(present := array[~_is_missing(array)])]
    is_text = {array.dtype.kind == "O" for array in known}
    if len(is_text) > 1:
        raise InputError(f"the labels of {where} are text in one split and numbers in another. Use one kind.")
    if not known:
        return (), {split: np.full(len(array), NO_LABEL) for split, array in labels.items()}
    are_numbers = is_text == {False}
    if names is not None and are_numbers:
        return tuple(names), {
            split: np.where(_is_missing(array), NO_LABEL, array).astype(np.int64) for split, array in labels.items()
        }
    if names is not None:
        findings.remarks.append("the labels are text, so the separate class names and their order are not used")
    different, images = np.unique(np.concatenate(known)), sum(map(len, known))
    if are_numbers:
        _check_numbers(different, any(NO_LABEL in array for array in labels.values()), findings, where)
    if len(different) > max(images / 2, 2):
        raise InputError(
            f"{where} has {len(different):,} different labels on {images:,} images, such as {different[-1]}: these "
            "are not classes. Read the images without labels with --classes none, or, of Parquet, name the column of "
            "the classes with --label-column."
        )
    if are_numbers and not np.array_equal(different, np.arange(len(different))):
        findings.remarks.append(f"the labels are used as class names: {some_of(map(str, different), _NAMED)}")
    numbered = {}
    for split, array in labels.items():
        missing = _is_missing(array)
        numbered[split] = np.full(len(array), NO_LABEL)
        numbered[split][~missing] = np.searchsorted(different, array[~missing])
    return tuple(map(str, different)), numbered


def _check_numbers(different: np.ndarray, some_missing: bool, findings: Findings, where: str) -> None:
    if some_missing:
        if list(different) == [1]:
            raise InputError(
                f"the labels of {where} are {NO_LABEL} and 1. {NO_LABEL} means that an image has no label; if it is a "
                "class, number the classes from 0."
            )
        findings.remarks.append(f"the label {NO_LABEL} means no label; classes are numbered from 0")
    if different[0] < NO_LABEL:
        raise InputError(f"{where} has the negative label {different[0]}; a label is a class number, from 0 on.")


def check_labels(name: str, split: str, part: Part, classes: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless each label is a number of one of ``classes`` or ``NO_LABEL``."""
    wrong = np.flatnonzero((part.labels < NO_LABEL) | (part.labels >= len(classes)))
    if len(wrong) == 0:
        return
    label, place = part.labels[wrong[0]], part.where(int(wrong[0]))
    if label < 0:
        raise InputError(
            f"negative label {label} in {place} ({count_of(len(wrong), 'such row')} in {split}); a label is a class "
            f"number from 0 to {len(classes) - 1}, or {NO_LABEL} for an image without a label. Correct it, or leave "
            "the image out."
        )
    raise InputError(
        f"label {label} in {place} is out of range; {name!r} has {count_of(len(classes), 'class')}, so labels go from "
        f"0 to {len(classes) - 1}. Correct the label, or name all classes."
    )


def select_classes(
    classes: tuple[str, ...], parts: dict[str, Part], wanted: tuple[str, ...], findings: Findings, origin: str
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Return the ``wanted`` classes, in this order, with their images. Images without a label stay.

    Raises:
        InputError: one of ``wanted`` is not among ``classes``, or a label is out of their range.
    """
    wanted = tuple(map(class_name, wanted))
    check_classes(wanted, classes, origin)
    number = np.full(len(classes) + 1, -2)
    number[[classes.index(name) for name in wanted]] = np.arange(len(wanted))
    number[NO_LABEL] = NO_LABEL
    kept = {}
    for split, part in parts.items():
        check_labels(origin, split, part, classes)
        labels = number[part.labels]
        rows = np.flatnonzero(labels != -2)
        if left := len(part) - len(rows):
            findings.leave_out(NOT_SELECTED, part.where(int(np.flatnonzero(labels == -2)[0])), left)
        if len(rows):
            kept[split] = replace(part.take(rows), labels=labels[rows])
    return wanted, kept


def check_classes(wanted: Sequence[str], classes: Sequence[str], origin: str) -> None:
    """Raise ``InputError`` unless all ``wanted`` classes are among ``classes`` of the source ``origin``."""
    if not classes:
        raise InputError(
            f"classes {', '.join(wanted)} cannot be selected: the images of {origin} have no labels. Leave --classes "
            "out, or give a source with class folders or labels."
        )
    for name in wanted:
        check_name(f"class of {origin}", name, classes)


def class_name(text: str) -> str:
    """Return a class name in one Unicode form: macOS writes é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", text)


def _plain(array: np.ndarray, where: str) -> np.ndarray:
    """int64, or an object array of text in which None means no label."""
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind == "O":
        found = {type(value) for value in array if value is not None}
        if found <= {str}:
            return np.array([class_name(value) if value else None for value in array], dtype=object)
        if found <= {bool, np.bool_}:
            return np.array([None if value is None else str(bool(value)) for value in array], dtype=object)
        if not found <= {int, float, np.int64, np.float64}:
            raise _wrong_kind(where, ", ".join(sorted(kind.__name__ for kind in found)))
        if found <= {int, np.int64}:
            return np.array([NO_LABEL if value is None else value for value in array], dtype=np.int64)
        array = np.array([np.nan if value is None else value for value in array], dtype=np.float64)
    if array.dtype.kind == "b":
        return np.where(array, "True", "False").astype(object)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), NO_LABEL, array)
        if not (np.abs(array) < 2**53).all() or not np.array_equal(array, np.round(array)):
            raise _wrong_kind(where, "fractions")
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        raise _wrong_kind(where, f"as large as {array.max()}")
    if array.dtype.kind not in "iuf":
        raise _wrong_kind(where, str(array.dtype))
    return array.astype(np.int64)


def _is_missing(array: np.ndarray) -> np.ndarray:
    return np.equal(array, None) if array.dtype.kind == "O" else array == NO_LABEL  # type: ignore[call-overload]


def _wrong_kind(where: str, kind: str) -> InputError:
    return InputError(
        f"the labels of {where} are {kind}; a label is a class number, text or a boolean. Convert them, or read the "
        "images without labels with --classes none."
    )
