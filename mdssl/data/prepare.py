"""Preparing a dataset once: any source in, arrays of one size with a ``meta.json`` out, all of it or nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from rich.progress import Progress

import mdssl
from mdssl.data.builtin import BUILTIN
from mdssl.data.convert import Converted, convert_part
from mdssl.data.dataset import (
    META_FORMAT,
    SPLITS,
    UNLABELLED,
    Dataset,
    is_prepared,
    open_dataset,
)
from mdssl.data.prepare_settings import check_same, check_settings, digest, recorded
from mdssl.data.progress import byte_progress, image_progress
from mdssl.data.sources.arrays import Content, same_pixels, write_split
from mdssl.data.sources.base import Reading, Source
from mdssl.data.sources.catalog import description_of, published_as, variant_of
from mdssl.data.sources.open import detect_kind, open_source, source_state
from mdssl.data.sources.raw_files import owner_of_files
from mdssl.data.sources.splits import PARTS, resolve_splits
from mdssl.data.staging import DATASET, all_or_nothing, locked
from mdssl.errors import InputError
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_replaceable, refuse_overlap

_SHOWN = 10
"""Damaged images that a message names."""


def prepare(
    name: str,
    *,
    data: str | Path,
    source: str | Path | None = None,
    kind: str | None = None,
    reading: Reading | None = None,
    download: bool = False,
    image_size: int = 32,
    resize_filter: str = "bicubic",
    workers: int | None = None,
    overwrite: bool = False,
    skip_damaged: bool = False,
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
        reading: which splits and classes of ``source`` to take; None goes by its names.
        download: whether the raw files of a catalogue dataset may be fetched.
        image_size: height and width in pixels.
        resize_filter: a key of ``images.FILTERS``, for images of another size.
        workers: processes that decode; None takes one per CPU.
        overwrite: whether to replace what was prepared before; it stays usable until the new one is complete.
        skip_damaged: whether to leave out images that cannot be decoded.
        seed: of the choice of test images, for a source without a test split, and of that of training images, for a
            dataset that takes some of each class.
        test_fraction: of the test images, for a source without a test split.
        progress: whether to show progress on standard error.

    Raises:
        ValueError: a setting, the source or the data folder is no good, or holds files that mdssl did not write;
            nothing half-written is left.
    """
    reading = reading or Reading()
    check_settings(name, kind, reading, image_size, resize_filter, workers, seed, test_fraction)
    data = Path(data).expanduser()
    source = None if source is None else Path(os.path.abspath(Path(source).expanduser()))
    target = Location.of(data / name)
    if source is not None:
        refuse_overlap(source, target, what=DATASET.what, setting=DATASET.setting)
    if kind is None and (source is not None or overwrite or not is_prepared(data, name)):
        kind = detect_kind(name, source)
    if name in BUILTIN and kind not in (None, "builtin"):
        raise InputError(f"the name {name!r} belongs to a built-in domain. Give your own images another name.")

    def already_there() -> Dataset | None:
        if overwrite or not is_prepared(data, name):
            check_replaceable(target, DATASET)
            return None
        dataset = open_dataset(data, name)
        check_same(dataset, source, kind, reading, image_size, resize_filter, seed, test_fraction)
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
            opened = open_source(
                name, data=data, source=source, kind=kind, download=download, progress=fetched, reading=reading
            )
        published = published_as(name)
        splits, classes, rule = resolve_splits(
            name,
            opened,
            seed=seed,
            test_fraction=test_fraction,
            train_per_class=published.train_per_class if published else None,
            joins_validation=published.joins_validation if published else False,
        )
        with all_or_nothing(data, name) as folder, image_progress(progress) as bar:
            written: dict[str, dict] = {}
            contents: dict[str, Content] = {}
            damaged: list[InputError] = []
            notes: Counter[str] = Counter()
            for split in SPLITS:
                parts = {split: splits[split]}
                if split == "train" and UNLABELLED in splits:
                    parts[UNLABELLED] = splits[UNLABELLED]
                streams = {}
                for stream, part in parts.items():
                    advance = partial(bar.advance, bar.add_task(f"{name} {stream}", total=len(part.labels)))
                    streams[stream] = _counted(convert_part(part, image_size, resize_filter, workers), advance)
                damaged += write_split(folder / split, parts, classes, image_size, streams, written, contents, notes)
            _answer_damaged(name, damaged, opened, skip_damaged)
            _check_not_empty(name, classes, written)
            opened.findings.remarks += [f"{what}: {count:,}" for what, count in notes.items()]
            meta = _meta(name, source, opened, classes, reading, image_size, resize_filter, rule, written)
            meta["same_pixels"] = same_pixels(contents)
            meta["variant"] = _variant(name, meta, contents)
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


def _count_bytes(bar: Progress, name: str) -> Callable[[int, int | None], None]:
    """A callback for downloads; the bar shows up with the first bytes."""
    task = bar.add_task(f"fetch {name}", total=None, visible=False)
    return lambda have, total: bar.update(task, completed=have, total=total, visible=True)


def _counted(chunks: Iterator[Converted], advance: Callable[[int], None]) -> Iterator[Converted]:
    for chunk in chunks:
        yield chunk
        advance(len(chunk.images) + len(chunk.errors))


def _answer_damaged(name: str, damaged: list[InputError], opened: Source, skip: bool) -> None:
    """Raise ``ValueError`` that names damaged images, or count them where they are to be skipped."""
    if not damaged:
        return
    if skip:
        opened.findings.leave_out("damaged images", str(damaged[0]), len(damaged))
        return
    listed = "\n".join(f"  {error}" for error in damaged[:_SHOWN])
    more = f"\n  and {len(damaged) - _SHOWN:,} more" if len(damaged) > _SHOWN else ""
    raise InputError(
        f"{len(damaged):,} images of {name!r} are damaged:\n{listed}{more}\n"
        "Replace them, or leave out all that are damaged with --skip-damaged."
    )


def _check_not_empty(name: str, classes: tuple[str, ...], written: dict[str, dict]) -> None:
    """Raise ``ValueError`` where damaged images have left a class, or the whole of it, without any."""
    if not classes and not written[UNLABELLED]["count"]:
        raise InputError(f"all images of {name!r} are damaged. Check the source.")
    for split in SPLITS if classes else ():
        counts = written[split]["per_class"]
        if not sum(counts) or (split == "train" and not all(counts)):
            what = repr(classes[counts.index(0)]) if sum(counts) else "any class"
            raise InputError(
                f"all {split} images of {what} of {name!r} are damaged. Replace them, or leave the class out with "
                "--classes."
            )


def _variant(name: str, meta: dict, contents: dict[str, Content]) -> str:
    """See `Dataset.variant`: by numbers, and for the size at which they are known by the pixels and labels too."""
    counts = {UNLABELLED: 0} | {split: said["count"] for split, said in meta["splits"].items()}
    published = published_as(name)
    if (by_count := variant_of(name, classes=len(meta["classes"]), **counts)) or published is None:
        return by_count
    known = published.contents if meta["image_size"] == 32 else {}
    other = [split for split, content in known.items() if contents[split].hexdigest() != content]
    return f"other {' and '.join(other)} images or labels than published" if other else ""


def _meta(
    name: str,
    source: Path | None,
    opened: Source,
    classes: tuple[str, ...],
    reading: Reading,
    image_size: int,
    resize_filter: str,
    rule: dict,
    splits: dict,
) -> dict:
    named = opened.origin.encode(errors="backslashreplace").decode()
    origin = {"kind": opened.kind, "origin": named, "path_digest": digest(source)}
    if source is not None:
        origin["state"] = source_state(source, opened.kind, reading)
    places = {split: opened.findings.splits[split] for split in PARTS if split in opened.findings.splits}
    return {
        "format": META_FORMAT,
        "name": name,
        "description": description_of(name),
        "builtin": opened.kind == "builtin",
        "source": origin,
        "reading": recorded(reading),
        "classes": list(classes),
        "image_size": image_size,
        "resize_filter": resize_filter,
        "transparency": "composited on white",
        "split": rule | ({"from": places} if places else {}),
        "splits": splits,
        "left_out": opened.findings.left_out,
        "remarks": opened.findings.remarks,
        "mdssl_version": mdssl.__version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
