"""What a dataset is prepared with: settings that can work, and whether one that is there was prepared with the same."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from mdssl.data.dataset import Dataset
from mdssl.data.images import FILTERS, LARGEST_SIZE, SMALLEST_SIZE
from mdssl.data.sources.base import Reading
from mdssl.data.sources.open import DOWNLOADS, KINDS, source_state
from mdssl.data.sources.splits import PARTS
from mdssl.errors import InputError, check_name, check_number

# A '+' joins the names of a mixture, and a leading '.' hides a folder that is not finished.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def check_settings(
    name: str,
    kind: str | None,
    reading: Reading,
    image_size: int,
    resize_filter: str,
    workers: int | None,
    seed: int,
    test_fraction: float,
) -> None:
    """Raise ``ValueError`` for a setting of `mdssl.data.prepare.prepare` that cannot work."""
    if not NAME.fullmatch(name) or name == DOWNLOADS:
        raise InputError(
            f"dataset name {name!r} is not valid; allowed are up to 64 letters, digits, '-', '_' and '.', but no '.' "
            f"as the first character, and not {DOWNLOADS!r}. Choose another name."
        )
    for split in reading.splits or ():
        check_name("split", split, PARTS)
    if kind is not None:
        check_name("source kind", kind, KINDS)
    check_name("resize filter", resize_filter, FILTERS)
    hint = "Smaller images leave an encoder nothing to see, and all images of larger ones would not fit in memory."
    check_number("image size", image_size, low=SMALLEST_SIZE, high=LARGEST_SIZE, hint=hint)
    check_number("seed", seed, low=0)
    check_number("test fraction", test_fraction, low=0.01, high=0.99)
    if workers is not None:
        check_number("workers", workers, low=1)


def check_same(
    dataset: Dataset,
    source: Path | None,
    kind: str | None,
    reading: Reading,
    image_size: int,
    resize_filter: str,
    seed: int,
    test_fraction: float,
) -> None:
    """Raise ``ValueError`` if ``dataset`` was prepared with other settings; no ``source`` means any."""
    meta, origin = dataset.meta, dataset.meta["source"]
    pairs = [("image size", meta["image_size"], image_size), ("resize filter", meta["resize_filter"], resize_filter)]
    if kind is not None:
        pairs.append(("source kind", origin["kind"], kind))
    if source is not None and kind != "published":
        there, own = origin["origin"], digest(source)
        elsewhere = there == source.name and origin.get("path_digest", own) != own
        pairs.append(("source", f"{there} of another folder" if elsewhere else there, source.name))
    # Recorded only where they decided anything.
    decided = [("seed", "seed", seed), ("test fraction", "test_fraction", test_fraction)]
    pairs += [(what, meta["split"][key], asked) for what, key, asked in decided if key in meta["split"]]
    asked = recorded(reading)
    if source is not None and "reading" in meta:
        pairs += [(key, meta["reading"].get(key), asked.get(key)) for key in (*asked, *meta["reading"])]
    differences = list(dict.fromkeys(f"{what} {there}, not {now}" for what, there, now in pairs if there != now))
    if not differences and source is not None and origin.get("state"):
        state = source_state(source, origin["kind"], reading)
        if state != origin["state"]:
            then, now = (text.rpartition(" ")[0] for text in (origin["state"], state))
            counts = f"{then} then, {now} now" if then != now else f"{now}, some with other sizes or times"
            differences = [f"{origin['origin']} as it was before it changed ({counts})"]
    if differences:
        raise InputError(
            f"dataset {dataset.name!r} is already prepared with {'; '.join(differences)}. Replace it with --overwrite, "
            "or prepare it under another name."
        )


def recorded(reading: Reading) -> dict:
    """As ``meta.json`` keeps it: what was said of how to read the source."""
    said = {key: value for key, value in vars(reading).items() if value is not None}
    return said | ({"classes": list(said["classes"])} if "classes" in said else {})


def digest(source: Path | None) -> str | None:
    """Tells sources of one name apart without writing the machine's folders into the dataset."""
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:12] if source else None
