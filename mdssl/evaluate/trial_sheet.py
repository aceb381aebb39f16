"""The sheet of a trial: neighbors.png, a few test images with their nearest training images, and neighbors.json.

The same images are shown for every trial, so that sheets can be compared. The numbers in the JSON are
means over more test images than the picture shows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import numpy as np

from mdssl.config.trial import TrialConfig
from mdssl.data.contact_sheet import write_png
from mdssl.data.dataset import Dataset
from mdssl.evaluate.evaluate import Encoded
from mdssl.evaluate.neighbors.search import Match, Picture, Pictures, directions, encode_rows, nearest, split_to_search
from mdssl.evaluate.neighbors.sheet import neighbor_sheet
from mdssl.evaluate.sampling import sample_rows
from mdssl.pretrain.model import Model
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import FORMER_NEIGHBORS, NEIGHBORS

PNG, JSON = NEIGHBORS
FORMAT = 1
NUM_NEIGHBORS = 8
QUERIES = 100
"""Test images of each dataset that the numbers are means over."""
CANDIDATES = 1000
"""Training images of each domain that are searched. Where the probe has not encoded them anyway, these and the queries
take about a second of a CPU core for each dataset (ResNet-18, imagenet stem, 32x32 pixels)."""
_COLORS = 160
"""Of the sheet: a third of the bytes of all colors, 100 to 150 kB for each trial."""
_ROWS = 12
_ROWS_EACH = 3


class Summary(TypedDict):
    """The neighbors of the test images of one dataset.

    Attributes:
        domains: share of neighbors by domain.
        own_domain: that of the dataset itself; None if it is not searched.
        own_class: share with the query's class, by its name, in any domain; None if no searched image has a class of
            that name. ``…_by_chance``: the same of all images that are searched.
    """

    fingerprints: list[str]
    queries: int
    domains: dict[str, float]
    own_domain: float | None
    own_domain_by_chance: float | None
    own_class: float | None
    own_class_by_chance: float | None


class Sheet(TypedDict):
    """The content of ``neighbors.json``.

    Attributes:
        candidates: training images searched, by domain.
        datasets: by name of the test images.
        in_words: a sentence for each dataset.
        rows: what the picture shows, from top to bottom.
    """

    format: int
    features: str
    neighbors: int
    candidates: dict[str, int]
    datasets: dict[str, Summary]
    in_words: list[str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """The images of one dataset for a sheet: test images as queries, training images as candidates."""

    queries: Pictures
    candidates: Pictures

    @property
    def name(self) -> str:
        return self.queries.dataset.name


def part_of(model: Model, config: TrialConfig, dataset: Dataset, device: str, encoded: Encoded | None = None) -> Part:
    """Choose and encode images of ``dataset``; features that ``encoded`` has are reused."""
    pictures = {}
    for split, count in (("test", QUERIES), ("train", CANDIDATES)):
        part = split_to_search(dataset, split)
        rows = sample_rows(dataset.name, split, part.labels, count)
        features = getattr(encoded, split).get("encoder") if encoded else None
        if not len(rows):
            found = np.zeros((0, 1), dtype=np.float32)
        elif features is None:
            found = encode_rows(model, part.images, rows, device=device, input_size=config.input_size)
        else:
            found = directions(features[rows].cpu().numpy())
        pictures[split] = Pictures(dataset, split, rows, found)
    return Part(pictures["test"], pictures["train"])


def write_sheet(trial_dir: Location, config: TrialConfig, parts: Sequence[Part]) -> Sheet:
    """Write both files, and return the content of ``neighbors.json``.

    Args:
        parts: of the trial's domains and of the datasets it was scored on. Neighbors are images of its domains, or of
            all parts if it has none, as a pretrained encoder. A part without test images has no queries.
    """
    candidates = [part.candidates for part in parts if part.name in config.domains or not config.domains]
    with_queries = [part for part in parts if len(part.queries)]
    matches = {part.name: _matches(part, candidates) for part in with_queries}
    each = max(1, min(_ROWS_EACH, _ROWS // len(with_queries)))
    shown = [match for found in matches.values() for match in found[:each]]
    domains = [pictures.dataset.name for pictures in candidates]
    counts = {pictures.dataset.name: len(pictures) for pictures in candidates}
    datasets = {part.name: _summary(part, matches[part.name], candidates) for part in with_queries}
    content: Sheet = {
        "format": FORMAT,
        "features": "encoder",
        "neighbors": NUM_NEIGHBORS,
        "candidates": counts,
        "datasets": datasets,
        "in_words": [_in_words(name, summary) for name, summary in datasets.items()],
        "rows": [_row(match) for match in shown],
    }
    sheet = neighbor_sheet(
        shown,
        domains,
        title=f"Nearest training images in the feature space of trial {config.trial_id}",
        subtitle=f"{_setting(config)}: test images, and their {NUM_NEIGHBORS} nearest of "
        f"{sum(counts.values()):,} training images",
    )
    write_png(sheet.quantize(_COLORS), trial_dir / PNG)
    # Last: if it exists, the picture matches its numbers.
    (trial_dir / JSON).write_bytes(json.dumps(content, indent=1, ensure_ascii=False).encode())
    for name in FORMER_NEIGHBORS:
        (trial_dir / name).delete()
    return content


def read_sheet(trial_dir: Location) -> Sheet | None:
    """Read the sheet of a trial; None if there is no sheet, or one of another version."""
    for name in (JSON, FORMER_NEIGHBORS[1]):
        try:
            content = json.loads((trial_dir / name).read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return cast(Sheet, content)
    return None


def shows(content: Sheet | None, fingerprints: Mapping[str, list[str]]) -> bool:
    """Whether a sheet with this JSON shows at least these datasets, as they are now (`fingerprints_of`)."""
    shown = content["datasets"] if content else {}
    return all(name in shown and shown[name]["fingerprints"] == now for name, now in fingerprints.items())


def fingerprints_of(dataset: Dataset) -> list[str]:
    return [dataset.fingerprints["train"][:16], dataset.fingerprints["test"][:16]]


def _matches(part: Part, candidates: Sequence[Pictures]) -> list[Match]:
    queries = [part.queries[index] for index in range(len(part.queries))]
    return nearest(queries, part.queries.directions, candidates, NUM_NEIGHBORS)


def _summary(part: Part, matches: Sequence[Match], candidates: Sequence[Pictures]) -> Summary:
    """Count the neighbors of one dataset's test images by domain and class."""
    sources = {pictures.dataset.name: len(pictures) for pictures in candidates}
    names = Counter(name for pictures in candidates for name in pictures.classes)
    searched = sum(sources.values())
    found = [(match.query, picture) for match in matches for picture in match.neighbors]
    by_domain = Counter(picture.source for _, picture in found)
    same = sum(query.label == picture.label for query, picture in found)
    same_by_chance = sum(names[match.query.label] for match in matches)
    is_searched, is_named = part.name in sources, same_by_chance > 0
    return {
        "fingerprints": fingerprints_of(part.queries.dataset),
        "queries": len(matches),
        "domains": {name: _share(by_domain[name], len(found)) for name in sources},
        "own_domain": _share(by_domain[part.name], len(found)) if is_searched else None,
        "own_domain_by_chance": _share(sources[part.name], searched) if is_searched else None,
        "own_class": _share(same, len(found)) if is_named else None,
        "own_class_by_chance": _share(same_by_chance, len(matches) * searched) if is_named else None,
    }


def _in_words(name: str, summary: Summary) -> str:
    domains = " and ".join(f"{share:.0%} {domain}" for domain, share in summary["domains"].items())
    text = f"Neighbors of {summary['queries']} test images of {name}: {domains}"
    if summary["own_domain"] is not None:
        text += f" (by chance {summary['own_domain_by_chance']:.0%} {name})"
    if summary["own_class"] is not None:
        text += f"; {summary['own_class']:.0%} of the query's class (by chance {summary['own_class_by_chance']:.0%})"
    return text + "."


def _row(match: Match) -> dict[str, Any]:
    pairs = zip(match.neighbors, match.similarities, strict=True)
    return _image(match.query) | {
        "neighbors": [_image(picture) | {"similarity": round(similarity, 3)} for picture, similarity in pairs]
    }


def _image(picture: Picture) -> dict[str, Any]:
    return {"dataset": picture.source, "split": picture.split, "row": picture.row, "class": picture.label}


def _setting(config: TrialConfig) -> str:
    weights = f" lambda1={config.lambda1:g} lambda2={config.lambda2:g}" if config.method.startswith("mdssl") else ""
    return f"{config.method}{weights} seed={config.seed}"


def _share(part: float, whole: float) -> float:
    return float(np.round(part / whole, 4))
