"""The settings with which a dataset is prepared, and the comparison with those of a dataset that exists."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdssl.data.builtin import BUILTIN
from mdssl.data.dataset import Dataset
from mdssl.data.decode import FILTERS, LARGEST_SIZE, SMALLEST_SIZE
from mdssl.data.sources.base import Reading, count_of
from mdssl.data.sources.open import DOWNLOADS, KINDS, detect_kind, source_state
from mdssl.data.splits import PARTS
from mdssl.errors import InputError, check_name, check_number

# A '+' joins the names of a mixture, and a leading '.' hides unfinished folders.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """The settings that determine the arrays of a prepared dataset.

    Attributes:
        source: file or folder to read, also as text, see ``open.LAYOUTS``; None for a dataset of the catalog.
        kind: one of ``open.KINDS``; None detects it from the source.
        reading: which splits and classes of the source to take.
        image_size: height and width in pixels.
        resize_filter: a key of ``decode.FILTERS``.
        seed: of the random choice of test images for a source without a test split, and of the training images of a
            dataset that takes some of each class.
        test_fraction: share of test images for a source without a test split.
    """

    source: Path | None = None
    kind: str | None = None
    reading: Reading = field(default_factory=Reading)
    image_size: int = 32
    resize_filter: str = "bicubic"
    seed: int = 0
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        """Raise ``InputError`` for an invalid setting."""
        if self.source is not None:
            object.__setattr__(self, "source", Path(os.path.abspath(Path(self.source).expanduser())))
        for split in self.reading.splits or ():
            check_name("split", split, PARTS)
        if self.kind is not None:
            check_name("source kind", self.kind, KINDS)
        check_name("resize filter", self.resize_filter, FILTERS)
        hint = "Smaller images have no detail for an encoder, and larger ones would not fit into memory."
        check_number("image size", self.image_size, low=SMALLEST_SIZE, high=LARGEST_SIZE, hint=hint)
        check_number("seed", self.seed, low=0)
        check_number("test fraction", self.test_fraction, low=0.01, high=0.99)

    def kind_for(self, name: str) -> str:
        """``kind``, detected if it is None. Raises ``InputError`` if ``name`` is that of a built-in domain."""
        kind = self.kind or detect_kind(name, self.source)
        if name in BUILTIN and kind != "builtin":
            raise InputError(f"the name {name!r} is that of a built-in domain. Give your own images another name.")
        return kind

    def recorded_reading(self) -> dict:
        """Return the choices of ``reading`` that the user made, for ``meta.json``."""
        chosen = {key: value for key, value in vars(self.reading).items() if value is not None}
        return chosen | ({"classes": list(chosen["classes"])} if "classes" in chosen else {})

    def source_digest(self) -> str | None:
        """Digest the path, to distinguish sources of one name without recording folders of this machine."""
        return hashlib.sha256(os.fsencode(self.source)).hexdigest()[:12] if self.source else None


def check_dataset_name(name: str) -> None:
    """Raise ``InputError`` unless ``name`` can be the name of a prepared dataset."""
    if not _NAME.fullmatch(name) or name == DOWNLOADS:
        hint = f"A folder or file goes to --source {name}." if "/" in name else "Choose another name."
        raise InputError(
            f"dataset name {name!r} is not valid; allowed are up to 64 letters, digits, '-', '_' and '.', but no '.' "
            f"as the first character, and not {DOWNLOADS!r}. {hint}"
        )


def check_same(dataset: Dataset, settings: PrepareSettings) -> None:
    """Raise ``InputError`` if ``dataset`` was prepared with other settings.

    Without a source any source is valid, and of the choices of how to read it those are compared that are given.
    """
    meta, origin, source = dataset.meta, dataset.meta["source"], settings.source
    pairs = [
        ("image size", meta["image_size"], settings.image_size),
        ("resize filter", meta["resize_filter"], settings.resize_filter),
    ]
    kind = settings.kind_for(dataset.name) if source is not None else settings.kind
    if kind is not None:
        pairs.append(("source kind", origin["kind"], kind))
    if source is not None and kind != "published":
        there, own = origin["origin"], settings.source_digest()
        elsewhere = there == source.name and origin.get("path_digest", own) != own
        pairs.append(("source", f"{there} in another folder" if elsewhere else there, source.name))
    # Recorded only if they decided anything.
    decided = [("seed", "seed", settings.seed), ("test fraction", "test_fraction", settings.test_fraction)]
    pairs += [(what, meta["split"][key], asked) for what, key, asked in decided if key in meta["split"]]
    if "reading" in meta:
        asked = settings.recorded_reading()
        for key in dict.fromkeys((*asked, *(meta["reading"] if source is not None else ()))):
            flag = f"--{key.replace('_', '-')}"
            pairs.append((flag, _in_words(meta["reading"].get(key)), _in_words(asked.get(key))))
    differences = [f"{what} {there}, not {now}" for what, there, now in pairs if there != now]
    if not differences and source is not None and origin.get("state"):
        state = source_state(source, origin["kind"], settings.reading)
        if state != origin["state"]:
            then, now = (count_of(int(text.split()[0].replace(",", "")), "file") for text in (origin["state"], state))
            counts = f"{then} then, {now} now" if then != now else f"{now}, some with other sizes or times"
            differences = [f"{origin['origin']} before it was changed ({counts})"]
    if differences:
        raise InputError(
            f"dataset {dataset.name!r} is already prepared with {'; '.join(differences)}. Replace it with --overwrite, "
            "or prepare it under another name."
        )


def _in_words(reading: Any) -> str:
    """A choice of how to read a source, as it is given to its flag."""
    if reading is None:
        return "left out"
    if isinstance(reading, dict):
        reading = [f"{split}={place}" for split, place in reading.items()]
    return (" ".join(map(str, reading)) or "none") if isinstance(reading, list | tuple) else str(reading)
