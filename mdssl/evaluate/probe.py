"""Linear probes: how well one linear layer on frozen features tells the classes apart.

A fit never sees the test part: it is not among its arguments. The test labels meet the predictions once, in `_score`.
A new probe is a fit, and one entry in `PROBES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from mdssl.errors import InputError, check_number
from mdssl.evaluate.features import check_finite
from mdssl.run_config import ProbeConfig

LBFGS_MAX_ITERATIONS = 2000
"""Above what a penalised fit needs (80 to 1000 on images); reached only with ``l2`` near 0, and then said."""

_GRADIENT_TOLERANCE = 1e-4
"""Largest entry of the gradient at the optimum. Float32 gets little below; accuracy no longer changes."""

_CONSTANT_BELOW = 1e-6
"""A feature whose standard deviation is a smaller share of its mean is float32 rounding noise and stays unscaled."""


@dataclass(frozen=True)
class Classifier:
    """A fitted linear layer: logits = ((x - shift) / scale) Wᵀ + b.

    Attributes:
        weight: (num_classes, width).
        bias: (num_classes,).
        shift, scale: (width,) of the training part where the fit standardises; 0 and 1 where it takes raw features.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width) features to (N, num_classes) scores."""
        return F.linear((x - self.shift) / self.scale, self.weight, self.bias)


@dataclass(frozen=True)
class ProbeResult:
    """A probe's score on the test part, at the end of its training.

    Attributes:
        top1: percent of test images whose class has the largest logit.
        top5: percent whose class is among the five largest; None with five classes or fewer, where it says nothing.
        predictions: (N_test,) int64 predicted classes.
        classifier: what was fitted.
    """

    top1: float
    top5: float | None
    predictions: torch.Tensor
    classifier: Classifier


def sgd_probe(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    learning_rate: float = ProbeConfig.probe_learning_rate[0],
    epochs: int = ProbeConfig.probe_epochs,
    batch_size: int = ProbeConfig.probe_batch,
    seed: int = 0,
) -> ProbeResult:
    """`sgd_probes` at one learning rate."""
    parts = (train_x, train_y, test_x, test_y, num_classes)
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    return sgd_probes(*parts, learning_rates=[learning_rate], **settings)[0]


def sgd_probes(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    learning_rates: Sequence[float],
    epochs: int = ProbeConfig.probe_epochs,
    batch_size: int = ProbeConfig.probe_batch,
    seed: int = 0,
) -> list[ProbeResult]:
    """The paper's linear evaluation (section 3.1, tables 6 and 7): one linear layer, plain SGD, raw features.

    All ``learning_rates`` are fitted side by side on the same batches, which takes little longer than one. Each result
    is that of its rate alone up to rounding, which only rates too large to converge make visible.

    No momentum, weight decay or schedule; the score is that at the end, never the best on the way. Table 7 also says
    30,000 iterations; 100 epochs of CIFAR-10 in batches of 1024 are 4,900, and epochs decide here. The last batch of an
    epoch is as small as it comes.

    Args:
        train_x, test_x: (N, width) float32 features on one device.
        train_y, test_y: (N,) int64 classes in [0, num_classes), on that device.
        num_classes: classes of the dataset, those absent from a part included.
        seed: of the order of the batches, the same on every device.

    Returns:
        A result for each of ``learning_rates``.

    Raises:
        ValueError: parts that do not fit together, or features or fitted weights that are not finite.
    """
    check_parts(train_x, train_y, test_x, test_y, num_classes)
    classifiers = _fit_sgd(train_x, train_y, num_classes, learning_rates, epochs, batch_size, seed)
    return [_score(classifier, test_x, test_y) for classifier in classifiers]


def lbfgs_probe(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    l2: float = ProbeConfig.probe_l2,
) -> ProbeResult:
    """Multinomial logistic regression on standardised features, solved to convergence.

    Minimises mean cross-entropy + l2/2 ‖W‖² (b is free), which is scikit-learn's C = 1 / (l2 N). The optimum is unique:
    there is no learning rate, order of batches or seed for a score to depend on.

    Measured on held-out parts of the training splits of four image datasets (3,500 to 16,000 images, untrained and
    patch features): at 1e-2 accuracy was within 2 points of each one's best penalty, at 1e-3 within 4 and best with the
    most images, at 1e-5 up to 8 below, in several times as many iterations.

    Args:
        train_x, train_y, test_x, test_y, num_classes: as for `sgd_probes`.
        l2: weight of the penalty, per sample, so that it means the same for small and large datasets.

    Raises:
        ValueError: parts that do not fit together, a negative ``l2``, or features that are not finite.
    """
    check_parts(train_x, train_y, test_x, test_y, num_classes)
    check_number("probe_l2", l2, low=0)
    return _score(_fit_lbfgs(train_x, train_y, num_classes, l2), test_x, test_y)


PROBES: dict[str, Callable[..., list[ProbeResult]]] = {
    "lbfgs": lambda *parts, config, seed: [lbfgs_probe(*parts, l2=config.probe_l2)],
    "sgd": lambda *parts, config, seed: sgd_probes(
        *parts,
        learning_rates=config.probe_learning_rate,
        epochs=config.probe_epochs,
        batch_size=config.probe_batch,
        seed=seed,
    ),
}
"""``ProbeConfig.probe`` to ``(train_x, train_y, test_x, test_y, num_classes, *, config, seed) -> list of
ProbeResult``, one for each of ``config.each()``."""


def run_probes(
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    test_x: torch.Tensor,
    test_y: torch.Tensor,
    num_classes: int,
    *,
    config: ProbeConfig,
    seed: int = 0,
) -> list[ProbeResult]:
    """A result for each of ``config.each()``; arguments and errors as for `sgd_probes`."""
    return PROBES[config.probe](train_x, train_y, test_x, test_y, num_classes, config=config, seed=seed)


def check_parts(
    train_x: torch.Tensor, train_y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor, num_classes: int
) -> None:
    """Raise ``ValueError`` unless both parts hold finite features of one width and a valid class for each row."""
    for part, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or len(x) == 0 or y.shape != x.shape[:1]:
            raise InputError(
                f"the {part} part has features {tuple(x.shape)} and labels {tuple(y.shape)}; "
                "it needs (N, width) and (N,) with at least one row."
            )
        check_finite(f"{part} features", x)
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= num_classes:
            raise InputError(
                f"the {part} part has labels from {low} to {high}; with {num_classes} classes they must be from 0 to "
                f"{num_classes - 1}. Prepare the dataset again with all of its classes."
            )
    if train_x.shape[1] != test_x.shape[1]:
        raise InputError(
            f"training features are {train_x.shape[1]} wide, test features {test_x.shape[1]}; take both from one layer "
            "of one encoder."
        )


def _fit_sgd(
    x: torch.Tensor,
    y: torch.Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[Classifier]:
    # The problem is convex: a random start would add noise between trials, and nothing else.
    weight = x.new_zeros(len(learning_rates) * num_classes, x.shape[1])
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
            logits = torch.addmm(bias, features, weight.T).view(len(batch), len(learning_rates), num_classes)
            # The gradient of mean cross-entropy by the logits is (softmax - one-hot) / B.
            error = logits.softmax(dim=2)
            error[rows[: len(batch)], :, y[batch]] -= 1
            # Denormal numbers, which sure predictions leave, would make the product below four times as slow.
            step = F.hardshrink(error, 1e-20).mul_(rates / -len(batch)).flatten(1)
            weight.addmm_(step.T, features)
            bias.add_(step.sum(dim=0))
    weights, biases = weight.split(num_classes), bias.split(num_classes)
    for rate, weight in zip(learning_rates, weights, strict=True):
        if not torch.isfinite(weight).all():
            raise InputError(
                f"the sgd probe diverged at learning rate {rate:g}; give a smaller one, or use the lbfgs probe, which "
                "has none."
            )
    nothing = {"shift": x.new_zeros(()), "scale": x.new_ones(())}
    return [Classifier(weight, bias, **nothing) for weight, bias in zip(weights, biases, strict=True)]


def _fit_lbfgs(x: torch.Tensor, y: torch.Tensor, num_classes: int, l2: float) -> Classifier:
    scale, shift = torch.std_mean(x, dim=0, correction=0)
    scale = torch.where(scale > _CONSTANT_BELOW * shift.abs(), scale, 1)
    x = (x - shift) / scale
    weight = x.new_zeros(num_classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=LBFGS_MAX_ITERATIONS,
        max_eval=2 * LBFGS_MAX_ITERATIONS,
        history_size=10,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    if optimizer.state[weight]["n_iter"] >= LBFGS_MAX_ITERATIONS:
        warnings.warn(
            f"the lbfgs probe stopped after {LBFGS_MAX_ITERATIONS} iterations, short of its optimum, at probe_l2 "
            f"{l2:g}; raise probe_l2.",
            stacklevel=3,
        )
    return Classifier(weight.detach(), bias.detach(), shift, scale)


def _score(classifier: Classifier, test_x: torch.Tensor, test_y: torch.Tensor) -> ProbeResult:
    logits = classifier.logits(test_x)
    predictions = logits.argmax(dim=1)
    top5 = None
    if logits.shape[1] > 5:
        top5 = _percent((logits.topk(5, dim=1).indices == test_y[:, None]).any(dim=1))
    return ProbeResult(_percent(predictions == test_y), top5, predictions, classifier)


def _percent(correct: torch.Tensor) -> float:
    return 100 * int(correct.sum()) / len(correct)
