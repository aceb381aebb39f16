"""One ``.npz`` file with ``train_images``, ``train_labels``, … or with ``x_train``, ``y_train``, …"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mdssl.data.parts import Part, Source
from mdssl.errors import InputError

# Keras writes the second style, MedMNIST the first with a validation part under "val".
KEYS = {
    "train": [("train_images", "train_labels"), ("x_train", "y_train")],
    "test": [("test_images", "test_labels"), ("x_test", "y_test")],
    "validation": [("val_images", "val_labels"), ("x_val", "y_val")],
}


def npz_source(path: Path) -> Source:
    """Read ``path``: images uint8 (N, H, W), (N, H, W, 1), (N, H, W, 3) or (N, H, W, 4), labels integer (N,) or (N, 1).

    An array ``classes`` of strings names the classes; without it they are called "0", "1", ….

    Raises:
        ValueError: the file is truncated, needs unpickling, lacks arrays, or an array has a wrong shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in _known_keys()}
            found = list(file.files)
    # Truncated archives surface as any of these, depending on where they end.
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as npz: {error}. Write it again with numpy.savez_compressed and plain arrays."
        ) from error
    parts = {}
    for split, styles in KEYS.items():
        for images_key, labels_key in styles:
            if images_key in arrays and labels_key in arrays:
                parts[split] = _part(path, images_key, arrays[images_key], labels_key, arrays[labels_key])
    if "train" not in parts:
        raise InputError(
            f"{path} has the arrays {', '.join(found) or 'none'}; needed are train_images and train_labels, or x_train "
            "and y_train. Rename them."
        )
    return Source("npz", path.name, _classes(path, arrays.get("classes"), parts), parts)


def _known_keys() -> set[str]:
    return {"classes"} | {key for styles in KEYS.values() for pair in styles for key in pair}


def _part(path: Path, images_key: str, images: np.ndarray, labels_key: str, labels: np.ndarray) -> Part:
    if images.dtype != np.uint8:
        raise InputError(
            f"{images_key} of {path} has dtype {images.dtype}; it must be uint8 with values from 0 to 255. Convert it "
            "before saving."
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)) or 0 in images.shape[1:]:
        raise InputError(
            f"{images_key} of {path} has shape {images.shape}; it must be (N, H, W), (N, H, W, 1), (N, H, W, 3) or "
            "(N, H, W, 4). Move the channels last."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise InputError(
            f"{labels_key} of {path} has dtype {labels.dtype} and shape {labels.shape}; it must be integers of shape "
            f"({len(images)},), one per image of {images_key}."
        )

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        return (images[row] for row in rows)

    return Part(labels.astype(np.int64), lambda row: f"{path.name} {images_key} row {row}", read)


def _classes(path: Path, names: np.ndarray | None, parts: dict[str, Part]) -> tuple[str, ...]:
    if names is None:
        largest = max((int(part.labels.max()) for part in parts.values() if len(part.labels)), default=-1)
        count = sum(len(part.labels) for part in parts.values())
        if largest >= max(count, 2):
            raise InputError(
                f"{path} has the label {largest}, but only {count} images; a label is a class number, counted from 0. "
                "Number the classes anew, or name all of them in an array 'classes'."
            )
        return tuple(str(label) for label in range(largest + 1))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        raise InputError(
            f"classes of {path} has dtype {names.dtype} and shape {names.shape}; it must list different strings."
        )
    return tuple(names.tolist())
