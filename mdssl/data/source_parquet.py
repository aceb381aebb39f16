"""Parquet shards in the layout of Hugging Face datasets: ``SPLIT-0000k-of-0000n.parquet`` with an image and a label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.data.parts import SPLIT_NAMES, Part, RawImage, Source
from mdssl.errors import InputError

IMAGE_COLUMNS = ("image", "img")
# CIFAR-100 has coarse_label as well; the fine classes are the ones everybody reports.
LABEL_COLUMNS = ("label", "fine_label", "labels", "target")

# A hub download puts shards into data/ and may add a hash to their names.
SHARD = re.compile(r"(?P<split>[a-zA-Z]+)(-(?P<k>\d+)-of-(?P<n>\d+)(-[0-9a-f]+)?)?\.parquet")

# Rows decoded from Parquet at a time: 256 photos of 100 kB are 25 MB.
BATCH_ROWS = 256


def shard_paths(path: Path) -> dict[str, list[Path]]:
    """The shards in ``path`` or ``path/data`` by split, ``{"train": […], "test": […]}``; empty where there are none.

    A single file is the whole train split unless its name says another one.

    Raises:
        ValueError: one of the n shards of a split is missing.
    """
    if path.is_file():
        match = SHARD.fullmatch(path.name)
        return {SPLIT_NAMES.get(match["split"].lower(), "train") if match else "train": [path]}
    found: dict[str, dict[int, Path]] = {}
    totals: dict[str, int] = {}
    for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
        match = SHARD.fullmatch(file.name)
        if match and match["split"].lower() in SPLIT_NAMES:
            split = SPLIT_NAMES[match["split"].lower()]
            found.setdefault(split, {})[int(match["k"] or 0)] = file
            totals[split] = int(match["n"] or 1)
    for split, shards in found.items():
        missing = sorted(set(range(totals[split])) - set(shards))
        if missing:
            raise InputError(
                f"{path} has {len(shards)} of the {totals[split]} Parquet shards of {split}; number {missing[0]:05d} "
                "is missing. Fetch the rest."
            )
    return {split: [shards[k] for k in sorted(shards)] for split, shards in found.items()}


def parquet_source(path: Path) -> Source:
    """Read the shards in ``path``. Class names come from the schema's ``huggingface`` metadata, else "0", "1", ….

    Raises:
        ValueError: a shard is truncated, lacks a column, has columns of other types, or names other classes.
    """
    splits = {split: [_Shard(file, path) for file in files] for split, files in shard_paths(path).items()}
    if not splits:
        raise InputError(
            f"{path} has no Parquet shards named like train-00000-of-00001.parquet. Rename the files by their split."
        )
    parts = {split: _part(shards) for split, shards in splits.items()}
    shards = [shard for shards in splits.values() for shard in shards]
    for shard in shards[1:]:
        if shard.classes != shards[0].classes:
            raise InputError(
                f"{shard.name} and {shards[0].name} name different classes. Take both from the same version of "
                "the data."
            )
    classes = shards[0].classes
    if classes is None:
        largest = max((int(part.labels.max()) for part in parts.values() if len(part.labels)), default=-1)
        classes = tuple(str(label) for label in range(largest + 1))
    return Source("parquet", path.name, classes, parts)


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
    return named.pop() if len(named) == 1 else None, {split: _part(shards) for split, shards in splits.items()}


class _Shard:
    """One Parquet file: its labels at once, its images in record batches.

    Attributes:
        strict: whether every row must have a label and an image.
    """

    def __init__(self, path: Path, root: Path, *, strict: bool = True) -> None:
        self.path = path
        self.strict = strict
        self.name = str(path.relative_to(root.parent))
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                self.image_column = _find_column(self.name, schema, "image", IMAGE_COLUMNS)
                self.label_column = self._label_column(schema)
                count = file.metadata.num_rows
                column = file.read(columns=[self.label_column]).column(0) if self.label_column else None
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error) from error
        self.labels = np.full(count, -1) if column is None else self._checked_labels(column)
        self.classes = _class_names(schema, self.label_column)
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
        if not self.strict:
            return b""
        raise InputError(
            f"{self.name} row {row} has neither image bytes nor the path of a file beside it. Fill or remove the row."
        )

    def _label_column(self, schema: pa.Schema) -> str | None:
        if self.strict:
            return _find_column(self.name, schema, "label", LABEL_COLUMNS)
        found = [name for name in LABEL_COLUMNS if name in schema.names]
        return next((name for name in found if pa.types.is_integer(schema.field(name).type)), None)

    def _checked_labels(self, column: pa.ChunkedArray) -> np.ndarray:
        if not pa.types.is_integer(column.type):
            raise InputError(
                f"column {self.label_column!r} of {self.name} has type {column.type}; it must be integer class numbers."
            )
        if not self.strict:
            column = column.fill_null(-1)
        if column.null_count:
            row = column.is_null().to_numpy().argmax()
            raise InputError(
                f"{self.name} row {row} has no label ({column.null_count} such rows). Leave out images without a label."
            )
        return column.to_numpy().astype(np.int64)

    def _broken(self, error: Exception) -> InputError:
        return InputError(f"{self.path} cannot be read as Parquet: {error}. It may be cut off: fetch it again.")


def _part(shards: list[_Shard]) -> Part:
    borders = np.cumsum([0, *(len(shard.labels) for shard in shards)])

    def where(row: int) -> str:
        index = int(np.searchsorted(borders, row, side="right")) - 1
        return f"{shards[index].name} row {row - borders[index]}"

    def read(rows: np.ndarray) -> Iterator[RawImage]:
        for shard, first, last in zip(shards, borders, borders[1:], strict=False):
            yield from shard.read(rows[(rows >= first) & (rows < last)] - first)

    return Part(np.concatenate([shard.labels for shard in shards]), where, read)


def _find_column(name: str, schema: pa.Schema, what: str, candidates: tuple[str, ...]) -> str:
    for candidate in candidates:
        if candidate in schema.names:
            return candidate
    raise InputError(
        f"{name} has no {what} column; it has {', '.join(schema.names) or 'none'}, and looked for are "
        f"{', '.join(candidates)}. Rename the column."
    )


def _check_image_type(name: str, column: str, kind: pa.DataType) -> None:
    holds_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if holds_bytes or (pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}):
        return
    raise InputError(
        f"column {column!r} of {name} has type {kind}; it must be a struct of bytes and path, or binary, holding "
        "encoded images such as PNG or JPEG."
    )


def _class_names(schema: pa.Schema, label_column: str | None) -> tuple[str, ...] | None:
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    names = json.loads(metadata).get("info", {}).get("features", {}).get(label_column, {}).get("names")
    return tuple(names) if names else None
