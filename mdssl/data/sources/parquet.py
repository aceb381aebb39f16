"""Parquet shards in the layout of Hugging Face datasets: ``SPLIT-0000k-of-0000n.parquet`` with an image and a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.data.sources.base import NO_LABEL, Findings, Part, RawImage, Reading, Source
from mdssl.data.sources.labels import class_name, class_numbers
from mdssl.data.sources.shards import shard_paths
from mdssl.errors import InputError, check_name

IMAGE_COLUMNS = ("image", "img")
# CIFAR-100 has coarse_label as well; the fine classes are the ones everybody reports.
LABEL_COLUMNS = ("label", "fine_label", "labels", "target")
# Beside the images in files without labels.
_NO_LABEL_COLUMNS = (
    *("id", "image_id", "index", "__index_level_0__", "__key__", "path", "file", "file_name", "filename"),
    *("width", "height"),
)

# Rows decoded from Parquet at a time: 256 photos of 100 kB are 25 MB.
BATCH_ROWS = 256


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
    shards = [shard for shards in splits.values() for shard in shards]
    for shard in shards[1:]:
        if shard.classes != shards[0].classes and shard.has_labels and shards[0].has_labels:
            raise InputError(
                f"{shard.name} and {shards[0].name} name different classes. Take both from the same version of "
                "the data."
            )
    findings.remarks += dict.fromkeys(shard.remark for shard in shards if shard.remark)
    if unread := dict.fromkeys(name for shard in shards for name in shard.unread):
        findings.remarks.append(
            f"columns that are read: {', '.join(filter(None, (shards[0].image_column, shards[0].label_column)))}; that "
            f"are not: {', '.join(unread)}"
        )
    for split, own in splits.items():
        if len({shard.has_labels for shard in own}) > 1:
            raise InputError(
                f"some Parquet files of {split} in {path} have a column of labels, and others have none. Take one kind "
                f"with --splits {split}=FILE, or all without labels with --classes none."
            )
    labels = {split: np.concatenate([shard.labels for shard in shards]) for split, shards in splits.items()}
    names = next((shard.classes for shard in shards if shard.classes), None)
    classes, numbers = class_numbers(labels, names, findings, path.name)
    parts = {split: _part(shards, numbers[split]) for split, shards in splits.items()}
    if reading.classes:
        classes, parts = only_classes(classes, parts, reading.classes, findings, path.name)
    return Source("parquet", path.name, classes, parts, findings)


def only_classes(
    classes: tuple[str, ...], parts: dict[str, Part], wanted: tuple[str, ...], findings: Findings, origin: str
) -> tuple[tuple[str, ...], dict[str, Part]]:
    """The ``wanted`` classes, in this order, and their images; images without a label stay.

    Raises:
        InputError: one of ``wanted`` is not among ``classes``.
    """
    wanted = tuple(map(class_name, wanted))
    for name in wanted:
        check_name(f"class of {origin}", name, classes)
    number = np.full(len(classes) + 1, -2)
    number[[classes.index(name) for name in wanted]] = np.arange(len(wanted))
    number[NO_LABEL] = NO_LABEL
    kept = {}
    for split, part in parts.items():
        labels = number[part.labels]
        rows = np.flatnonzero(labels != -2)
        if left := len(labels) - len(rows):
            first = int(np.flatnonzero(labels == -2)[0])
            findings.leave_out("images of classes that were not asked for", part.where(first), left)
        if len(rows):
            kept[split] = part.take(rows).labelled(labels[rows])
    return wanted, kept


def parquet_images(path: Path) -> tuple[tuple[str, ...] | None, dict[str, Part]]:
    """The images of the shards in ``path`` by split, for whoever needs no labels.

    The label of a row without one is -1, and a row without an image has no bytes.

    Returns:
        Class names, None where the schema has none; and by split its part.

    Raises:
        ValueError: a shard is truncated, or has no column of images.
    """
    splits = {split: [_Shard(file, path, strict=False) for file in files] for split, files in shard_paths(path).items()}
    shards = [shard for shards in splits.values() for shard in shards]
    named = {shard.classes for shard in shards}
    classes = named.pop() if len(named) == 1 else None
    return classes, {
        split: _part(shards, np.concatenate([_integers(shard.labels) for shard in shards]))
        for split, shards in splits.items()
    }


def _integers(labels: np.ndarray) -> np.ndarray:
    """Labels that are integers, and ``NO_LABEL`` in place of others."""
    return labels if labels.dtype.kind == "i" else np.full(len(labels), NO_LABEL)


class _Shard:
    """One Parquet file: its labels at once, its images in record batches.

    Attributes:
        strict: whether it must say which column has the labels, and every row must have an image.
        labels: (N,) as `mdssl.data.sources.labels.class_numbers` takes them.
        classes: names from the schema, None without.
        remark: on what is odd about the schema; mostly empty.
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
        self.has_labels = column is not None
        self.classes, self.remark = _class_names(self.name, schema, self.label_column)
        _check_image_type(self.name, self.image_column, schema.field(self.image_column).type)

    def read(self, rows: np.ndarray) -> Iterator[RawImage]:
        """The raw images of ascending ``rows``."""
        start = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=[self.image_column]):
                    first, last = np.searchsorted(rows, [start, start + batch.num_rows])
                    images = batch.column(0)
                    for row in rows[first:last]:
                        yield self._raw(images[int(row) - start].as_py(), int(row))
                    start += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error

    def _raw(self, image: dict | bytes | None, row: int) -> RawImage:
        image = image if isinstance(image, dict) else {"bytes": image}
        if image.get("bytes") is not None:
            return image["bytes"]
        if image.get("path") is not None and (self.path.parent / image["path"]).is_file():
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
                f"one with the classes, such as --label-column {unclear[0]}, or take the images without labels with "
                "--classes none."
            )
        return None

    def _broken(self, error: Exception) -> InputError:
        return InputError(f"{self.path} cannot be read as Parquet: {error}. It may be cut off: fetch it again.")


def _values(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """(N,) integers, with ``NO_LABEL`` for null, or objects in which None is null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        try:
            return column.cast(pa.int64()).fill_null(NO_LABEL).to_numpy().astype(np.int64)
        except pa.ArrowInvalid as error:
            raise InputError(f"the labels of {where} are too large for class numbers: {error}.") from error
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]


def _part(shards: list[_Shard], labels: np.ndarray) -> Part:
    borders = np.cumsum([0, *(len(shard.labels) for shard in shards)])

    def where(row: int) -> str:
        index = int(np.searchsorted(borders, row, side="right")) - 1
        return f"{shards[index].name} row {row - borders[index]}"

    def read(rows: np.ndarray) -> Iterator[RawImage]:
        for shard, first, last in zip(shards, borders, borders[1:], strict=False):
            yield from shard.read(rows[(rows >= first) & (rows < last)] - first)

    return Part(labels, where, read)


def _image_column(name: str, schema: pa.Schema) -> str:
    for candidate in IMAGE_COLUMNS:
        if candidate in schema.names:
            return candidate
    holding = [field.name for field in schema if _holds_images(field.type)]
    if len(holding) == 1:
        return holding[0]
    raise InputError(
        f"{name} has no image column; it has {', '.join(schema.names) or 'none'}, and looked for are "
        f"{', '.join(IMAGE_COLUMNS)}, or one alone that holds bytes. Rename the one with the images."
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return pa.types.is_struct(kind) and bool({field.name for field in kind} & {"bytes", "path"})


def _check_image_type(name: str, column: str, kind: pa.DataType) -> None:
    if not _holds_images(kind):
        raise InputError(
            f"column {column!r} of {name} has type {kind}; it must be a struct of bytes and path, or binary, holding "
            "encoded images such as PNG or JPEG."
        )


def _class_names(file: str, schema: pa.Schema, label_column: str | None) -> tuple[tuple[str, ...] | None, str]:
    """The names that the schema's metadata has for the label column, and a remark where they cannot be used.

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
            raise ValueError("a class name is no text")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "the schema's metadata names no classes in a way that can be read: the labels name them"
    names = tuple(map(class_name, names or ()))
    if len(set(names)) < len(names):
        raise InputError(f"{file} gives two classes one name, in {', '.join(names[:5])}. Correct the metadata.")
    return names or None, ""
