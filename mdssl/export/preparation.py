"""How images have to be made ready for a trial's encoder: as those were that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import Dataset
from mdssl.data.decode import FILTERS, LARGEST_SIZE, SMALLEST_SIZE
from mdssl.data.mixture import fingerprint_of
from mdssl.data.remote import described_in, is_prepared_in
from mdssl.errors import InputError, check_name, check_number


@dataclass(frozen=True)
class Preparation:
    """What `mdssl.data.decode.convert` makes of an image before it is encoded.

    Attributes:
        size: height and width in pixels.
        filter: the resize filter, a key of `mdssl.data.decode.FILTERS`.
    """

    size: int
    filter: str


def preparation_of(
    config: TrialConfig,
    data: str | Path,
    *,
    scored_on: Sequence[str] = (),
    size: int | None = None,
    resize_filter: str | None = None,
) -> Preparation:
    """What the user says, and for the rest what ``meta.json`` says of the images that the trial was trained on.

    An encoder that was trained on nothing here takes its input size, where it has one, or the size of the datasets that
    it was ``scored_on``.

    Args:
        data: folder or bucket of prepared datasets.
        scored_on: names of datasets; those that are no longer prepared are passed over.
        size: pixels, as the user says.
        resize_filter: as the user says.

    Raises:
        ValueError: a size or filter that is not allowed; or it is not said, and the datasets do not tell it.
    """
    if size is not None:
        check_number("size", size, low=SMALLEST_SIZE, high=LARGEST_SIZE, hint="It is in pixels.")
    if resize_filter is not None:
        check_name("resize filter", resize_filter, FILTERS)
    if config.input_size is not None:
        size, resize_filter = size or config.input_size, resize_filter or "bicubic"
    if size is not None and resize_filter is not None:
        return Preparation(size, resize_filter)
    datasets = _datasets(config, data, scored_on)
    return Preparation(
        size or _common("size", "--size", {dataset.image_size for dataset in datasets}),
        resize_filter or _common("filter", "--filter", {dataset.meta["resize_filter"] for dataset in datasets}),
    )


def _datasets(config: TrialConfig, data: str | Path, scored_on: Sequence[str]) -> list[Dataset]:
    names = config.domains or tuple(dict.fromkeys(scored_on))
    found = [described_in(data, name) for name in names if is_prepared_in(data, name)]
    say = "Give the --data that has them, or say --size and --filter."
    if not found:
        named = ", ".join(names) or "no dataset"
        raise InputError(
            f"trial {config.trial_id} knows of {named}, prepared in {data} is none of it, and so nobody can tell how "
            f"large its images are to be. {say}"
        )
    if config.domains and fingerprint_of(found) != config.data_fingerprint:
        raise InputError(
            f"trial {config.trial_id} was trained on {config.train_mixture}, and what {data} has by these names are "
            f"other images or not all of them, so nobody can tell how large its images are to be. {say}"
        )
    return found


def _common(what: str, flag: str, found: set[Any]) -> Any:
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise InputError(f"its datasets were prepared with different {what}s ({listed}); choose one with {flag}.")
    return found.pop()
