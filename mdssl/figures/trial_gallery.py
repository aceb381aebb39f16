"""Which figures one trial can give: its files say."""

from __future__ import annotations

import io
from functools import partial

import pandas as pd
import pyarrow as pa

from mdssl.errors import InputError
from mdssl.figures import in_words
from mdssl.figures.entry import Entry, Gallery
from mdssl.figures.one_trial import clusters, loss_terms
from mdssl.storage.location import Location

_FIGURES = {
    "loss-terms": (
        "metrics.parquet",
        "The loss and its terms while training",
        "Total = alignment + λ1 within + λ2 across. Each panel has its own scale.",
        in_words.of_terms,
        loss_terms,
        "it has not reported yet, or has nothing to train",
    ),
    "clusters": (
        "clusters.parquet",
        "Clusters while training",
        "At each clustering: purity and normalised mutual information (NMI) against the true domains, which training "
        "never sees; the share of images that eq. 5 keeps; and the share that changed cluster.",
        in_words.of_clusters,
        clusters,
        "its method has no clusters, or it has not clustered yet",
    ),
}


def trial_gallery(trial_dir: str | Location) -> Gallery:
    """The figures of the trial whose files are in ``trial_dir``, ``trials/<trial_id>`` of a storage."""
    trial_dir = Location.of(trial_dir)
    found = Gallery()
    for kind, (file, title, caption, in_words_of, draw, why_not) in _FIGURES.items():
        try:
            table = pd.read_parquet(io.BytesIO((trial_dir / file).read_bytes()))
        except FileNotFoundError:
            found.absent[kind] = f"trial {trial_dir.name} has no {file}: {why_not}."
            continue
        except (pa.ArrowException, ValueError, OSError) as error:
            raise InputError(
                f"{trial_dir / file} cannot be read: {str(error).splitlines()[0].rstrip('.')}. Move it away to draw "
                "the trial's other figures."
            ) from error
        # What trains nothing reports nothing, and its table has not even columns.
        if table.empty:
            found.absent[kind] = f"trial {trial_dir.name} has nothing in {file}: {why_not}."
            continue
        alt, own = in_words_of(table), partial(draw, table)
        found.entries.append(Entry(figure=kind, name=kind, title=title, caption=caption, alt=alt, draw=own))
    return found
