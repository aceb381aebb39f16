"""Linear probes by plain SGD: on standardised features at rates that are stable, and the paper's on raw features.

A gradient step on a convex loss of curvature L is a contraction, or at least no expansion, at rates up to 2 / L: then
rounding errors do not grow, and one encoder has one score. Of raw features of norm 38, as a ResNet-18 gives them, L is
in the hundreds, and the paper's rate of 0.1 is far above that limit: the order of sums decides by points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from mdssl.config.run import MAX_STABLE_RATE
from mdssl.errors import InputError
from mdssl.evaluate.classifier import (
    Classifier,
    ProbeResult,
    check_parts,
    classes_present,
    percent,
    score,
    standardisation,
)

RATES = (MAX_STABLE_RATE, 0.8, 0.25)
"""Among which the sgd probe chooses."""
HELD_OUT = 0.15
"""Share of the training images of each class on which it does."""
UNSTABLE_ABOVE = 0.2
"""Points of top-1 by which two orders of summation may differ before a score of the raw form is marked unstable."""

_CURVATURE_ROWS = 4096
_POWER_ITERATIONS = 30


def sgd_probe(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    learning_rate: float | None = None,
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> ProbeResult:
    """`sgd_probes` at one learning rate, or at the one that it chooses."""
    parts = (train_x, train_y, test_x, test_y, num_classes)
    rates = () if learning_rate is None else (learning_rate,)
    return sgd_probes(*parts, learning_rates=rates, epochs=epochs, batch_size=batch_size, seed=seed)[0]


def sgd_probes(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    learning_rates: Sequence[float] = (),
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> list[ProbeResult]:
    """One linear layer by plain SGD on standardised features, in float64.

    Features are standardised, then divided by the root of their `curvature`, so that learning rates up to
    `mdssl.config.run.MAX_STABLE_RATE` are stable whatever the features. An incomplete batch takes a step that is
    smaller in proportion. No momentum, weight decay or schedule; the score is that at the end, never the best on the
    way. All ``learning_rates`` are fitted side by side on the same batches, which takes little longer than one; each
    result is that of its rate alone.

    Without ``learning_rates``, one of `RATES` is chosen by the accuracy on `HELD_OUT` of the training images of each
    class, the largest of several that are as good, and the layer is fitted to all of them at that rate. ``found`` says
    which rate it was.

    Args:
        train_x, test_x: (N, width) float32 features on one device.
        train_y, test_y: (N,) int64 classes in [0, num_classes), on that device.
        num_classes: classes of the dataset, those absent from a part included.
        seed: of the order of the batches and of the images that are held out, the same on every device.

    Returns:
        A result for each of ``learning_rates``, or one.

    Raises:
        ValueError: parts that do not fit together, or features that are not finite.
    """
    check_parts(train_x, train_y, test_x, test_y, num_classes)
    found = {}
    shift, scale = standardisation(train_x)
    x = (train_x.double() - shift) / scale
    flatness = curvature(x, batch_size) ** 0.5
    x /= flatness
    settings = (num_classes, epochs, batch_size, seed)
    if not learning_rates:
        found = _choice(x, train_y, settings)
        learning_rates = (found["chosen_learning_rate"],)
    present = classes_present(train_y, test_y)
    return [
        score(Classifier(weight, bias, shift, scale * flatness), test_x, test_y, present, found)
        for weight, bias in _fit(x, train_y, learning_rates, settings, of_whole_batch=True)
    ]


def raw_sgd_probes(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    learning_rates: Sequence[float] = (0.1,),
    epochs: int = 100,
    batch_size: int = 1024,
    seed: int = 0,
) -> list[ProbeResult]:
    """The paper's linear evaluation (section 3.1, tables 6 and 7): one linear layer, plain SGD, raw features, float32.

    Table 7 also says 30,000 iterations; 100 epochs of CIFAR-10 in batches of 1024 are 4,900, and epochs decide here.
    The last batch of an epoch is as small as it comes. Each layer is fitted once more with the features in reverse
    order, which changes nothing but the order of sums. Where top-1 then differs by more than `UNSTABLE_ABOVE` points
    and more than one image, ``found`` has ``unstable`` and the other score, ``top1_in_other_order``.

    Args:
        train_x, train_y, test_x, test_y, num_classes, seed: as for `sgd_probes`.

    Returns:
        A result for each of ``learning_rates``.

    Raises:
        ValueError: parts that do not fit together, features that are not finite, or weights that are not.
    """
    check_parts(train_x, train_y, test_x, test_y, num_classes)
    settings = (num_classes, epochs, batch_size, seed)
    first, again = (
        _raw_scores(train, train_y, test, test_y, learning_rates, settings)
        for train, test in ((train_x, test_x), (train_x.flip(1), test_x.flip(1)))
    )
    least = max(UNSTABLE_ABOVE, 100.1 / len(test_y))
    return [
        replace(result, found={"unstable": True, "top1_in_other_order": other.top1})
        if abs(result.top1 - other.top1) > least
        else result
        for result, other in zip(first, again, strict=True)
    ]


def curvature(x: torch.Tensor, batch_size: int) -> float:
    """About the largest eigenvalue of a batch's second moments, at least 1, of (N, width) standardised features.

    It is that of the training images, by power iteration on `_CURVATURE_ROWS` of them, and the largest squared norm of
    a row over the batch size, for the batch that has such a row. Mean cross-entropy is curved half as much at most.
    Of the steepest of 40 batches of 16 to 1,024 images, in untrained and trained ResNet-18 features of three image
    datasets, the eigenvalue was 0.3 to 1.1 times this; of digits with few, strongly correlated features up to 1.44.
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
    """(N,) bool: the images to choose a learning rate on, `HELD_OUT` of each class, drawn by ``seed``; none of a class
    with three images or fewer."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
    by_class = order[torch.argsort(y[order], stable=True)]
    sizes = torch.bincount(y)
    starts = (sizes.cumsum(0) - sizes)[y[by_class]]
    rank = torch.arange(len(y), device=y.device) - starts
    held = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    held[by_class] = rank < (HELD_OUT * sizes[y[by_class]]).round()
    return held


def _choice(x: torch.Tensor, y: torch.Tensor, settings: tuple) -> dict[str, float]:
    held = held_out(y, settings[-1])
    count = int(held.sum())
    if not count:
        return {"chosen_learning_rate": RATES[1], "held_out_images": 0}
    # Half the time of float64; a stable fit differs by 1e-5, and the score is of another one.
    fits = _fit(x[~held].float(), y[~held], RATES, settings, of_whole_batch=True)
    rows = x[held].float()
    accuracies = [percent(torch.addmm(bias, rows, weight.T).argmax(dim=1) == y[held]) for weight, bias in fits]
    best = max(accuracies)
    chosen = RATES[accuracies.index(best)]
    return {"chosen_learning_rate": chosen, "held_out_images": count, "held_out_top1": best}


def _raw_scores(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    learning_rates: Sequence[float],
    settings: tuple,
) -> list[ProbeResult]:
    fits = _fit(train_x, train_y, learning_rates, settings, of_whole_batch=False)
    for rate, (weight, _) in zip(learning_rates, fits, strict=True):
        if not torch.isfinite(weight).all():
            raise InputError(
                f"the sgd-raw probe diverged at learning rate {rate:g}; give a smaller one, or use the sgd probe, "
                "whose rates are stable."
            )
    present = classes_present(train_y, test_y)
    nothing = (train_x.new_zeros(()), train_x.new_ones(()))
    return [score(Classifier(weight, bias, *nothing), test_x, test_y, present) for weight, bias in fits]


def _fit(
    x: torch.Tensor, y: torch.Tensor, learning_rates: Sequence[float], settings: tuple, *, of_whole_batch: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights, (num_classes, width), and biases by plain SGD, for each learning rate, in the type of ``x``.

    Args:
        settings: num_classes, epochs, batch_size, seed.
        of_whole_batch: whether the gradients of an incomplete batch are divided by ``batch_size`` as well.
    """
    num_classes, epochs, batch_size, seed = settings
    many = len(learning_rates)
    # The problem is convex: a random start would add noise between trials, and nothing else.
    weight = x.new_zeros(many * num_classes, x.shape[1])
    bias = x.new_zeros(len(weight))
    rates = x.new_tensor(learning_rates)[:, None]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(batch_size, device=x.device)
    # A batch of features is megabytes: filled anew each time, where a tensor of its own would first be mapped.
    buffer = x.new_empty(batch_size, x.shape[1])
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for batch in order.split(batch_size):
            features = torch.index_select(x, 0, batch, out=buffer[: len(batch)])
            logits = torch.addmm(bias, features, weight.T).view(len(batch), many, num_classes)
            # The gradient of mean cross-entropy by the logits is (softmax - one-hot) / B.
            error = logits.softmax(dim=2)
            error[rows[: len(batch)], :, y[batch]] -= 1
            # Denormal numbers, which sure predictions leave, would make the product below four times as slow.
            step = F.hardshrink(error, 1e-20).mul_(rates / -(batch_size if of_whole_batch else len(batch))).flatten(1)
            weight.addmm_(step.T, features)
            bias.add_(step.sum(dim=0))
    return list(zip(weight.split(num_classes), bias.split(num_classes), strict=True))
