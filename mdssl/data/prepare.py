"""Prepare a dataset: convert any source to arrays of one image size and a ``meta.json``, completely or not at all."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

import mdssl
from mdssl.data.arrays import Kept, Written, write_arrays
from mdssl.data.atomic_folder import DATASET, all_or_nothing, check_target, locked
from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import META_FORMAT, SPLITS, UNLABELLED, Dataset, is_prepared, open_dataset
from mdssl.data.decode import Converted, convert_part, grey_bits
from mdssl.data.estimate import estimate
from mdssl.data.progress import byte_progress, image_progress
from mdssl.data.settings import PrepareSettings, check_dataset_name, check_same
from mdssl.data.sources.base import Part, Source, count_of
from mdssl.data.sources.catalog import USUAL_SIZE, description_of, published_as, variant_of
from mdssl.data.sources.open import open_source, owner_of_files
from mdssl.data.splits import PARTS, resolve_splits
from mdssl.errors import InputError, check_number
from mdssl.storage.location import Location
from mdssl.storage.ownership import refuse_overlap
from mdssl.terminal import printable

_SHOWN = 10
"""Number of damaged images that a message lists."""


def prepare(
    name: str,
    *,
    data: str | Path,
    download: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    skip_damaged: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dataset:
    """Prepare ``name`` in the folder ``data``, or open it if it is already prepared with the same settings.

    Several processes may prepare the same dataset at once: one does the work, the others wait and open the result.
    After an interruption, the next one takes over the images that are decoded, if they and the settings are the same.

    Args:
        name: of the prepared dataset; without a ``source``, a name of ``catalog.CATALOG``.
        data: the data folder, created if necessary.
        download: whether the raw files of a dataset of the catalog may be fetched.
        workers: processes that decode; None for one per CPU.
        overwrite: whether to replace a dataset prepared with other settings. It stays usable until the new one is
            complete.
        skip_damaged: whether to leave out images that cannot be decoded.
        progress: whether to show progress on standard error.
        options: the fields of `mdssl.data.settings.PrepareSettings`.

    Raises:
        InputError: a setting or the source is not valid, or the data folder cannot be written, is too small or holds
            files that mdssl did not write. The dataset is then as it was before.
    """
    check_dataset_name(name)
    settings = PrepareSettings(**options)
    if workers is not None:
        check_number("workers", workers, low=1)
    data = Path(data).expanduser()
    if settings.source is not None:
        refuse_overlap(settings.source, Location.of(data / name), what=DATASET.what, setting=DATASET.setting)
    if settings.source is not None or overwrite or not is_prepared(data, name):
        settings = replace(settings, kind=settings.kind_for(name))

    def already_there() -> Dataset | None:
        if overwrite or not is_prepared(data, name):
            check_target(data, name)
            return None
        dataset = open_dataset(data, name)
        check_same(dataset, settings)
        return dataset

    # Checked before the lock, which a read-only data folder does not allow, and again under the lock, because another
    # process may have prepared the dataset.
    if dataset := already_there():
        return dataset
    with _locked(data, name, progress):
        if dataset := already_there():
            return dataset
        with byte_progress(progress and download) as bar:
            source = open_source(
                name,
                data=data,
                source=settings.source,
                kind=settings.kind_for(name),
                download=download,
                progress=_count_bytes(bar, name),
                reading=settings.reading,
            )
        published = published_as(name)
        parts, classes, rule = resolve_splits(
            name,
            source,
            seed=settings.seed,
            test_fraction=settings.test_fraction,
            train_per_class=published.train_per_class if published else None,
            joins_validation=bool(published and published.joins_validation),
        )
        # Of the source's own parts, because embeddings of a folder see its images before any split.
        bits = max(map(grey_bits, source.parts.values()))
        size, resize_filter = settings.image_size, settings.resize_filter
        with all_or_nothing(data, name, resumes=True) as folder, image_progress(progress) as bar:
            expected = estimate(name, parts, size, resize_filter, unfinished=folder, workers=workers)
            if progress and expected:
                print(printable(expected), file=sys.stderr)
            total, done, is_resumed = sum(map(len, parts.values())), 0, False

            def decode(part_name: str, part: Part, kept: Kept) -> Iterator[Converted]:
                nonlocal done, is_resumed
                task = bar.add_task(f"{name} {part_name}", total=len(part))
                for chunk in convert_part(part, size, resize_filter, workers, bits, kept):
                    if chunk.is_new and is_resumed and progress:
                        print(f"{name}: continues at image {done + 1:,} of {total:,}", file=sys.stderr)
                    is_resumed = not chunk.is_new
                    yield chunk
                    count = len(chunk.images) + len(chunk.errors)
                    done += count
                    if chunk.is_new:
                        bar.advance(task, count)
                    else:
                        # No sample for the rate and the remaining time, which are those of decoding.
                        bar.tasks[task].completed += count
                        bar.update(task)

            written = write_arrays(folder, parts, len(classes), size, decode)
            _handle_damaged(name, written.damaged, source, skip_damaged)
            _check_not_empty(name, classes, written)
            source.findings.remarks += [f"{what}: {count:,}" for what, count in written.notes.items()]
            if bits:
                source.findings.remarks.append(f"grey images of more than 8 bits, scaled from 0 to {2**bits - 1:,}")
            meta = _meta(name, settings, source, classes, rule, written)
            (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return open_dataset(data, name)


def ensure_builtin(data: str | Path, names: Iterable[str]) -> None:
    """Prepare the missing built-in domains among ``names``, which takes seconds.

    Raises:
        InputError: another dataset among them is not prepared. Nothing is prepared then.
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
    """Hold the locks of ``name`` and of the dataset that shares its downloads."""
    with contextlib.ExitStack() as stack:
        for each in dict.fromkeys((owner_of_files(name), name)):
            stack.enter_context(locked(data, each, progress, resumes=True))
        yield


def _count_bytes(bar: Progress, name: str) -> Callable[[int, int | None], None]:
    """Return a progress callback for downloads. The bar appears with the first bytes."""
    task = bar.add_task(f"fetch {name}", total=None, visible=False)
    return lambda have, total: bar.update(task, completed=have, total=total, visible=True)


def _handle_damaged(name: str, damaged: list[InputError], source: Source, skip: bool) -> None:
    """Count damaged images as left out, or raise ``InputError`` that names them."""
    if not damaged:
        return
    if skip:
        source.findings.leave_out("damaged images", str(damaged[0]), len(damaged))
        every = [str(error).encode(errors="backslashreplace").decode() for error in damaged]
        source.findings.left_out["damaged images"]["all"] = every
        return
    lines = "\n".join(f"  {error}" for error in damaged[:_SHOWN])
    left = len(damaged) - _SHOWN
    more = f"\n  and {left:,} more, which meta.json lists after --skip-damaged" if left > 0 else ""
    are = "is" if len(damaged) == 1 else "are"
    raise InputError(
        f"{count_of(len(damaged), 'image')} of {name!r} {are} damaged:\n{lines}{more}\n"
        "Replace them, or leave out all damaged images with --skip-damaged. The next run uses what is decoded."
    )


def _check_not_empty(name: str, classes: tuple[str, ...], written: Written) -> None:
    """Raise ``InputError`` if a class, or the whole dataset, has damaged images only."""
    if not classes and not written.splits[UNLABELLED]["count"]:
        raise InputError(f"all images of {name!r} are damaged. Check the source.")
    for split in SPLITS if classes else ():
        counts = written.splits[split]["per_class"]
        if not sum(counts) or (split == "train" and not all(counts)):
            what = repr(classes[counts.index(0)]) if sum(counts) else "any class"
            raise InputError(
                f"all {split} images of {what} of {name!r} are damaged. Replace them, or leave the class out with "
                "--classes."
            )


def _variant(name: str, image_size: int, num_classes: int, written: Written) -> str:
    """Determine `Dataset.variant` from the numbers of images and, if known for this size, from pixels and labels."""
    counts = {UNLABELLED: 0} | {part: entry["count"] for part, entry in written.splits.items()}
    published = published_as(name)
    if (by_count := variant_of(name, classes=num_classes, **counts)) or published is None:
        return by_count
    known = published.contents if image_size == USUAL_SIZE else {}
    other = [split for split, content in known.items() if written.contents[split].hexdigest() != content]
    return f"other {' and '.join(other)} images or labels than published" if other else ""


def _meta(
    name: str, settings: PrepareSettings, source: Source, classes: tuple[str, ...], rule: dict, written: Written
) -> dict[str, Any]:
    findings = source.findings
    origin = {
        "kind": source.kind,
        "origin": source.origin.encode(errors="backslashreplace").decode(),
        "path_digest": settings.source_digest(),
    }
    if settings.source is not None:
        origin["state"] = source.state
    places = {split: findings.splits[split] for split in PARTS if split in findings.splits}
    return {
        "format": META_FORMAT,
        "name": name,
        "description": description_of(name),
        "builtin": source.kind == "builtin",
        "source": origin,
        "reading": settings.recorded_reading(),
        "classes": list(classes),
        "image_size": settings.image_size,
        "resize_filter": settings.resize_filter,
        "transparency": "composited on white",
        "split": rule | ({"from": places} if places else {}),
        "splits": written.splits,
        "left_out": findings.left_out,
        "remarks": findings.remarks,
        "mdssl_version": mdssl.__version__,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "same_pixels": written.same_pixels(),
        "variant": _variant(name, settings.image_size, len(classes), written),
    }
