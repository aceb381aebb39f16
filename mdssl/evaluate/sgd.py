"""Linear probes by plain SGD: on standardized features at stable learning rates, and the paper's on raw features.

A gradient step on a convex loss of curvature L does not expand at learning rates up to 2 / L, so rounding errors do not
grow, and an encoder has one score on every CPU. Raw features of norm 38, as a ResNet-18 gives them, have an L in the
hundreds. The paper's rate of 0.1 is far above that limit, and the order of sums changes top-1 by points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from mdssl.config.probe import MAX_STABLE_RATE
from mdssl.errors import InputError
from mdssl.evaluate.classifier import Classifier, Parts, ProbeResult, percent, score, standardization

RATES = (MAX_STABLE_RATE, 0.8, 0.25)
"""Learning rates that the sgd probe compares."""
HELD_OUT = 0.15
"""Share of the training images of each class on which the candidates are compared."""
UNSTABLE_ABOVE = 0.2
"""Difference of top-1 between two orders of summation above which a raw score is marked unstable."""

_CURVATURE_ROWS = 4096
_POWER_ITERATIONS = 30


def sgd_probes(
    parts: Parts,
    *,
    learning_rates: Sequence[float] = (),
    epochs: int = 100,
    iterations: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> list[ProbeResult]:
    """One linear layer by plain SGD on standardized features, in float64.

    Features are standardized and divided by the root of their `curvature`, so that learning rates up to
    `mdssl.config.probe.MAX_STABLE_RATE` are stable. The gradients of an incomplete batch are divided by ``batch_size``
    too. No momentum, weight decay or schedule; the score is that at the end. Several learning rates are fitted together
    on the same batches.

    Without ``learning_rates``, the most accurate of `RATES` on `HELD_OUT` of the training images of each class is
    chosen, the largest of equally accurate ones, and the layer is fitted to all of them at that rate. ``found`` in the
    result names it.

    Args:
        iterations: steps, in place of ``epochs``.
        seed: of the order of the batches and of the choice of held-out images; the same on every device.

    Returns:
        A result for each of ``learning_rates``, or one.

    Raises:
        ValueError: parts that do not match, or features that are not finite.
    """
    parts.check()
    settings = {"num_classes": parts.num_classes, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    settings |= {} if iterations is None else {"iterations": iterations}
    found = {}
    shift, scale = standardization(parts.train_x)
    x = (parts.train_x.double() - shift) / scale
    flatness = curvature(x, batch_size) ** 0.5
    x /= flatness
    if not learning_rates:
        found = _chosen_rate(x, parts.train_y, settings)
        learning_rates = (found["chosen_learning_rate"],)
    fits = fit_sgd(x, parts.train_y, learning_rates, **settings, whole_batch=True)
    return [score(Classifier(weight, bias, shift, scale * flatness), parts, found) for weight, bias in fits]


def raw_sgd_probes(
    parts: Parts,
    *,
    learning_rates: Sequence[float] = (0.1,),
    epochs: int = 100,
    iterations: int | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> list[ProbeResult]:
    """Run the paper's linear evaluation (section 3.1, tables 6 and 7): one linear layer, SGD, raw float32 features.

    The last batch of an epoch may be smaller. Table 7 also says 30,000 iterations, where 100 epochs of CIFAR-10 have
    4,900: with ``iterations`` they count in place of ``epochs``. Each layer is fitted again with the features in
    reverse order, which only changes the order of sums. If top-1 then differs by more than `UNSTABLE_ABOVE` points and
    more than one image, ``found`` has ``unstable`` and the other score, ``top1_in_other_order``.

    Returns:
        A result for each of ``learning_rates``.

    Raises:
        ValueError: parts that do not match, or features or fitted weights that are not finite.
    """
    parts.check()
    settings = {"num_classes": parts.num_classes, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    settings |= {} if iterations is None else {"iterations": iterations}

    def fitted(parts: Parts) -> list[ProbeResult]:
        fits = fit_sgd(parts.train_x, parts.train_y, learning_rates, **settings, whole_batch=False)
        for rate, (weight, _) in zip(learning_rates, fits, strict=True):
            if not torch.isfinite(weight).all():
                raise InputError(
                    f"the sgd-raw probe diverged at learning rate {rate:g}; give a smaller one, or use the sgd probe, "
                    "which has stable rates."
                )
        unscaled = (parts.train_x.new_zeros(()), parts.train_x.new_ones(()))
        return [score(Classifier(weight, bias, *unscaled), parts) for weight, bias in fits]

    reversed_parts = parts._replace(train_x=parts.train_x.flip(1), test_x=parts.test_x.flip(1))
    least = max(UNSTABLE_ABOVE, 100.1 / len(parts.test_y))
    return [
        replace(result, found={"unstable": True, "top1_in_other_order": other.top1})
        if abs(result.top1 - other.top1) > least
        else result
        for result, other in zip(fitted(parts), fitted(reversed_parts), strict=True)
    ]


def curvature(x: torch.Tensor, batch_size: int) -> float:
    """Estimate the largest eigenvalue of a batch's second moments, at least 1, for (N, width) features.

    It is the sum of the eigenvalue of all training images, by power iteration on `_CURVATURE_ROWS` of them, and of the
    largest squared norm of a row over the batch size. The curvature of mean cross-entropy is at most half of that.
    Measured for the steepest of 40 batches of 16 to 1,024 images: the eigenvalue was 0.3 to 1.1 times the estimate on
    ResNet-18 features of three image datasets, and up to 1.44 times on digits.
    """
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
    some = x[order[:_CURVATURE_ROWS]]
    vector = torch.randn(x.shape[1], dtype=x.dtype, generator=torch.Generator().manual_seed(0)).to(x.device)
    largest = 0.0
    for _ in range(_POWER_ITERATIONS):
        vector = some.T @ (some @ F.normalize(vector, dim=0)) / len(some)
        largest = float(vector.norm())
    return max(largest, 1.0) + float(x.square().sum(dim=1).max()) / batch_size


def held_out(y: torch.Tensor, seed: int) -> torch.Tensor:
    """(N,) bool: `HELD_OUT` of the images of each class, drawn by ``seed``; none of a class with three or fewer."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    by_class = order[torch.argsort(y[order], stable=True)]
    sizes = torch.bincount(y)
    starts = (sizes.cumsum(0) - sizes)[y[by_class]]
    rank = torch.arange(len(y), device=y.device) - starts
    held = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    held[by_class] = rank < (HELD_OUT * sizes[y[by_class]]).round()
    return held


def _chosen_rate(x: torch.Tensor, y: torch.Tensor, settings: dict[str, int]) -> dict[str, float]:
    held = held_out(y, settings["seed"])
    count = int(held.sum())
    if not count:
        return {"chosen_learning_rate": RATES[1], "held_out_images": 0}
    # float32 takes half the time; a stable fit differs by 1e-5, and the reported score comes from the float64 fit.
    fits = fit_sgd(x[~held].float(), y[~held], RATES, **settings, whole_batch=True)
    rows = x[held].float()
    accuracies = [percent(torch.addmm(bias, rows, weight.T).argmax(dim=1) == y[held]) for weight, bias in fits]
    best = max(accuracies)
    chosen = RATES[accuracies.index(best)]
    return {"chosen_learning_rate": chosen, "held_out_images": count, "held_out_top1": best}


def fit_sgd(
    x: torch.Tensor,
    y: torch.Tensor,
    learning_rates: Sequence[float],
    *,
    num_classes: int,
    epochs: int,
    iterations: int | None = None,
    batch_size: int,
    seed: int,
    whole_batch: bool,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(num_classes, width) weights and biases for each learning rate, in the type of ``x``.

    ``iterations`` are steps, in place of ``epochs``. With ``whole_batch``, the gradients of an incomplete batch are
    divided by ``batch_size``, not by its own size.
    """
    left = epochs * -(-len(x) // batch_size) if iterations is None else iterations
    many = len(learning_rates)
    # From zero: the problem is convex, and a random start would only add noise.
    weight = x.new_zeros(many * num_classes, x.shape[1])
    bias = x.new_zeros(len(weight))
    rates = x.new_tensor(learning_rates)[:, None]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(batch_size, device=x.device)
    # Reused, because allocating megabytes for each batch takes longer than filling them.
    buffer = x.new_empty(batch_size, x.shape[1])
    while left:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for batch in order.split(batch_size)[:left]:
            left -= 1
            features = torch.index_select(x, 0, batch, out=buffer[: len(batch)])
            logits = torch.addmm(bias, features, weight.T).view(len(batch), many, num_classes)
            # The gradient of mean cross-entropy by the logits is (softmax - one-hot) / B.
            error = logits.softmax(dim=2)
            error[rows[: len(batch)], :, y[batch]] -= 1
            # Denormal numbers, from confident predictions, would make the product below four times as slow.
            step = F.hardshrink(error, 1e-20).mul_(rates / -(batch_size if whole_batch else len(batch))).flatten(1)
            weight.addmm_(step.T, features)
            bias.add_(step.sum(dim=0))
    return list(zip(weight.split(num_classes), bias.split(num_classes), strict=True))
