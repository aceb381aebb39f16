"""Preparing a dataset once: any source in, arrays of one size with a ``meta.json`` out, all of it or nothing."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.progress import Progress

import mdssl
from mdssl.data.builtin import BUILTIN
from mdssl.data.catalog import description_of, train_per_class
from mdssl.data.convert import convert_part
from mdssl.data.images import FILTERS
from mdssl.data.parts import Part, Source, resolve_splits
from mdssl.data.prepared import META_FORMAT, SPLITS, UNLABELLED, Dataset, Fingerprint, is_prepared, open_dataset
from mdssl.data.progress import byte_progress, image_progress
from mdssl.data.raw_files import owner_of_files
from mdssl.data.sources import DOWNLOADS, KINDS, detect_kind, open_source
from mdssl.data.staging import all_or_nothing, locked
from mdssl.errors import InputError, check_name, check_number

SMALLEST_SIZE, LARGEST_SIZE = 8, 1024

# A '+' joins the names of a mixture, and a leading '.' hides a folder that is not finished.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def prepare(
    name: str,
    *,
    data: str | Path,
    source: str | Path | None = None,
    kind: str | None = None,
    download: bool = False,
    image_size: int = 32,
    resize_filter: str = "bicubic",
    workers: int | None = None,
    overwrite: bool = False,
    seed: int = 0,
    test_fraction: float = 0.2,
    progress: bool = True,
) -> Dataset:
    """Prepare ``name`` in the folder ``data``, or open it where that was done before with the same settings.

    Any number of processes may ask for the same dataset at once: one prepares it, the others wait and open the result.

    Args:
        name: what it will be called; without a ``source``, one of ``catalog.CATALOG``.
        data: the data folder; made if need be.
        source: file or folder to read, see ``sources.LAYOUTS``.
        kind: one of ``sources.KINDS``; None goes by what ``source`` holds.
        download: whether the raw files of a catalogue dataset may be fetched.
        image_size: height and width in pixels.
        resize_filter: a key of ``images.FILTERS``, for images of another size.
        workers: processes that decode; None takes one per CPU.
        overwrite: whether to replace what was prepared before; it stays usable until the new one is complete.
        seed: of the choice of test images, for a source without a test split, and of that of training images, for a
            dataset that takes some of each class.
        test_fraction: of the test images, for a source without a test split.
        progress: whether to show progress on standard error.

    Raises:
        ValueError: a setting, the source or the data folder is no good; nothing half-written is left.
    """
    _check_settings(name, kind, image_size, resize_filter, workers, seed, test_fraction)
    data = Path(data).expanduser()
    source = None if source is None else Path(source).expanduser().absolute()
    if kind is None and (source is not None or overwrite or not is_prepared(data, name)):
        kind = detect_kind(name, source)
    if name in BUILTIN and kind not in (None, "builtin"):
        raise InputError(f"the name {name!r} belongs to a built-in domain. Give your own images another name.")

    def already_there() -> Dataset | None:
        if overwrite or not is_prepared(data, name):
            return None
        dataset = open_dataset(data, name)
        _check_same(dataset, source, kind, image_size, resize_filter, seed, test_fraction)
        return dataset

    # Asked before and after the lock: the first saves a read-only data folder from being locked, the second finds what
    # another process finished meanwhile.
    if dataset := already_there():
        return dataset
    with _locked(data, name, progress):
        if dataset := already_there():
            return dataset
        with byte_progress(progress and download) as bar:
            fetched = _count_bytes(bar, name)
            opened = open_source(name, data=data, source=source, kind=kind, download=download, progress=fetched)
        chosen = train_per_class(name)
        splits, rule = resolve_splits(name, opened, seed=seed, test_fraction=test_fraction, train_per_class=chosen)
        with all_or_nothing(data, name) as folder, image_progress(progress) as bar:
            written = {}
            for split in SPLITS:
                parts = {split: splits[split]}
                if split == "train" and UNLABELLED in splits:
                    parts[UNLABELLED] = splits[UNLABELLED]
                streams = {}
                for stream, part in parts.items():
                    advance = partial(bar.advance, bar.add_task(f"{name} {stream}", total=len(part.labels)))
                    streams[stream] = _counted(convert_part(part, image_size, resize_filter, workers), advance)
                written |= _write_split(folder / split, parts, len(opened.classes), image_size, streams)
            meta = _meta(name, source, opened, image_size, resize_filter, rule, written)
            (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return open_dataset(data, name)


def ensure_builtin(data: str | Path, names: Iterable[str]) -> None:
    """Prepare those of ``names`` that are built-in domains and not there yet, which takes seconds.

    Raises:
        ValueError: another of them is not prepared; nothing is made then.
    """
    names = tuple(names)
    for name in names:
        if name not in BUILTIN:
            open_dataset(data, name)
    for name in names:
        if name in BUILTIN and not is_prepared(Path(data).expanduser(), name):
            prepare(name, data=data, workers=1, progress=False)


@contextlib.contextmanager
def _locked(data: Path, name: str, progress: bool) -> Iterator[None]:
    """Hold the lock of ``name``, and before it that of the dataset whose downloads it shares."""
    with contextlib.ExitStack() as stack:
        for each in dict.fromkeys((owner_of_files(name), name)):
            stack.enter_context(locked(data, each, progress))
        yield


def _check_settings(
    name: str,
    kind: str | None,
    image_size: int,
    resize_filter: str,
    workers: int | None,
    seed: int,
    test_fraction: float,
) -> None:
    if not NAME.fullmatch(name) or name == DOWNLOADS:
        raise InputError(
            f"dataset name {name!r} is not valid; allowed are letters, digits, '-', '_' and '.', not as the first "
            f"character, and not {DOWNLOADS!r}. Choose another name."
        )
    if kind is not None:
        check_name("source kind", kind, KINDS)
    check_name("resize filter", resize_filter, FILTERS)
    mend = "Smaller images leave an encoder nothing to see, and all images of larger ones would not fit in memory."
    check_number("image size", image_size, low=SMALLEST_SIZE, high=LARGEST_SIZE, mend=mend)
    check_number("seed", seed, low=0)
    check_number("test fraction", test_fraction, low=0.01, high=0.99)
    if workers is not None:
        check_number("workers", workers, low=1)


def _check_same(
    dataset: Dataset,
    source: Path | None,
    kind: str | None,
    image_size: int,
    resize_filter: str,
    seed: int,
    test_fraction: float,
) -> None:
    """Raise ``ValueError`` if ``dataset`` was prepared with other settings; no ``source`` means any."""
    meta = dataset.meta
    pairs = [("image size", meta["image_size"], image_size), ("resize filter", meta["resize_filter"], resize_filter)]
    if kind is not None:
        pairs.append(("source kind", meta["source"]["kind"], kind))
    if source is not None and kind != "published":
        there, digest = meta["source"]["origin"], _digest(source)
        elsewhere = there == source.name and meta["source"].get("path_digest", digest) != digest
        pairs.append(("source", f"{there} of another folder" if elsewhere else there, source.name))
    # Recorded only where they decided anything.
    decided = [("seed", "seed", seed), ("test fraction", "test_fraction", test_fraction)]
    pairs += [(what, meta["split"][key], asked) for what, key, asked in decided if key in meta["split"]]
    differences = [f"{what} {there}, not {asked}" for what, there, asked in pairs if there != asked]
    if differences:
        raise InputError(
            f"dataset {dataset.name!r} is already prepared with {'; '.join(differences)}. Replace it with --overwrite, "
            "or prepare it under another name."
        )


def _digest(source: Path | None) -> str | None:
    """Tells sources of one name apart without writing the machine's folders into the dataset."""
    return hashlib.sha256(str(source).encode()).hexdigest()[:12] if source else None


def _count_bytes(bar: Progress, name: str) -> Callable[[int, int | None], None]:
    """A callback for downloads; the bar shows up with the first bytes."""
    task = bar.add_task(f"fetch {name}", total=None, visible=False)
    return lambda have, total: bar.update(task, completed=have, total=total, visible=True)


def _counted(chunks: Iterator[np.ndarray], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield chunk
        advance(len(chunk))


def _write_split(
    folder: Path, parts: dict[str, Part], num_classes: int, size: int, streams: dict[str, Iterator[np.ndarray]]
) -> dict:
    """Write ``images.npy`` and ``labels.npy`` of a split; returns what ``meta.json`` says of each of ``parts``.

    Args:
        folder: the folder of the split, by its name and not there yet.
        parts: the split by its name, and maybe the unlabelled images that follow it in ``images.npy``.
        num_classes: for the counts by class.
        size: height and width of the images.
        streams: by part, its images in chunks, uint8 (n, size, size, 3).
    """
    counts = {name: len(part.labels) for name, part in parts.items()}
    fingerprints = {name: Fingerprint(count, size) for name, count in counts.items()}
    folder.mkdir()
    # Appended, not written through a memory map, in which a full disk would end the process instead of raising.
    with open(folder / "images.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (sum(counts.values()), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for name, chunks in streams.items():
            for chunk in chunks:
                file.write(chunk.data)
                fingerprints[name].update(chunk)
        _to_disk(file)
    written: dict[str, dict] = {name: {"count": count} for name, count in counts.items()}
    labels = parts[folder.name].labels
    with open(folder / "labels.npy", "wb") as file:
        np.save(file, labels)
        _to_disk(file)
    fingerprints[folder.name].update(labels)
    written[folder.name]["per_class"] = np.bincount(labels, minlength=num_classes).tolist()
    for name, fingerprint in fingerprints.items():
        written[name]["sha256"] = fingerprint.hexdigest()
    return written


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _meta(
    name: str, source: Path | None, opened: Source, image_size: int, resize_filter: str, rule: dict, splits: dict
) -> dict:
    return {
        "format": META_FORMAT,
        "name": name,
        "description": description_of(name),
        "builtin": opened.kind == "builtin",
        "source": {"kind": opened.kind, "origin": opened.origin, "path_digest": _digest(source)},
        "classes": list(opened.classes),
        "image_size": image_size,
        "resize_filter": resize_filter,
        "transparency": "composited on white",
        "split": rule,
        "splits": splits,
        "mdssl_version": mdssl.__version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
