"""One ``.npz`` file with ``train_images``, ``train_labels``, … or with ``x_train``, ``y_train``, …"""

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from mdssl.data.sources.base import NO_LABEL, Findings, Part, Reading, Source
from mdssl.data.sources.labels import class_name, class_numbers, select_classes
from mdssl.errors import InputError

# Keras writes the second style, MedMNIST the first with a validation part under "val". One set of images is "images".
KEYS = {
    "train": [("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")],
    "test": [("test_images", "test_labels"), ("x_test", "y_test")],
    "validation": [("val_images", "val_labels"), ("x_val", "y_val")],
    "unlabelled": [("unlabelled_images", ""), ("unlabeled_images", "")],
}
_KNOWN_KEYS = {"classes"} | {key for styles in KEYS.values() for pair in styles for key in pair}


def npz_source(path: Path, reading: Reading | None = None) -> Source:
    """Read ``path``: images uint8 (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H, W, 4), labels (N,) or (N, 1).

    Labels are numbers, text or booleans; images without labels are for pretraining. An array ``classes`` of strings
    names the classes that integers index.

    Raises:
        InputError: the file is truncated, needs unpickling or lacks arrays, or an array has a wrong shape or type.
    """
    reading, findings = reading or Reading(), Findings()
    if reading.splits is not None or reading.label_column:
        raise InputError(
            f"the array names of {path} define its splits and labels, such as train_images and train_labels. Leave "
            "--splits and --label-column out."
        )
    arrays, found = _load(path)
    parts, labels, used = {}, {}, {"classes"}
    for split, styles in KEYS.items():
        for images_key, labels_key in styles:
            if images_key in arrays and split not in parts:
                # The labels may have a key of another style.
                keys = [labels_key, *(key for _, key in styles)]
                own = next((key for key in keys if key in arrays and reading.classes != ()), "")
                parts[split] = _part(path, images_key, arrays[images_key])
                labels[split] = _labels(path, images_key, len(arrays[images_key]), own, arrays.get(own))
                findings.splits[split] = images_key
                used |= {images_key, own}
    if not parts.keys() & {"train", "unlabelled"}:
        raise InputError(
            f"{path} has the arrays {', '.join(found) or 'none'}; needed are train_images and train_labels, or x_train "
            "and y_train; or images alone. Rename them."
        )
    if unused := [key for key in found if key not in used]:
        findings.leave_out("arrays with other names", unused[0], len(unused))
    classes, numbers = class_numbers(labels, _classes(path, arrays.get("classes")), findings, path.name)
    parts = {split: replace(part, labels=numbers[split]) for split, part in parts.items()}
    if reading.classes:
        classes, parts = select_classes(classes, parts, reading.classes, findings, path.name)
    return Source("npz", path.name, classes, parts, findings)


def _load(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays with known names, and all names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in _KNOWN_KEYS}
            found = list(file.files)
        if plain := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"its member {plain[0]} is not an array")
        return arrays, found
    # Truncated archives raise any of these, depending on where they end.
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        if not zipfile.is_zipfile(path):
            why = "it is not a zip file of arrays, or is truncated"
        else:
            why = "it holds Python objects" if "pickle" in str(error) else str(error)
        raise InputError(
            f"{path} cannot be read as npz: {why}. Write it again with numpy.savez_compressed and plain arrays."
        ) from error


def _part(path: Path, key: str, images: np.ndarray) -> Part:
    if images.dtype != np.uint8:
        raise InputError(
            f"{key} of {path} has dtype {images.dtype}; it must be uint8 with values from 0 to 255. Convert it "
            "before saving."
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)) or 0 in images.shape[1:]:
        raise InputError(
            f"{key} of {path} has shape {images.shape}; it must be (N, H, W), (N, H, W, 1), (N, H, W, 3) or "
            f"(N, H, W, 4). {_shape_hint(images.shape)}"
        )
    return Part(
        np.full(len(images), NO_LABEL),
        lambda row: f"{path.name} {key} row {row}",
        lambda rows: (images[row] for row in rows),
    )


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3, 4):
        return "Move the channels last."
    if len(shape) in (4, 5) and 2 * min(shape[1:4]) >= max(shape[1:4]) > 0:
        return (
            "These look like volumes, as in the 3D datasets of MedMNIST, and mdssl reads 2D images. Save slices "
            "instead, such as images[:, images.shape[1] // 2]."
        )
    return "Save it again in one of these shapes."


def _labels(path: Path, images_key: str, count: int, key: str, labels: np.ndarray | None) -> np.ndarray:
    if labels is None:
        return np.full(count, NO_LABEL)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise InputError(
            f"{key} of {path} has shape {labels.shape}; it must be ({count},), one per image of {images_key}."
        )
    return labels


def _classes(path: Path, names: np.ndarray | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise InputError(
            f"classes of {path} has dtype {names.dtype} and shape {names.shape}; it must list different strings."
        )
    return tuple(class_name(name) for name in names.tolist())
