"""What is kept of a trial to be looked at, when it is probed: its representations, and its sheet of neighbours.

Nothing of it may cost a score: what cannot be made or written is a warning in the trial's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mdssl.config.trial import TrialConfig, check_trial_id
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.data.local_copy import ensure_local, is_prepared_in
from mdssl.errors import InputError
from mdssl.evaluate import representations, trial_sheet
from mdssl.evaluate.evaluate import Encoded
from mdssl.evaluate.features import extract_features
from mdssl.pretrain.model import Model
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import trial_dir_in

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0
"""Less than scores have: they wait until this is done."""


class Seen:
    """Keeps what one encoder makes of the datasets that it is scored on, one after another; then draws its sheet.

    For whoever has the claim on the trial, else two could be in each other's way.
    """

    def __init__(self, trial_dir: Location, config: TrialConfig, model: Model, *, data: str, device: str):
        """``data``: folder or bucket of prepared datasets."""
        self.trial_dir, self.config, self.model, self.data, self.device = trial_dir, config, model, data, device
        self.parts: dict[str, trial_sheet.Part] = {}
        self.added: list[str] = []

    def clear_up(self) -> None:
        """Remove what a process that was killed under the same claim has left."""
        with _costs_no_score("what is new", self.trial_dir):
            (self.trial_dir / representations.FOLDER).clear_temporaries()
            self.trial_dir.clear_temporaries("neighbours")

    def add(self, dataset: Dataset, encoded: Encoded | None = None) -> None:
        """Keep the representations of ``dataset``, unless they are there.

        Args:
            encoded: its features, where they have just been made for a score.
        """
        with _costs_no_score(f"representations of {dataset.name}", self.trial_dir):
            self.added.append(dataset.name)
            if encoded:
                self.parts[dataset.name] = trial_sheet.part_of(self.model, self.config, dataset, self.device, encoded)
            if not representations.is_kept(self.trial_dir, dataset):
                found = representations.represent(
                    self.model, self.config, dataset, self._test_features(dataset, encoded)
                )
                representations.write(self.trial_dir, found)

    def draw(self) -> None:
        """Draw the sheet of the trial's domains and all that it was ever scored on, unless it is there."""
        with _costs_no_score("the sheet of neighbours", self.trial_dir):
            self.sheet()

    def sheet(self) -> dict[str, Any]:
        """The content of ``neighbours.json``, made anew if need be; see `draw`."""
        said = trial_sheet.read_sheet(self.trial_dir)
        before = [name for name in (said["datasets"] if said else ()) if is_prepared_in(self.data, name)]
        names = tuple(dict.fromkeys((*self.config.domains, *before, *self.added)))
        data = ensure_local(self.data, names)
        datasets = {name: open_dataset(data, name) for name in names}
        asking = [dataset for dataset in datasets.values() if dataset.counts["test"]]
        if not asking:
            raise InputError(f"{', '.join(names)}: no test images to show with their neighbours; name other datasets.")
        if trial_sheet.shows(said, {dataset.name: trial_sheet.fingerprints_of(dataset) for dataset in asking}):
            return said
        for name in names:
            if name not in self.parts:
                self.parts[name] = trial_sheet.part_of(self.model, self.config, datasets[name], self.device)
        return trial_sheet.write_sheet(self.trial_dir, self.config, [self.parts[name] for name in names])

    def _test_features(self, dataset: Dataset, encoded: Encoded | None) -> dict[str, Any]:
        if encoded:
            return encoded.test
        images = dataset.split("test").images
        return extract_features(self.model, images, device=self.device, input_size=self.config.input_size)


def sheet_of_trial(
    storage: str | Location, trial_id: str, *, data: str, datasets: Sequence[str] = (), device: str = "cpu"
) -> dict[str, Any]:
    """Make ``neighbours.png`` and ``.json`` of a trial that has none, or whose sheet lacks some of ``datasets``.

    Args:
        data: folder or bucket of prepared datasets.
        datasets: evaluation datasets to show, besides the trial's domains and all whose representations it keeps.

    Returns:
        The content of ``neighbours.json``; see `mdssl.evaluate.trial_sheet.read_sheet`.

    Raises:
        ValueError: the trial has no encoder; a dataset is not prepared; or there is none to show.
    """
    check_trial_id(trial_id)
    trial_dir = trial_dir_in(storage, trial_id)
    config, model = load_model(trial_dir, device)
    seen = Seen(trial_dir, config, model, data=data, device=device)
    kept = [name.removesuffix(".safetensors") for name in (trial_dir / representations.FOLDER).names()]
    seen.added = [*(name for name in kept if is_prepared_in(data, name)), *datasets]
    if not config.domains and not seen.added:
        raise InputError(f"trial {trial_id} was trained on nothing; name datasets to show.")
    return seen.sheet()


@contextmanager
def _costs_no_score(what: str, trial_dir: Location) -> Iterator[None]:
    try:
        with retrying(_PATIENCE_SECONDS):
            yield
    except Exception as error:
        # Of any kind: scores come first, and this can be made again at any time.
        log.warning("trial %s: %s could not be kept (%s: %s)", trial_dir.name, what, type(error).__name__, error)
