"""Parquet shards in the layout of Hugging Face datasets: ``SPLIT-0000k-of-0000n.parquet`` with an image and a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.data.sources.base import NO_LABEL, Findings, Part, RawImage, Reading, Source
from mdssl.data.sources.files import shard_paths
from mdssl.data.sources.labels import class_name, class_numbers, select_classes
from mdssl.errors import InputError, check_name

IMAGE_COLUMNS = ("image", "img")
# CIFAR-100 has coarse_label as well; results are reported on the fine classes.
LABEL_COLUMNS = ("label", "fine_label", "labels", "target")
# Columns that files without labels may have.
_NO_LABEL_COLUMNS = (
    *("id", "image_id", "index", "__index_level_0__", "__key__", "path", "file", "file_name", "filename"),
    *("width", "height"),
)
_BATCH_ROWS = 256
"""Rows decoded from Parquet at a time: 256 photos of 100 kB are 25 MB."""


def parquet_source(path: Path, reading: Reading | None = None) -> Source:
    """Read the shards in ``path``. Class names come from the schema's ``huggingface`` metadata, else from the labels.

    Raises:
        InputError: a shard is truncated, lacks a column, has columns of other types, or names other classes; or the
            files can be read in two ways.
    """
    reading, findings = reading or Reading(), Findings()
    files = shard_paths(path, reading, findings)
    splits = {split: [_Shard(file, path, reading=reading) for file in found] for split, found in files.items()}
    if not splits:
        raise InputError(f"{path} has no Parquet files, such as train-00000-of-00001.parquet. Give another --source.")
    shards = [shard for own in splits.values() for shard in own]
    _check_alike(path, splits)
    findings.remarks += dict.fromkeys(shard.remark for shard in shards if shard.remark)
    if unread := dict.fromkeys(name for shard in shards for name in shard.unread):
        read = ", ".join(filter(None, (shards[0].image_column, shards[0].label_column)))
        findings.remarks.append(f"columns used: {read}; not used: {', '.join(unread)}")
    labels = {split: np.concatenate([shard.labels for shard in own]) for split, own in splits.items()}
    names = next((shard.classes for shard in shards if shard.classes), None)
    classes, numbers = class_numbers(labels, names, findings, path.name)
    parts = {split: _part(own, numbers[split]) for split, own in splits.items()}
    if reading.classes:
        classes, parts = select_classes(classes, parts, reading.classes, findings, path.name)
    return Source("parquet", path.name, classes, parts, findings)


def parquet_images(path: Path) -> tuple[tuple[str, ...] | None, dict[str, Part], bool]:
    """Return the images of the shards in ``path`` by split, for purposes that need no labels.

    The label of a row without one is -1, and a row without an image has no bytes.

    Returns:
        Class names, None if the schema has none and the labels are integers; the part of each split; and whether the
        names are those of labels that are not integers.

    Raises:
        InputError: a shard is truncated, or has no column of images.
    """
    splits = {split: [_Shard(file, path, strict=False) for file in files] for split, files in shard_paths(path).items()}
    named = {shard.classes for shards in splits.values() for shard in shards}
    classes = named.pop() if len(named) == 1 else None
    labels = {split: np.concatenate([shard.labels for shard in shards]) for split, shards in splits.items()}
    from_labels = any(array.dtype.kind != "i" for array in labels.values())
    if from_labels:
        texts = {split: list(map(_label_text, array)) for split, array in labels.items()}
        classes = tuple(sorted({text for own in texts.values() for text in own if text}))
        numbers = {text: number for number, text in enumerate(classes)} | {"": NO_LABEL}
        labels = {split: np.array([numbers[text] for text in own], np.int64) for split, own in texts.items()}
    return classes, {split: _part(shards, labels[split]) for split, shards in splits.items()}, from_labels


def _label_text(label: object) -> str:
    """``label`` as text, whole numbers without a fraction; empty for none."""
    if label is None or label != label or label == NO_LABEL:
        return ""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else class_name(str(label))


def _check_alike(path: Path, splits: dict[str, list[_Shard]]) -> None:
    """Raise ``InputError`` if shards name different classes, or only some of a split have labels."""
    first, *others = (shard for own in splits.values() for shard in own)
    for shard in others:
        if shard.classes != first.classes and shard.label_column and first.label_column:
            raise InputError(
                f"{shard.name} and {first.name} name different classes. Take both from the same version of the data."
            )
    for split, own in splits.items():
        if len({bool(shard.label_column) for shard in own}) > 1:
            raise InputError(
                f"some Parquet files of {split} in {path} have a column of labels, and others have none. Take one kind "
                f"with --splits {split}=FILE, or all without labels with --classes none."
            )


class _Shard:
    """One Parquet file: its labels at once, its images in record batches.

    Attributes:
        strict: whether it must be clear which column has the labels.
        labels: (N,) as `mdssl.data.sources.labels.class_numbers` takes them.
        classes: names from the schema, or None.
        remark: a remark if the class names in the schema cannot be read, else empty.
        unread: names of the columns that are not read.
    """

    def __init__(self, path: Path, root: Path, *, strict: bool = True, reading: Reading | None = None) -> None:
        self.path = path
        self.strict = strict
        self.name = str(path.relative_to(root.parent))
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                self.image_column = _image_column(self.name, schema)
                self.label_column = self._label_column(schema, reading or Reading())
                count = file.metadata.num_rows
                column = file.read(columns=[self.label_column]).column(0) if self.label_column else None
            self.labels = np.full(count, NO_LABEL) if column is None else _values(column, self.name)
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error
        except KeyError as error:
            raise InputError(f"{self.name} has two columns of one name: {error}. Rename one of them.") from error
        self.unread = [name for name in schema.names if name not in (self.image_column, self.label_column)]
        self.classes, self.remark = _class_names(self.name, schema, self.label_column)

    def where(self, row: int) -> str:
        return f"{self.name} row {row}"

    def read(self, rows: np.ndarray) -> Iterator[RawImage]:
        """Yield the raw images of ascending ``rows``. Row groups without any of them are not read."""
        if not len(rows):
            return
        try:
            with pq.ParquetFile(self.path) as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
                borders = np.cumsum([0, *counts])
                groups, which = np.unique(np.searchsorted(borders, rows, side="right") - 1, return_inverse=True)
                # The number of each row among those of the row groups that are read.
                rows = rows - (borders[groups] - np.cumsum([0, *np.diff(borders)[groups][:-1]]))[which]
                start = 0
                for batch in file.iter_batches(_BATCH_ROWS, groups.tolist(), columns=[self.image_column]):
                    first, last = np.searchsorted(rows, [start, start + batch.num_rows])
                    images = batch.column(0)
                    for row in rows[first:last]:
                        yield self._raw(images[int(row) - start].as_py())
                    start += batch.num_rows
                    if last == len(rows):
                        return
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error

    def _raw(self, image: dict | bytes | None) -> RawImage:
        image = image if isinstance(image, dict) else {"bytes": image}
        if image.get("bytes") is not None:
            return image["bytes"]
        if image.get("path") is not None:
            return self.path.parent / image["path"]
        return b""

    def _label_column(self, schema: pa.Schema, reading: Reading) -> str | None:
        if reading.classes == ():
            return None
        if reading.label_column is not None:
            check_name(f"column of {self.name}", reading.label_column, schema.names)
            return reading.label_column
        found = next((name for name in LABEL_COLUMNS if name in schema.names), None)
        if found or not self.strict:
            return found
        others = [name for name in schema.names if name != self.image_column]
        if unclear := [name for name in others if name.lower() not in _NO_LABEL_COLUMNS]:
            raise InputError(
                f"{self.name} has no column {' or '.join(LABEL_COLUMNS)}; it has {', '.join(schema.names)}. Name the "
                f"one with the classes, such as --label-column {unclear[0]}, or read the images without labels with "
                "--classes none."
            )
        return None

    def _broken(self, error: Exception) -> InputError:
        return InputError(f"{self.path} cannot be read as Parquet: {error}. It may be truncated: fetch it again.")


def _values(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """(N,) integers, with ``NO_LABEL`` for null, or objects in which None is null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        try:
            whole = column.cast(pa.int64()).fill_null(NO_LABEL)  # type: ignore[arg-type]
            return whole.to_numpy().astype(np.int64)
        except pa.ArrowInvalid as error:
            raise InputError(f"the labels of {where} are too large for class numbers: {error}.") from error
    # Nested lists stay objects: NumPy would make a 2D array of them.
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]


def _part(shards: list[_Shard], labels: np.ndarray) -> Part:
    return replace(Part.join(*(Part(shard.labels, shard.where, shard.read) for shard in shards)), labels=labels)


def _image_column(name: str, schema: pa.Schema) -> str:
    column = next((column for column in IMAGE_COLUMNS if column in schema.names), None)
    if column is None:
        holding = [field.name for field in schema if _holds_images(field.type)]
        if len(holding) != 1:
            raise InputError(
                f"{name} has no image column; it has {', '.join(schema.names) or 'none'}. The column must be called "
                f"{' or '.join(IMAGE_COLUMNS)}, or be the only one that holds bytes. Rename the one with the images."
            )
        return holding[0]
    if not _holds_images(kind := schema.field(column).type):
        raise InputError(
            f"column {column!r} of {name} has type {kind}; it must be a struct of bytes and path, or binary, holding "
            "encoded images such as PNG or JPEG."
        )
    return column


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return pa.types.is_struct(kind) and bool({field.name for field in kind} & {"bytes", "path"})


def _class_names(file: str, schema: pa.Schema, label_column: str | None) -> tuple[tuple[str, ...] | None, str]:
    """Return the class names in the schema's metadata, and a remark if they cannot be read.

    Raises:
        InputError: two classes have one name.
    """
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None or label_column is None:
        return None, ""
    try:
        names = json.loads(metadata)["info"]["features"][label_column].get("names")
        if isinstance(names, dict):
            # As dataset cards have them: {"0": "cat", "1": "dog"}.
            names = [names[str(number)] for number in range(len(names))]
        if names is not None and not all(isinstance(name, str) for name in names):
            raise ValueError("a class name is not text")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "the class names in the schema's metadata cannot be read; the labels are used as class names"
    names = tuple(map(class_name, names or ()))
    if len(set(names)) < len(names):
        raise InputError(f"{file} gives two classes one name, in {', '.join(names[:5])}. Correct the metadata.")
    return names or None, ""
