"""Fine-tuning: encoder and a linear layer trained together on a few labelled images.

SimCLR's protocol (Chen et al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations", appendix
B.5): 1 % or 10 % of the training images, balanced over the classes; Nesterov momentum 0.9, learning rate 0.05 × batch
size / 256, without warm-up and weight decay; random crops and flips alone; 60 epochs at 1 %, 30 at 10 %. The linear
layer starts at zero and the rate decays along a cosine, as in the authors' code. Their batch of 4,096 is 256 here,
because datasets are smaller.

The images that are seen are epochs × fraction of the training images: 0.6 passes over all of them at 1 %, 3 at 10 %.
They are chosen from those that are not held out for validation; a fraction near 1 asks for more than these.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import Recipe
from mdssl.data.dataset import Dataset
from mdssl.data.mixture import domain_key
from mdssl.errors import InputError
from mdssl.evaluate.classifier import Classifier, ProbeResult, result_of
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.sampling import sample_rows
from mdssl.pretrain.augment import Views, augment, draw, resized

log = logging.getLogger(__name__)

_MOMENTUM = 0.9
_RATE_PER_256 = 0.05
_VIEWS = Recipe(jitter_strength=0.0, blur_probability=0.0)
_DOMAIN = domain_key("finetune")
_LOG_SECONDS = 30.0


class Tuned(NamedTuple):
    """The result of one fine-tuning; ``val_top1`` is that of the held-out training images, percent, if any."""

    result: ProbeResult
    val_top1: float | None


class _Whole(nn.Module):
    """An encoder with a linear layer, in the form of a model for `extract_features`: its projections are logits."""

    def __init__(self, encoder: nn.Module, width: int, num_classes: int):
        super().__init__()
        self.encoder, self.projection = encoder, nn.Linear(width, num_classes)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.projection(self.encoder(images))
        return logits


def finetune(
    model: nn.Module,
    dataset: Dataset,
    *,
    config: ProbeConfig,
    rows_held_out: tuple[np.ndarray, np.ndarray] | None,
    width: int,
    seed: int,
    device: str | torch.device = "cpu",
    input_size: int | None = None,
) -> Tuned:
    """Fine-tune a copy of the encoder of ``model``, in float32, and score it on the test part.

    Args:
        config: one of `ProbeConfig.each`.
        rows_held_out: training images to choose from, and those to validate on; None: choose from all.
        width: of the encoder's features.
        seed: of the choice of images, their order and their views.
        input_size: as for `mdssl.evaluate.features.extract_features`.

    Raises:
        ValueError: training diverged, or features are not finite.
    """
    train, test, classes = dataset.split("train"), dataset.split("test"), len(dataset.classes)
    labels = np.array(train.labels)
    rows = labelled_rows(dataset, config, rows_held_out, seed)
    images, y = torch.from_numpy(np.array(train.images[rows])), torch.from_numpy(labels[rows])
    batch = min(config.batch, len(rows))
    (rate,) = config.probe_learning_rate or (_RATE_PER_256 * batch / 256,)
    steps = config.epochs * (len(rows) // batch)
    log.info("%s: fine-tuning on %d of %d images, %d steps of %d", dataset.name, len(rows), len(labels), steps, batch)
    # Of the caller's random states none is used or changed.
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        whole = _Whole(copy.deepcopy(model.encoder), width, classes).to(device).float()  # type: ignore[arg-type]
        batches = _batches(len(rows), batch, config.epochs, seed)
        for done, loss in _steps(whole, images, y, batches, rate=rate, steps=steps, seed=seed, input_size=input_size):
            if not math.isfinite(loss):
                raise InputError(
                    f"fine-tuning diverged at learning rate {rate:g}; give a smaller --probe-learning-rate."
                )
            log.info("%s: fine-tuning step %d of %d, loss %.3f", dataset.name, done, steps, loss)

    def logits(images: np.ndarray) -> torch.Tensor:
        found = extract_features(whole, images, layers=("projection",), device=device, input_size=input_size)
        return found["projection"]

    y_test = torch.from_numpy(np.array(test.labels)).to(device)
    present = len(np.union1d(labels, np.array(test.labels)))
    layer = whole.projection
    zero = layer.weight.new_zeros(())
    classifier = Classifier(layer.weight.detach(), layer.bias.detach(), zero, zero + 1)
    found = {"labelled_images": len(rows), "batch": batch, "learning_rate": rate, "steps": steps}
    result = result_of(logits(test.images), y_test, classes_present=present, classifier=classifier, found=found)
    if rows_held_out is None:
        return Tuned(result, None)
    held = rows_held_out[1]
    right = logits(train.images[held]).argmax(dim=1).cpu().numpy() == labels[held]
    return Tuned(result, 100 * float(right.mean()))


def _steps(
    whole: _Whole,
    images: torch.Tensor,
    y: torch.Tensor,
    batches: Iterator[torch.Tensor],
    *,
    rate: float,
    steps: int,
    seed: int,
    input_size: int | None,
) -> Iterator[tuple[int, float]]:
    """Train ``whole`` on (N, S, S, 3) uint8 ``images``; yields steps and loss every `_LOG_SECONDS` and at the end."""
    whole.train().requires_grad_()
    device = whole.projection.weight.device
    optimizer = torch.optim.SGD(whole.parameters(), lr=rate, momentum=_MOMENTUM, nesterov=True)
    told = time.monotonic()
    for step, chosen in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        uniform = torch.from_numpy(draw(len(chosen), seed=seed, step=step, domain=_DOMAIN)[0]).to(device)
        views = Views.of(uniform, images.shape[1], _VIEWS)
        views = replace(views, gray=torch.zeros_like(views.gray))
        batch = resized(augment(images[chosen].to(device), views, np.arange(4)), input_size)
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            loss = F.cross_entropy(whole(batch), y[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()
        if step + 1 == steps or time.monotonic() - told > _LOG_SECONDS:
            told = time.monotonic()
            yield step + 1, float(loss.detach())


def labelled_rows(
    dataset: Dataset, config: ProbeConfig, rows_held_out: tuple[np.ndarray, np.ndarray] | None, seed: int
) -> np.ndarray:
    """The training images whose labels are used: as many as the fraction of all, at least one of each class, as
    balanced as the classes allow. If fewer are not held out, all of these are used."""
    labels = np.array(dataset.split("train").labels)
    pool = np.sort(rows_held_out[0]) if rows_held_out else np.arange(len(labels))
    (fraction,) = config.probe_fraction
    count = max(round(fraction * len(labels)), len(np.unique(labels[pool])))
    return pool[sample_rows(dataset.name, "train", labels[pool], count, seed=seed)]


def _batches(count: int, batch: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    """Whole batches, because batch-norm cannot take the statistics of a single image."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count // batch * batch].split(batch)
