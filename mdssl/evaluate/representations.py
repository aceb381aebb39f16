"""Representations of a dataset's test images, saved with the trial: class averages, and a sample to embed.

    trials/<trial_id>/representations/<dataset>.safetensors

A report reads only these files of a trial, and needs neither torch nor the data for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from mdssl.config.presets import place_flags
from mdssl.config.probe import FEATURES
from mdssl.config.trial import check_trial_id
from mdssl.errors import InputError
from mdssl.evaluate.sampling import SEED, sample_rows
from mdssl.storage.location import Location
from mdssl.storage.safetensors_header import safetensors_metadata
from mdssl.storage.trial_dir import storage_of, trial_dir_in

if TYPE_CHECKING:
    import torch

    from mdssl.config.trial import TrialConfig
    from mdssl.data.dataset import Dataset
    from mdssl.pretrain.model import Model

FOLDER = "representations"
SAMPLE_IMAGES = 400
"""Enough for a map of the latent space; with both layers of a ResNet-18 half a megabyte."""
_METADATA = "representations"
"""One key, with JSON as its value: safetensors writes several keys in an order that differs from run to run."""


class Layer(NamedTuple):
    """One feature layer's representations.

    Attributes:
        class_means: (C, width) float32, over all test images of a class, each l2-normalized first; NaN where a class
            has none.
        sample: (n, width) float32 (saved as float16), of some test images, not l2-normalized.
    """

    class_means: np.ndarray
    sample: np.ndarray


@dataclass(frozen=True)
class Representations:
    """Of one encoder on the test split of one dataset.

    Attributes:
        dataset: its name.
        classes: the C class names; a label is an index into them.
        layers: ``encoder``, and ``projection`` where the encoder has its head. Figures A.1 and A.2 are of the
            projection: their colors go below 0, and encoder features, which come from a ReLU, have no negative cosine.
        labels: (n,) int64, classes of the sample.
        rows: (n,) int64, where the sample is in the test split, ascending.
        fingerprint: of the test split; see `mdssl.data.dataset.Split`.
        seed: of the choice of the sample.
    """

    dataset: str
    classes: tuple[str, ...]
    layers: dict[str, Layer]
    labels: np.ndarray
    rows: np.ndarray
    fingerprint: str
    seed: int = SEED


def read(trial_dir: Location, dataset: str) -> Representations | None:
    """Read the representations of ``dataset`` from the folder of a trial; None if there are none.

    Raises:
        ValueError: the file is damaged.
    """
    file = _file(trial_dir, dataset)
    try:
        data = file.read_bytes()
        tensors = safetensors.numpy.load(data)
        description = json.loads(safetensors_metadata(data)[_METADATA])
        layers = {
            layer: Layer(tensors[f"{layer}.class_means"], tensors[f"{layer}.sample"].astype(np.float32))
            for layer in description["layers"]
        }
        sample: dict[str, Any] = {"labels": tensors["labels"], "rows": tensors["rows"]}
        source = {"fingerprint": description["fingerprint"], "seed": description["seed"]}
        return Representations(description["dataset"], tuple(description["classes"]), layers, **sample, **source)
    except FileNotFoundError:
        return None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is damaged ({type(error).__name__}: {error}). `mdssl probe {trial_dir.name} --evaluate "
            f"{dataset}{place_flags(storage_of(trial_dir))}` writes it again."
        ) from error


def write(trial_dir: Location, representations: Representations) -> None:
    """Write ``representations`` to the folder of the trial; equal ones give equal bytes."""
    tensors = {"labels": representations.labels, "rows": representations.rows}
    for name, layer in representations.layers.items():
        tensors[f"{name}.class_means"] = layer.class_means
        # Of an encoder that nearly diverged, numbers may be beyond what float16 holds.
        small = np.abs(layer.sample).max(initial=0) <= np.finfo(np.float16).max
        tensors[f"{name}.sample"] = layer.sample.astype(np.float16 if small else np.float32)
    description = {
        "dataset": representations.dataset,
        "classes": representations.classes,
        "layers": list(representations.layers),
        "fingerprint": representations.fingerprint,
        "seed": representations.seed,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    data = safetensors.numpy.save(tensors, metadata={_METADATA: json.dumps(description)})
    _file(trial_dir, representations.dataset).write_bytes(data)


def represent(model: Model, config: TrialConfig, dataset: Dataset, encoded: dict[str, torch.Tensor]) -> Representations:
    """Compute representations of the test split of ``dataset``.

    Class averages are of l2-normalized rows. The paper says "class-averaged representations" and no more; its loss
    depends on directions only, so a row's length is not trained, and must not make one image count more than others.

    Args:
        model, config: a trial's, as `mdssl.pretrain.trial_files.load_model` gives them.
        encoded: (N_test, width) features by layer, as in `mdssl.evaluate.evaluate.Encoded`; ``encoder`` at least.

    Raises:
        ValueError: a projection that is not finite.
    """
    from mdssl.evaluate.features import check_finite

    labels = np.array(dataset.split("test").labels)
    rows = np.sort(sample_rows(dataset.name, "test", labels, SAMPLE_IMAGES))
    layers = {}
    for layer in layers_of(config):
        features = encoded[layer] if layer in encoded else _projected(model, encoded["encoder"])
        check_finite(f"{layer} features", features)
        array = features.cpu().numpy()
        layers[layer] = Layer(class_means(array, labels, len(dataset.classes)), array[rows])
    fingerprint = dataset.fingerprints["test"]
    return Representations(dataset.name, dataset.classes, layers, labels[rows], rows, fingerprint)


def class_means(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, width) float32 means of the l2-normalized rows of (N, width) ``features`` by class; NaN if empty."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    means = np.full((num_classes, features.shape[1]), np.nan, dtype=np.float32)
    for label in np.unique(labels):
        means[label] = directions[labels == label].mean(axis=0, dtype=np.float64)
    return means


def is_kept(trial_dir: Location, dataset: Dataset) -> bool:
    """Whether ``trial_dir`` has complete representations of the current images of ``dataset``."""
    try:
        kept = read(trial_dir, dataset.name)
    except InputError:
        return False
    return kept is not None and kept.fingerprint == dataset.fingerprints["test"]


def of_trial(storage: str | Location, trial_id: str, datasets: Sequence[str]) -> dict[str, Representations]:
    """Read the representations of ``datasets`` that are saved with a trial; missing ones are left out.

    Raises:
        ValueError: a file is damaged.
    """
    check_trial_id(trial_id)
    trial_dir = trial_dir_in(storage, trial_id)
    found = {name: read(trial_dir, name) for name in datasets}
    return {name: kept for name, kept in found.items() if kept is not None}


def layers_of(config: TrialConfig) -> tuple[str, ...]:
    """Feature layers that a trial's encoder has: a pretrained one has no projection head."""
    return FEATURES if config.method != "pretrained" else ("encoder",)


def _projected(model: Model, encoded: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return torch.cat([model.projection(rows) for rows in encoded.split(8192)])


def _file(trial_dir: Location, dataset: str) -> Location:
    if "/" in dataset or dataset.startswith("."):
        raise InputError(f"{dataset!r} is not a dataset name: it contains a '/', or begins with a dot.")
    return trial_dir / FOLDER / f"{dataset}.safetensors"
