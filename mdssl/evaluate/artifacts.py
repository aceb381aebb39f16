"""Files that evaluation adds to a trial: representations of each evaluation dataset, confusion matrices, and the sheet
of neighbors.

Scores do not depend on these files, so every error is only a warning in the trial's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.data.remote import ensure_local, is_prepared_in
from mdssl.errors import InputError
from mdssl.evaluate import confusion, representations, trial_sheet
from mdssl.evaluate.evaluate import Encoded
from mdssl.evaluate.features import extract_features
from mdssl.pretrain.model import Model
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying

log = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0
"""Shorter than for scores, because scoring waits for these files."""


class TrialArtifacts:
    """Adds the datasets on which one encoder is scored, then draws its sheet; for the owner of the trial's claim."""

    def __init__(self, trial_dir: Location, config: TrialConfig, model: Model, *, data: str, device: str):
        """``data``: folder or bucket of prepared datasets."""
        self.trial_dir, self.config, self.model, self.data, self.device = trial_dir, config, model, data, device
        self.parts: dict[str, trial_sheet.Part] = {}
        self.added: list[str] = []

    def clear_up(self) -> None:
        """Remove temporary files of a process that was killed under the same claim."""
        with _only_warn("temporary files", self.trial_dir):
            (self.trial_dir / representations.FOLDER).clear_temporaries()
            self.trial_dir.clear_temporaries("neighbors")
            self.trial_dir.clear_temporaries("confusion")

    def add(self, dataset: Dataset, encoded: Encoded | None = None) -> None:
        """Write the representations of ``dataset`` unless they exist; ``encoded``: its features, if computed."""
        with _only_warn(f"representations of {dataset.name}", self.trial_dir):
            self.added.append(dataset.name)
            if encoded:
                self.parts[dataset.name] = trial_sheet.part_of(self.model, self.config, dataset, self.device, encoded)
            if not representations.is_kept(self.trial_dir, dataset):
                images, size = dataset.split("test").images, self.config.input_size
                computed = encoded.test if encoded else None
                features = computed or extract_features(self.model, images, device=self.device, input_size=size)
                found = representations.represent(self.model, self.config, dataset, features)
                representations.write(self.trial_dir, found)

    def add_confusions(self, dataset: Dataset, scores: Sequence[dict[str, Any]]) -> None:
        """Write the confusion matrices of new ``scores`` of `mdssl.evaluate.evaluate.score_dataset`."""
        with _only_warn(f"confusion matrices of {dataset.name}", self.trial_dir):
            confusion.add(
                self.trial_dir,
                [
                    {
                        "dataset": dataset.name,
                        "features": score["features"],
                        "probe": score["probe"],
                        "fingerprint": dataset.evaluation_fingerprint,
                        "classes": list(dataset.classes),
                        "seeds": score["probe_settings"].get("probe_seeds", 1),
                        "counts": score["confusion"],
                    }
                    for score in scores
                ],
            )

    def draw(self) -> None:
        """Draw the sheet of the trial's domains and of all datasets it was ever scored on, unless it exists."""
        with _only_warn("the sheet of neighbors", self.trial_dir):
            self.sheet()

    def sheet(self) -> trial_sheet.Sheet:
        """Return the content of ``neighbors.json``, which is written if necessary.

        Raises:
            ValueError: there is no dataset, or no test image, to show.
        """
        stored = trial_sheet.read_sheet(self.trial_dir)
        before = [name for name in (stored["datasets"] if stored else ()) if is_prepared_in(self.data, name)]
        names = tuple(dict.fromkeys((*self.config.domains, *before, *self.added)))
        if not names:
            raise InputError(f"trial {self.trial_dir.name} has no training domains; name datasets to show.")
        data = ensure_local(self.data, names)
        datasets = {name: open_dataset(data, name) for name in names}
        with_tests = [dataset for dataset in datasets.values() if dataset.counts["test"]]
        if not with_tests:
            raise InputError(f"{', '.join(names)}: no test images to show with their neighbors; name other datasets.")
        now = {dataset.name: trial_sheet.fingerprints_of(dataset) for dataset in with_tests}
        if stored and trial_sheet.shows(stored, now):
            return stored
        for name in names:
            if name not in self.parts:
                self.parts[name] = trial_sheet.part_of(self.model, self.config, datasets[name], self.device)
        return trial_sheet.write_sheet(self.trial_dir, self.config, [self.parts[name] for name in names])


@contextmanager
def _only_warn(what: str, trial_dir: Location) -> Iterator[None]:
    try:
        with retrying(_RETRY_SECONDS):
            yield
    # Any error: the files can be written again at any time, and scores are more important.
    except Exception as error:
        log.warning("trial %s: %s could not be saved (%s: %s)", trial_dir.name, what, type(error).__name__, error)
